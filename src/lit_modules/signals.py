"""The signals that ask a run to stop: SIGTERM of a scheduler, and Ctrl-C."""

import os
import signal
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import pytorch_lightning as pl

from lit_modules import lightning_internals

REQUEUE = 75
"""Exit code of a run that was stopped by SIGTERM and has saved its state: EX_TEMPFAIL, "try again"."""
INTERRUPTED = 130
"""Exit code of a run that Ctrl-C (SIGINT) ended in the same way: 128 + 2, as in shells."""


@dataclass
class Signals:
    """The signals that a run has received."""

    received: bool = False
    """This rank has to stop."""
    interrupted: bool = False
    """Ctrl-C was pressed."""
    stop_requested: bool = False
    """Some rank has to stop; the same on every rank at the same step."""

    @property
    def reason(self) -> str:
        return "Ctrl-C" if self.interrupted else "SIGTERM"

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.interrupted else REQUEUE

    def stops(self, trainer: pl.Trainer) -> bool:
        """Whether the run has to stop after this step; several ranks have to agree first."""
        return self.stop_requested or (self.received and trainer.world_size == 1)

    def take_over(self, trainer: pl.Trainer) -> None:
        """Notes SIGTERM and passes it on to the ranks started here; notes Ctrl-C, whose second press ends at once.

        In place of Lightning's handler of SIGTERM, which communicates between ranks from inside the signal, and ends
        the run between accumulated micro-batches too. Its flag is broadcast and waited for at every step of several
        ranks; ours travels with the loss.
        """

        def note(signum: int, _: FrameType | None) -> None:
            if not self.received and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(cast(Any, signum))
            self.received = True

        def interrupt(_: int, __: FrameType | None) -> None:  # a terminal sends it to every process by itself
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = self.received = True
            if trainer.is_global_zero:  # not by a logger, which may be in the middle of a line
                os.write(2, b"\nCtrl-C: finishing this step and saving; press again to end at once\n")

        signal.signal(signal.SIGTERM, note)
        if not _is_in_background():
            signal.signal(signal.SIGINT, interrupt)
        self.received |= lightning_internals.take_sigterm(trainer)  # what came during the set-up


def give_back_interrupt() -> None:
    """Lets Ctrl-C end the process at once again."""
    if not _is_in_background():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_in_background() -> bool:
    """Whether the process runs in the background of a shell, which ignores Ctrl-C for it."""
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN
