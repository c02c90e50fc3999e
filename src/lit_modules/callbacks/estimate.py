"""How long the rest of a training will take, from its first steps."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from lit_modules.data import data_of

STEPS = 10
"""Steps of a process that its estimate is made of."""
_FORWARD = 1 / 3  # of an image's training step: a backward pass takes twice the time of its forward pass


@dataclass(frozen=True)
class Rest:
    """What is left of a training."""

    steps: int
    """Optimizer steps."""
    images_per_step: float
    """Images of one of them, on all devices."""
    validations: int
    val_images: float
    """Images of one validation."""
    time_limit: float = math.inf
    """Seconds until `trainer.max_time` ends it."""

    def seconds(self, step_times: Sequence[float]) -> float:
        """Estimates its seconds. The median leaves out what only the first steps cost: workers, memory, compilation."""
        step = statistics.median(step_times)
        return step * (self.steps + self.validations * self.val_images / self.images_per_step * _FORWARD)

    def told(self, step_times: Sequence[float]) -> str:
        """Says it in a line for the log."""
        seconds = self.seconds(step_times)
        what = f"{_number(self.steps, 'step')} of {statistics.median(step_times):.2f} s"
        if self.validations:
            what += f" (the median of the first {len(step_times)}) and {_number(self.validations, 'validation')}"
        line = f"about {spoken(seconds)} to go: {what}"
        if self.time_limit < seconds:
            line += f", but for trainer.max_time, which ends it in {spoken(self.time_limit)}"
        return line


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def spoken(seconds: float) -> str:
    """Writes a duration in two units at most: 40 s, 8 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    hours = round(seconds / 3600)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def rest(trainer: pl.Trainer, images_per_step: float) -> Rest:
    """Looks up what is left after the step that has just ended."""
    total, limit = int(trainer.estimated_stepping_batches), cast(Any, trainer).limit_val_batches
    validations, val_images = 0, len(data_of(trainer).truth("val").image_ids) if limit else 0
    if limit:
        is_number = isinstance(limit, int)  # of batches; else a share of them
        val_images = min(val_images, limit * data_of(trainer).eval_batch_size) if is_number else limit * val_images
        # One is due each `val_check_batch` batches, and one after the last step; that of this step has yet to run.
        every = cast(Any, trainer).val_check_batch / trainer.accumulate_grad_batches
        validations = math.ceil(total / every) - int((trainer.global_step - 1) // every)
    timers = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Timer)]
    left = [seconds for timer in timers if (seconds := timer.time_remaining()) is not None]
    return Rest(total - trainer.global_step, images_per_step, validations, val_images, min(left, default=math.inf))
