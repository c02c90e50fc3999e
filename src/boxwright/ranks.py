"""The other processes of a run on several devices, as the first one sees them."""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from boxwright.runs.folder import keep_failure
from lit_modules.died import MEMORY

log = logging.getLogger(__name__)

_EVERY = 0.5
"""Seconds between two looks; Lightning looks every 5, and then ends all processes without a word."""


class Ranks(pl.Callback):
    """Says and keeps why a run failed whose processes were ended from outside, such as for lack of memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_watching = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        processes: Sequence[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", ())
        if processes and not self._is_watching:
            self._is_watching = True
            threading.Thread(target=self._watch, args=(processes,), daemon=True, name="ranks").start()

    def _watch(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        while any(process.poll() is None for process in processes):
            for rank, process in enumerate(processes, start=1):
                if (code := process.poll()) is not None and code < 0:
                    self._tell(rank, process.pid, signal.Signals(-code).name)
                    return
            time.sleep(_EVERY)

    def _tell(self, rank: int, process: int, name: str) -> None:
        cause = f": {MEMORY}" if name == "SIGKILL" else ""
        reason = f"the process of rank {rank} ({process}) was ended by {name}{cause}"
        log.error("%s", reason)
        keep_failure(self.folder, reason)
