"""Opened sources: reads pictures or frames one by one, and writes them with boxes drawn on."""

# cv2's stubs leave the types of arrays open.
# pyright: reportUnknownMemberType=false

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from boxwright.checkpoints.detector import pixels
from boxwright.config.errors import ConfigError
from boxwright.predict.sources import Source
from datamodules.decoding import Decoding
from datamodules.headers import has_several
from evaluation.files import write_whole

# Errors are reported by this file, with the name of the picture or video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Pixels = np.ndarray[Any, Any]
"""RGB uint8 (h, w, 3)."""

_CODECS = ("avc1", "mp4v")
"""H.264 plays everywhere, but OpenCV's wheels can't write it. MPEG-4 part 2 plays in players, not in browsers;
VP9 would, but takes 40 times as long."""
_KEPT = frozenset((".jpg", ".jpeg", ".png"))
"""Formats that drawn pictures keep; others become PNG, behind their own extension."""

_LONGEST = 200
"""Bytes of a file's name; systems allow 255, of which a temporary file needs some."""


class Read(NamedTuple):
    """A picture or frame."""

    place: int
    """Position in the source."""
    name: str
    pixels: Pixels


class Unread(NamedTuple):
    """A picture that could not be read."""

    place: int
    name: str
    error: str


Reading = Callable[[], Read | Unread | None]
"""Reads the next picture; returns None after the last one."""


class Media(Protocol):
    """The interface of pictures and videos."""

    threads: int
    """Number of threads that may read, and of those that may write. With one, the order is kept."""

    several: list[str]
    """Files that hold several pictures, of which the first is read."""

    @property
    def total(self) -> int | None:
        """Number of pictures or frames, if it is known."""
        ...

    def readings(self) -> Iterator[Reading]:
        """Yields calls in the order of the source, without end where the number of frames isn't known."""
        ...

    def write(self, read: Read, drawn: Pixels) -> None: ...

    def close(self) -> None:
        """Completes the files that were written."""
        ...

    def discard(self) -> None:
        """Removes half-written files."""
        ...


class Pictures:
    """The pictures of a folder, or a single one."""

    def __init__(self, source: Source, drawn: Path, threads: int, decoding: Decoding) -> None:
        self.decoding, self.several = decoding, list[str]()
        self.total, self.threads = len(source.names), threads
        self._source, self._drawn = source, drawn
        self._drawn_names = drawn_names(source.names)

    def readings(self) -> Iterator[Reading]:
        for place, name in enumerate(self._source.names):
            yield partial(self._read, place, name)

    def _read(self, place: int, name: str) -> Read | Unread:
        try:
            found = pixels(self._source.root / name, self.decoding)
        except (OSError, ValueError) as error:
            return Unread(place, name, str(error))
        if has_several(str(self._source.root / name)):
            self.several.append(name)
        return Read(place, name, found)

    def write(self, read: Read, drawn: Pixels) -> None:
        path = self._drawn / self._drawn_names[read.place]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, cv2.imencode(path.suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].data)

    def close(self) -> None: ...

    def discard(self) -> None: ...


def drawn_names(names: tuple[str, ...]) -> list[str]:
    """Names the file of each drawn picture: its own name if its format is kept. No two are the same."""
    taken: set[str] = set()
    new: list[str] = []
    for place, name in enumerate(names):
        path = PurePosixPath(name)
        wanted = path if path.suffix.lower() in _KEPT else path.with_name(f"{path.name}.png")
        while str(wanted).casefold() in taken or len(os.fsencode(wanted.name)) > _LONGEST:
            wanted = path.with_name(f"{place}_{path.stem[:40]}{wanted.suffix}")
        taken.add(str(wanted).casefold())
        new.append(str(wanted))
    return new


class Film:
    """A video: its frames in their order, turned as its metadata says; written with the same size and rate.

    Codecs code pairs of pixels, so of an odd width or height the last column or row is cut off. Sound is dropped.
    """

    threads = 1

    def __init__(self, source: Source, drawn: Path) -> None:
        """Raises ValueError for a file that is not a video."""
        self._name, self.several = source.names[0], list[str]()
        path = source.root / self._name
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise ValueError(f"{path} ({path.stat().st_size} bytes) can be read neither as a picture nor as a video")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else 25.0
        """Frames a second."""
        self.total = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
        """Number of frames as the file states it; some formats only estimate it."""
        self._drawn = drawn / f"{Path(self._name).stem}.mp4"
        self._partial = drawn / f".{os.getpid()}.mp4"
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def readings(self) -> Iterator[Reading]:
        for number in count():
            yield partial(self._read, number)

    def _read(self, number: int) -> Read | None:
        try:
            there, frame = self._capture.read()
        except cv2.error:
            return None
        return Read(number, f"{self._name}#{number}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) if there else None

    def write(self, read: Read, drawn: Pixels) -> None:
        if self._writer is None:
            self._size = (drawn.shape[1] & ~1, drawn.shape[0] & ~1)
            self._writer = self._open()
        across, down = self._size
        frame = cv2.cvtColor(drawn[:down, :across], cv2.COLOR_RGB2BGR)
        # A stream may change its size, and the writer would drop frames of another one.
        self._writer.write(frame if frame.shape[:2] == (down, across) else cv2.resize(frame, self._size))

    def _open(self) -> cv2.VideoWriter:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        for codec in _CODECS:
            writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*codec), self.rate, self._size)
            if writer.isOpened():
                return writer
        raise ConfigError(
            f"{self._drawn}: OpenCV {cv2.__version__} writes neither {' nor '.join(_CODECS)} here, at "
            f"{self._size[0]} x {self._size[1]} pixels and {self.rate:g} frames a second; give draw=false"
        )

    def close(self) -> None:
        """Raises OSError where the written file can't be read back: the writer reports no errors."""
        if self._writer is None:
            return
        self._writer.release()
        if not cv2.VideoCapture(str(self._partial)).isOpened():
            raise OSError(errno.ENOSPC, f"can't write {self._drawn}; free some space on its disk, or give draw=false")
        self._partial.replace(self._drawn)

    def discard(self) -> None:
        self._capture.release()
        if self._writer is not None:
            self._writer.release()
        self._partial.unlink(missing_ok=True)
