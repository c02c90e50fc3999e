"""Trains detectors on data with Lightning: steps, logging, optimizers, schedules, checkpoints, callbacks."""
