"""Early stopping, in the state of checkpoints, by the metric that they monitor."""

import logging
import math
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping

from lit_modules.callbacks.checkpoints import Checkpoints

log = logging.getLogger(__name__)


class EarlyStopping(LightningEarlyStopping):
    """Ends the run after `patience` validations in a row without a better `callbacks.checkpoints.monitor`; None: never.

    Better means by more than `min_delta`, in the metric's own unit (AP is a fraction of 1). Checkpoints store the
    count, so that a resumed run ends where it would have ended. To continue a run that was stopped, resume it with a
    larger patience.
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"callbacks.early_stopping.patience={patience}: expected 1 or more validations, or null")
        self.is_on = patience is not None
        super().__init__("", abs(min_delta), patience or 1, mode="max", check_on_train_epoch_end=False)

    @property
    def state_key(self) -> str:
        return type(self).__name__

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not self.is_on or stage != "fit":
            return
        checkpoints = cast(Checkpoints, trainer.checkpoint_callback)
        self.monitor, self.mode = checkpoints.monitor, checkpoints.mode
        sign = 1 if self.mode == "max" else -1
        self.min_delta = sign * abs(self.min_delta)
        self.best_score = torch.tensor(-sign * math.inf)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores everything except the patience, which the config gives."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    @property
    def reason(self) -> str:
        """The reason why the run ended, or will before its next step; empty where it continues."""
        if not self.is_on or self.wait_count < self.patience:
            return ""
        times = "1 validation" if self.patience == 1 else f"{self.patience} validations"
        return f"no better {self.monitor} in {times}: callbacks.early_stopping.patience={self.patience}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops a resumed run that was killed between its last validation and its end."""
        if self.reason:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.is_on or trainer.sanity_checking or trainer.state.fn != "fit" or self.reason:
            return
        super().on_validation_end(trainer, pl_module)
        if self.reason:
            log.info("stopped after step %d: %s", trainer.global_step, self.reason)


def stopped_early(trainer: pl.Trainer) -> str:
    """Returns the reason why early stopping ended a run; empty where it did not."""
    found = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, EarlyStopping)]
    return found[0].reason if found else ""
