"""Detectors and data meet: steps, logging, optimizers, schedules, checkpoints, callbacks."""
