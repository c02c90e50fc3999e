"""Handlers of the log: terminal and log.txt. Imports nothing heavy."""

import logging
import os
import signal
import sys
from typing import Any

log = logging.getLogger(__name__)


class Console(logging.StreamHandler[Any]):
    """Writes to what `sys.stdout` is at the moment, so that lines stay above a progress bar."""

    def __init__(self, stream: Any = None) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would fix the stream
        self.addFilter(lambda record: not hasattr(record, "file_only"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            let_go()
        else:
            super().handleError(record)

    @property
    def stream(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stdout


def let_go() -> None:
    """Prints to nowhere from now on: whoever read it has gone, as in `train.py | head`, and the run continues."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def end_with_reader() -> None:
    """Ends this process, which only prints, without a word when its reader goes, as in `--help | head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


FILE_ONLY = {"file_only": True}
"""The `extra` of a record that goes to log.txt only."""


class LogFile(logging.FileHandler):
    """Writes to a file in UTF-8; reports once, and not with a traceback for each line, that it can't be written."""

    def __init__(self, filename: str, delay: bool = False) -> None:
        super().__init__(filename, encoding="utf-8", delay=delay, errors="backslashreplace")
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            print(f"{self.baseFilename} can't be written ({error.strerror}); the run continues", file=sys.stderr)
        self._failed = True


def is_rank_zero() -> bool:
    """Whether this is rank 0, by the variables that launchers set, before any process group exists."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return all(rank == "0" for rank in ranks)
