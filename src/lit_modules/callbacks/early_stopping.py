"""Early stopping, in the state of checkpoints, by the metric that they monitor."""

import logging
import math
from typing import Any, cast

import pytorch_lightning as pl

from evaluation.monitored import Score
from lit_modules.callbacks.checkpoints import Checkpoints, monitored

log = logging.getLogger(__name__)


class EarlyStopping(pl.Callback):
    """Ends the run after `patience` validations in a row without a better `callbacks.checkpoints.monitor`; None: never.

    Better is by more than `min_delta`, in the metric's own unit (AP is a fraction of 1). Where the split can't have the
    metric, what stands in for it counts, as it does for the best checkpoint. What was counted is part of a checkpoint,
    so that a resumed run ends where it would have ended. To train a run on that was ended, resume it with a larger
    patience.
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"callbacks.early_stopping.patience={patience}: expected 1 or more validations, or null")
        self.patience, self.min_delta = patience, abs(min_delta)
        self.best: Score | None = None
        self.wait_count = 0
        self._monitor = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._monitor = cast(Checkpoints, trainer.checkpoint_callback).monitor

    def state_dict(self) -> dict[str, Any]:
        name, value = self.best or (None, None)
        return {"wait_count": self.wait_count, "best_of": name, "best_score": value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores everything except the patience, which the config gives."""
        self.wait_count = state_dict["wait_count"]
        name = state_dict.get("best_of", self._monitor)  # earlier versions compared the monitored metric alone
        value: Any = state_dict["best_score"]
        self.best = None if value is None or math.isinf(value) else Score(name, float(value))

    @property
    def reason(self) -> str:
        """The reason why the run ended, or will before its next step; empty where it continues."""
        if self.patience is None or self.best is None or self.wait_count < self.patience:
            return ""
        times = "1 validation" if self.patience == 1 else f"{self.patience} validations"
        return f"no better {self.best.name} in {times}: callbacks.early_stopping.patience={self.patience}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops a resumed run that was killed between its last validation and its end."""
        if self.reason:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.patience is None or trainer.sanity_checking or trainer.state.fn != "fit" or self.reason:
            return
        watched, score = cast(Checkpoints, trainer.checkpoint_callback).watched, monitored(trainer)
        if watched.is_better(score, self.best, self.min_delta):
            self.best, self.wait_count = score, 0
        else:
            self.wait_count += 1
        if self.reason:
            trainer.should_stop = True
            log.info("stopped after step %d: %s", trainer.global_step, self.reason)


def stopped_early(trainer: pl.Trainer) -> str:
    """Returns the reason why early stopping ended a run; empty where it did not."""
    found = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, EarlyStopping)]
    return found[0].reason if found else ""
