"""Where detectors and data meet: steps, logging, optimizers, schedules, checkpoints, callbacks."""
