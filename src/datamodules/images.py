"""Reads image files into pixels: RGB uint8 (h, w, 3)."""

import errno
import os
import stat
from dataclasses import replace

import numpy as np

from datamodules.decoding import Decoding, decoded, stored_range
from datamodules.errors import DataError

AS_SHOWN = Decoding()


class ImageError(DataError):
    """An image file can't be read as it should be; names the file, what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        # torch remakes an error of a worker from text in which the worker's traceback comes first.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].rstrip("\n"))


def read_image(path: str, decoding: Decoding = AS_SHOWN) -> np.ndarray:
    """Reads an image by the rule of `decoding`."""
    return _decoded(path, _read(path), decoding)


def decode(path: str, size: tuple[int, int], decoding: Decoding = AS_SHOWN) -> np.ndarray:
    """Reads an image of a data set, whose annotated `size` (h, w) decides whether it is turned, if `decoding` lets it.

    An ImageError where it has another size.
    """
    data = _read(path)
    image = _decoded(path, data, decoding)
    swapped = image.shape[1::-1] == size
    if image.shape[:2] != size and swapped and decoding.by_size:
        image = _decoded(path, data, replace(decoding, turned=not decoding.turned))
    if image.shape[:2] != size:
        height, width = image.shape[:2]
        way, remedy = "", ""
        if swapped and not decoding.by_size:
            way, remedy = f" with data.exif={'apply' if decoding.turned else 'ignore'}", ", or set data.exif=auto"
        raise ImageError(
            f"{shown(path)} is {width} x {height} pixels{way}, but its annotation says {size[1]} x {size[0]}; correct "
            f"the annotation{remedy}"
        )
    return image


def deep_range(path: str) -> tuple[float, float] | None:
    """Returns the lowest and highest number of an image with more than 8 bits; None for any other."""
    return stored_range(_read(path))


def shown(path: str) -> str:
    """Formats a path for a message: on one line, and without bytes that no terminal or log could show."""
    return path if path.isprintable() else repr(path)


def _read(path: str) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a device may have no end
            raise OSError(errno.ENODEV, "not a file")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        what = f"is a link to {shown(os.readlink(path))}, which " if os.path.islink(path) else ""
        raise ImageError(f"{shown(path)} {what}does not exist; restore it") from error
    except OSError as error:
        raise ImageError(
            f"{shown(path)} can't be opened ({error.strerror}); check the file and its permissions"
        ) from error
    if not data:
        raise ImageError(f"{shown(path)} is empty; replace it")
    if _cut_short(data):
        raise ImageError(f"{shown(path)} ends before its picture does (a truncated JPEG); replace it")
    return data


def _decoded(path: str, data: bytes, decoding: Decoding) -> np.ndarray:
    try:
        image = decoded(data, decoding)
    except ValueError as error:
        raise ImageError(f"{shown(path)} {error}") from error
    if image is None:
        raise ImageError(
            f"{shown(path)} can't be decoded as an image ({len(data)} bytes, the first of them {data[:12]!r}); "
            "replace it"
        )
    return image


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG has no end-of-image marker after its first scan starts.

    Decoders only warn of it, and fill up with grey. The headers are walked because a thumbnail in them has
    an end marker too; in the scan itself the marker's bytes can't occur.
    """
    if data[:2] != b"\xff\xd8":
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xDA:  # start of scan
            return data.rfind(b"\xff\xd9") < position
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position + 4 > len(data)
