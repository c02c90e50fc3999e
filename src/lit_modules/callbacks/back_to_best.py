"""Goes back to the best weights of a run once, and continues from there at another rate."""

import logging
from typing import Any, cast

import pytorch_lightning as pl

from evaluation.errors import UserError
from lit_modules.callbacks.averaging import Averaging
from lit_modules.callbacks.checkpoints import Checkpoints

log = logging.getLogger(__name__)


class BackToBest(pl.Callback):
    """Takes the weights of the best checkpoint so far and multiplies every rate, before the first step after `at`.

    `at` is a number of steps, or a fraction of the run (0.714); null switches all of this off. Where the run averages,
    weights and average become those of the checkpoint. Where it averaged then and does not any more (switched off at a
    resume), the weights become the average: that is the model which was scored, and was best; the weights beside it
    were never judged. The optimizer's moments stay as they are, as in the original, which goes back after 10 of its 14
    epochs. Before any validation there is no best one, and only the rate changes.
    """

    def __init__(self, at: float | None = None, factor: float = 0.1) -> None:
        if at is not None and not (at >= 1 if isinstance(at, int) else 0 < at < 1):
            raise ValueError(
                f"callbacks.back_to_best.at={at}: expected a fraction of the run between 0 and 1, a whole number of "
                "steps, or null"
            )
        if factor <= 0:
            raise ValueError(f"callbacks.back_to_best.factor={factor}: expected more than 0; 1 keeps the rate")
        self.at, self.factor = at, factor
        self._step: int | None = None
        self._done = False

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._done = state_dict["done"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Validation and checkpoints that are due at a step are done by now; `global_step` changes only with the last of
        # accumulated micro-batches.
        if self.at is None or self._done:
            return
        if self._step is None:  # earlier, a validation that is owed may have lengthened the run (see Checkpoints)
            end = trainer.estimated_stepping_batches
            self._step = self.at if isinstance(self.at, int) else round(self.at * end)
            if self._step >= end:
                log.warning("callbacks.back_to_best.at=%s is not before the run's end at step %d", self.at, end)
        if trainer.global_step < self._step:
            return
        self._done = True
        weights = self._take_weights(trainer, pl_module)
        before, after = self._change_rate(trainer)
        log.info("step %d: %s; rate %.3g -> %.3g", trainer.global_step, weights, before, after)

    def _take_weights(self, trainer: pl.Trainer, module: pl.LightningModule) -> str:
        checkpoints = cast(Checkpoints, trainer.checkpoint_callback)
        if checkpoints.best_step < 0:
            return "no validation yet, so no best checkpoint to go back to"
        # Not best.ckpt: rank 0 may be about to change that link while another rank reads it.
        file = checkpoints.folder / f"step_{checkpoints.best_step:07d}.ckpt"
        if not file.exists():
            raise UserError(
                f"callbacks.back_to_best.at={self.at} goes back to the best checkpoint so far, but {file} is gone; "
                "restore it, or continue without it: callbacks.back_to_best.at=null"
            )
        checkpoint = trainer.strategy.load_checkpoint(file)
        module.load_state_dict(checkpoint["state_dict"])
        for callback in cast(Any, trainer).callbacks:
            if isinstance(callback, Averaging):
                callback.on_load_checkpoint(trainer, module, checkpoint)
        return f"back to the weights of {file.name} ({checkpoints.best_text}, the best so far)"

    def _change_rate(self, trainer: pl.Trainer) -> tuple[float, float]:
        """Multiplies rates, and base rates, which a schedule's state stores; returns the largest before and after."""
        groups = trainer.optimizers[0].param_groups
        before = max(group["lr"] for group in groups)
        for group in groups:
            group["lr"] *= self.factor
            group["initial_lr"] *= self.factor
        scheduler = cast(Any, trainer.lr_scheduler_configs[0].scheduler)
        scheduler.base_lrs = [base * self.factor for base in scheduler.base_lrs]
        return before, max(group["lr"] for group in groups)
