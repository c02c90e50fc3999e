"""Reads image files into pixels: RGB uint8 (h, w, 3)."""

import errno
import os
import stat

import cv2
import numpy as np

from datamodules.errors import DataError


class ImageError(DataError):
    """An image file can't be read as it should be; names the file, what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        # torch remakes an error of a worker from text in which the worker's traceback comes first.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].rstrip("\n"))


def read_image(path: str) -> np.ndarray:
    """Reads an image as it is meant to be seen, turned by its EXIF orientation.

    Grey becomes three equal channels, 16 bits are scaled to 8, of transparent pixels the stored colour is
    taken, of an animation the first picture.
    """
    return _decoded(path, _read(path))


def decode(path: str, size: tuple[int, int]) -> np.ndarray:
    """Reads an image of a data set like `read_image`: turned by its EXIF orientation if that gives the
    annotated `size` (h, w), as stored if that does, and an ImageError otherwise.
    """
    data = _read(path)
    image = _decoded(path, data)
    if image.shape[:2] != size and image.shape[1::-1] == size:
        image = _decoded(path, data, cv2.IMREAD_IGNORE_ORIENTATION)
    if image.shape[:2] != size:
        height, width = image.shape[:2]
        raise ImageError(
            f"{shown(path)} is {width} x {height} pixels, but its annotation says {size[1]} x {size[0]}; correct "
            "the annotation"
        )
    return image


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


def _decoded(path: str, data: bytes, flags: int = 0) -> np.ndarray:
    # simplejpeg and torchvision.io find the same pixels in a JPEG, at most a tenth sooner, and read fewer formats
    # (measurements/data.py).
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | flags)
    except cv2.error:  # headers that state absurd sizes
        image = None
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
