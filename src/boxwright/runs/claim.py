"""Which process a run's folder belongs to. Imports nothing heavy.

A new run makes its folder, which no two processes can; whoever writes to one, a run or a script with `output=FOLDER`,
claims it first, and gives it back at the end. That the holder lives is told by a lock of the operating system, which
ends with the process however that ends. Some file systems have no locks, or keep them from other hosts. So the holder
also touches the file every few seconds, and whoever finds another host's name in it watches for a while whether that
continues.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from boxwright.config.errors import ConfigError
from boxwright.runs.log import is_rank_zero
from boxwright.runs.names import is_timed

FILE = ".lock"
"""In a claimed folder, until it is released."""
_BEAT = 10.0
"""Seconds between two touches of it."""
_WATCH = 35.0
"""Seconds without one after which the process of another host is taken for dead."""
_SETTLE = 1.0
"""Seconds that a second process, which took it for dead too, has to show itself where no lock decides."""
_LONG_AGO = 3600.0
"""Seconds without a touch that need no watching, however much the clocks of two hosts differ."""

Note = dict[str, Any]


class InUseError(ConfigError):
    """A folder that another process is at work in."""


class Claim:
    """A folder that this process has to itself until `release`, or until it ends; InUseError if another has it.

    What can't be written to is not claimed.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._ended = threading.Event()
        self._descriptor: int | None = None
        while (descriptor := self._open()) is not None:
            try:
                self._take(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if self._is_there(descriptor):
                self._descriptor = descriptor
                threading.Thread(target=self._beat, daemon=True, name="claim").start()
                break
            os.close(descriptor)  # its holder released it after it was opened here

    def release(self) -> None:
        """Lets others have the folder; a second time it does nothing."""
        self._ended.set()
        if self._descriptor is not None:
            with suppress(OSError):  # the folder may be gone, or the network drive that it was on
                self._file.unlink()
            os.close(self._descriptor)  # which unlocks it
        self._descriptor = None

    def _open(self) -> int | None:
        with suppress(OSError):
            return os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        return None

    def _is_there(self, descriptor: int) -> bool:
        """Whether a file that was opened still has its name."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self._file))
        return False

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, descriptor: int) -> None:
        left = _read(descriptor)
        is_foreign = left is not None and left["host"] != socket.gethostname()
        if left is not None and is_foreign:
            self._watch(left)
        is_locked = self._lock(descriptor)
        if left is not None and not is_locked and not is_foreign and _lives(left["process"]):
            self._watch(left)
        own = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        _write(descriptor, own)
        if is_foreign or not is_locked:
            time.sleep(_SETTLE)
            if (now := _read(descriptor)) != own:
                raise self._error(now)

    def _lock(self, descriptor: int) -> bool:
        """Whether the file system has locks. Not by `flock`: data-loading workers of a killed run would hold it on."""
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise self._error(_read(descriptor)) from None
            return False
        return True

    def _watch(self, left: Note) -> None:
        """Returns if its holder is dead. The file is opened for each look: else a network drive may show an old one."""
        first = self._state()
        if first is None or time.time() - first[0] > _LONG_AGO:
            return
        print(
            f"{self._file.parent} was left by {_named(left)}: looking for up to {_WATCH:.0f} s whether that still runs",
            file=sys.stderr,
            flush=True,
        )
        end = time.monotonic() + _WATCH
        while time.monotonic() < end:
            time.sleep(_WATCH / 35)
            now = self._state()
            if now is not None and now != first:
                raise self._error(left)

    def _state(self) -> tuple[float, Note | None] | None:
        """When the file was touched, and what it says; None where it is gone. Closing it would undo a lock: only before
        there is one."""
        try:
            descriptor = os.open(self._file, os.O_RDONLY)
        except OSError:
            return None
        try:
            return os.fstat(descriptor).st_mtime, _read(descriptor)
        finally:
            os.close(descriptor)

    def _error(self, holder: Note | None) -> InUseError:
        who = "another process" if holder is None else f"{_named(holder)}, since {holder['since']}"
        stop = ""
        if holder is not None and holder["host"] == socket.gethostname():
            stop = f", or end it (kill {holder['process']}; a training saves first)"
        return InUseError(f"{self._file.parent} is in use by {who}; wait for its end{stop}")

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            with suppress(OSError):
                os.utime(self._file)


def _read(descriptor: int) -> Note | None:
    """None where nobody holds the folder, or a crash has cut what was written."""
    with suppress(OSError, ValueError):
        note = json.loads(os.pread(descriptor, 10_000, 0))
        if isinstance(note, dict) and {"host", "process", "since"} <= cast(Note, note).keys():
            return cast(Note, note)
    return None


def _write(descriptor: int, note: Note) -> None:
    with suppress(OSError):  # a full disk: the lock counts all the same
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)


def _named(holder: Note) -> str:
    return f"process {holder['process']} on {holder['host']}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class OwnFolder(Callback):
    """What Hydra calls before a script: makes its folder, and keeps its name, which the ranks of a run are given."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._fix(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._fix(config, "sweep")

    def _fix(self, config: DictConfig, kind: str) -> None:
        if not is_rank_zero():
            return
        folder = str(config.hydra[kind].dir)
        if is_timed(folder):
            try:
                folder = make_own(folder)
            except OSError as error:
                print(f"{Path(folder).absolute()} can't be made: {error.strerror}", file=sys.stderr)
                sys.exit(1)
        with read_write(config), open_dict(config):
            config.hydra[kind].dir = folder


def make_own(folder: str) -> str:
    """Makes a folder that was not there: the named one, or with _2 and so on behind its name."""
    for number in count(1):
        own = folder if number == 1 else f"{folder}_{number}"
        with suppress(FileExistsError):
            os.makedirs(own)
            return own
    raise AssertionError
