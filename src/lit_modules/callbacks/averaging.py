"""An exponential moving average of the weights, for evaluation and checkpoints."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """average <- d x average + (1 - d) x weights after each step, d = min(decay, (1 + n) / (10 + n)) at update n.

    The ramp lets short runs profit too (TensorFlow's ExponentialMovingAverage has it). Buffers are the current
    ones: an average of BatchNorm's own averages would lag twice. The count of updates stays on the host, where it can
    be read without waiting for the device.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device)
        self.n_averaged = self.n_averaged.cpu()
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        n = int(self.n_averaged)
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        d = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(averages, weights, 1 - d)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        for mine, other in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(other, non_blocking=True)
        self.n_averaged += 1


class Averaging(WeightAveraging):
    """Keeps an `Average` beside the weights, on their device; `decay: null` switches all of it off."""

    def __init__(self, decay: float | None = None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"callbacks.averaging.decay={decay}: expected 0 or more and less than 1, or null")
        self.decay = decay
        super().__init__(use_buffers=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes the average on the device, to which the module itself is moved only later."""
        if self.decay is not None and stage == "fit":
            self._average_model = Average(pl_module, trainer.strategy.root_device, self.decay)

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


def averages(trainer: pl.Trainer) -> bool:
    """Whether a run keeps an average of its weights, by this callback or one of Lightning's."""
    callbacks: list[pl.Callback] = cast(Any, trainer).callbacks
    return any(
        isinstance(callback, WeightAveraging) and not (isinstance(callback, Averaging) and callback.decay is None)
        for callback in callbacks
    )
