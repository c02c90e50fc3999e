"""Checkpoints: read, trusted, started from, used as a detector."""
