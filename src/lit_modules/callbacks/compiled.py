"""Compiles the network's part of a training step with torch.compile: `compile=true`."""

import getpass
import logging
import os
import signal
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.batch import Batch

log = logging.getLogger(__name__)

_MOST_KINDS = 1000
"""Input shapes that a part is compiled for; beyond torch's limit of 8 it would run uncompiled, rounded differently."""


class Compiled(pl.Callback):
    """Compiles each part of the network (backbone, pyramid, heads) for the forward pass of training steps.

    All else runs uncompiled: validation, pictures, timing, so that `evaluate.py` finds a run's own numbers. Each size
    of batches is compiled separately, whatever came before it, and no kernel is chosen by its time, so that a resumed
    run continues with the same kernels and the same bits. Losses and targets stay uncompiled.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self._forwards: list[tuple[nn.Module, Any]] = []
        self._shapes: set[torch.Size] = set()
        self._waiting = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.compiler.config.recompile_limit = _MOST_KINDS
        torch.compiler.config.accumulated_recompile_limit = 16 * _MOST_KINDS
        network: Any = pl_module.network
        options = compile_options() if self.backend == "inductor" else None
        self._forwards = [
            (part, torch.compile(part.forward, dynamic=False, backend=self.backend, options=options))
            for part in network.children()
        ]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        shape = batch.images.shape
        if shape not in self._shapes:
            self._shapes.add(shape)
            log.info(
                "compiling for batches of %d x %d x %d (shape %d of this run)", shape[0], *shape[2:], len(self._shapes)
            )
            self._waiting.enter_context(signals_wait())
        for part, forward in self._forwards:
            part.forward = forward

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self._as_it_was()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._as_it_was()

    def _as_it_was(self) -> None:
        for part, _ in self._forwards:
            part.__dict__.pop("forward", None)
        self._waiting.close()


def _keep_caches_apart() -> None:
    """Gives each instruction set a kernel cache of its own, unless the user has chosen a folder.

    torch 2.15 has one cache in the system's temporary folder, and loads kernels from it that a run under another
    instruction set (on another node that shares the folder, or by ONEDNN_MAX_CPU_ISA) has compiled. That was seen to
    corrupt the memory of a run.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    name = "-".join(filter(None, ("boxwright", getpass.getuser(), torch.backends.cpu.get_cpu_capability(), limit)))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"{name}-inductor")))


def compile_options() -> dict[str, Any]:
    """Gives options for deterministic kernels: a choice by time would differ from run to run, as would rounding."""
    import torch._inductor as inductor  # only where something is compiled: it takes seconds

    _keep_caches_apart()
    return {"deterministic": True} if "deterministic" in inductor.list_options() else {}


@contextmanager
def signals_wait() -> Generator[None]:
    """Blocks SIGINT and SIGTERM in all processes started within, and in those that they start later.

    Schedulers and Ctrl-C signal every process, but a run still needs its compilers to finish the step and save.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
