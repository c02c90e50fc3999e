"""The log of a run: terminal and log.txt. Imports nothing heavy."""

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
    """Prints to nowhere from now on: whoever read it has gone, as in `train.py | head`, and the run goes on."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def end_with_reader() -> None:
    """Ends this process, which only prints, without a word when its reader goes, as in `--help | head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


FILE_ONLY = {"file_only": True}
"""`extra` of a record that is for log.txt alone."""


class LogFile(logging.FileHandler):
    """A file in UTF-8; where nothing can be written to it, that is said once, and not for each line in a traceback."""

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
    """Before any process group exists: by the variables that launchers set."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return all(rank == "0" for rank in ranks)
