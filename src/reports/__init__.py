"""Numbers to tables, plots, pictures and pages: what is there to be looked at."""
