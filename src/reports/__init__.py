"""Tables, plots, pictures and pages made of numbers."""
