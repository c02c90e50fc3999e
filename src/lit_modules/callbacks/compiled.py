"""`compile=true`: torch.compile for the network's part of a training step."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.batch import Batch
from lit_modules.settings import ConfigError

log = logging.getLogger(__name__)

_MOST_KINDS = 1000
"""Of inputs that a part is compiled for; beyond torch's limit of 8 it would go on uncompiled, with other rounding."""


class Compiled(pl.Callback):
    """Each part of the network (trunk, pyramid, heads) is compiled for the forward pass of training steps.

    All else runs as it is: validation, pictures, timing, so that `evaluate.py` finds a run's own numbers. Each size of
    images is compiled for itself, whatever came before it, so that a resumed run goes on with the same kernels and the
    same bits. Losses and targets stay uncompiled, as they are in the paper's file.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self._forwards: list[tuple[nn.Module, Any]] = []
        self._shapes: set[torch.Size] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.compiler.config.recompile_limit = _MOST_KINDS
        torch.compiler.config.accumulated_recompile_limit = 16 * _MOST_KINDS
        network: Any = pl_module.network
        self._forwards = [
            (part, torch.compile(part.forward, dynamic=False, backend=self.backend)) for part in network.children()
        ]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        shape = batch.images.shape
        if shape not in self._shapes:
            self._shapes.add(shape)
            log.info(
                "compiling for batches of %d x %d x %d (kind %d of this run)", shape[0], *shape[2:], len(self._shapes)
            )
        for part, forward in self._forwards:
            part.forward = forward

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self._as_it_was()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._as_it_was()

    def _as_it_was(self) -> None:
        for part, _ in self._forwards:
            part.__dict__.pop("forward", None)


def _next(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def check_compiler(device: torch.device) -> None:
    """Raises ConfigError where torch.compile finds no compiler: at the first step that would take a page to say."""
    try:
        torch.compile(_next, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        raise ConfigError(
            f"compile=true: torch.compile does not work for {device.type} here ({reason}); it needs a C++ compiler, "
            "and Triton on a GPU; leave compile=true out to train without it"
        ) from error
