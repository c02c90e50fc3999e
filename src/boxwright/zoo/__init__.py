"""Published checkpoints: which there are, where their files lie, and what they are in this project."""
