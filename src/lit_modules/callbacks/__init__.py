"""Callbacks around the steps: checkpoints, averaged weights, the log, pictures."""
