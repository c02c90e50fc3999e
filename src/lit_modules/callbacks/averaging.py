"""An exponential moving average of the weights, for evaluation and checkpoints."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Averaging(WeightAveraging):
    """average <- d x average + (1 - d) x weights after each step, d = min(decay, (1 + n) / (10 + n)) at update n.

    The ramp lets short runs profit too (TensorFlow's ExponentialMovingAverage has it). Buffers are the current
    ones: an average of BatchNorm's own averages would lag twice. `decay: null` switches all of this off.
    """

    def __init__(self, decay: float | None = None) -> None:
        self.decay = decay

        def average(averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
            n = int(count)
            torch._foreach_lerp_(averages, weights, 1 - min(decay or 0.0, (1 + n) / (10 + n)))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.decay is not None:
            super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return self.decay is not None and step_idx is not None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.decay is not None:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.decay is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.decay is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
