"""Pictures of any kind as RGB uint8 (h, w, 3): the bytes of a file, images of Pillow, arrays.

One rule for all: turned as the EXIF orientation says; of transparent pixels the stored colour, since alpha is left out;
of more than 8 bits the upper 8, or what `value_range` says; of several pictures the first.
"""

# cv2 and numpy leave the types of arrays open.
# pyright: reportUnknownMemberType=false

import io
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from datamodules.headers import BITS, EXTRA_SAMPLES, ORIENTATION, TIFF, directories, orientation, tiff_orientation

Pixels = np.ndarray[Any, Any]

_AVIF = b"ftyp"  # from byte 4; of the formats that begin so OpenCV reads no other
_BY_FILE = ("TIFF", "JPEG2000", "PPM")
_UNASSOCIATED, _ASSOCIATED = 2, 1  # alphas of a TIFF: colours are not, or are, multiplied by them


@dataclass(frozen=True)
class Decoding:
    """What is decided about the files of a data set, or by the checkpoint that was trained on one."""

    turned: bool = True
    """As the EXIF orientation says."""
    by_size: bool = True
    """Of an image with an annotated size the other way too, if that gives this size."""
    value_range: tuple[float, float] | None = None
    """Numbers of pictures with more than 8 bits that become 0 and 255."""

    @classmethod
    def of(cls, exif: str, value_range: Any, told: str = "apply") -> "Decoding":
        """Makes it of the settings of a data set; `told` is what `data.exif=auto` was found to mean.

        A ValueError where `value_range` is not two rising numbers."""
        low_high = None
        if value_range is not None:
            try:
                low, high = map(float, value_range)
            except (TypeError, ValueError):  # another number of them, or none that are numbers
                low = high = math.nan
            if not -math.inf < low < high < math.inf:
                raise ValueError("expected [black, white], such as [0, 4095], or null")
            low_high = low, high
        return cls((told if exif == "auto" else exif) != "ignore", exif == "auto", low_high)


def decoded(data: bytes, decoding: Decoding) -> Pixels | None:
    """Decodes the bytes of an image file; None where they are none, and ValueError where numbers have no range."""
    try:
        if data[:4] in TIFF:
            return _tiff(data, decoding)
        if data[4:8] == _AVIF:
            return _avif(data, decoding)
        if data[:4] == b"GIF8" and (image := _gif(data)) is not None:
            return image
        return _by_opencv(data, decoding, 0 if decoding.turned else cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, OSError, SyntaxError, EOFError, Image.DecompressionBombError):  # headers that state absurd sizes
        return None


def stored_range(data: bytes) -> tuple[float, float] | None:
    """Returns the lowest and highest number of a picture with more than 8 bits; None for any other."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if _may_be_deep(data) else None
    if image is None or image.dtype == np.uint8:
        return None
    colours = image[..., :3] if image.ndim == 3 and image.shape[2] == 4 else image
    return float(np.nanmin(colours)), float(np.nanmax(colours))


def of_pil(image: Image.Image, decoding: Decoding) -> Pixels:
    """Converts an image of Pillow, in any mode, to what its file gives."""
    data = _file_of(image)
    if data is not None and (found := decoded(data, decoding)) is not None:
        return found
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        found = of_array(np.asarray(image), decoding)
    else:
        found = np.array(image.convert("RGB"))
    return turned(found, orientation(image)) if decoding.turned else found


def _file_of(image: Image.Image) -> bytes | None:
    """Returns the file of an image that Pillow has not read yet, and would read otherwise: a TIFF, which it turns by
    itself (and mixes up where it maps it into memory), and several channels of 16 bits, of which it takes 8 (in a
    JPEG 2000 and a PNM it does not tell)."""
    tiles, file = getattr(image, "tile", ()), getattr(image, "fp", None)
    deep = not image.mode.startswith("I") and any(";16" in str(tile[3]) for tile in tiles)
    if not tiles or file is None or image.tell() or not (deep or image.format in _BY_FILE):
        return None
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def of_array(array: Pixels, decoding: Decoding) -> Pixels:
    """Converts an array (h, w) or (h, w, channels) of any numbers: grey, RGB, or one of them with alpha."""
    if array.ndim == 2:
        array = array[..., None]
    colours = array[..., :3] if array.shape[2] >= 3 else np.repeat(array[..., :1], 3, axis=2)
    return np.ascontiguousarray(_to_8_bits(colours, decoding.value_range))


def turned(image: Pixels, orientation: int) -> Pixels:
    """Applies an EXIF orientation to stored pixels."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _by_opencv(data: bytes | bytearray, decoding: Decoding, flags: int = 0) -> Pixels | None:
    # simplejpeg and torchvision.io find the same pixels in a JPEG, at most a tenth sooner, and read fewer formats
    # (measurements/data.py).
    depth = cv2.IMREAD_ANYDEPTH if decoding.value_range else 0
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | depth | flags)
    return image if image is None or (image.dtype == np.uint8 and image.ndim == 3) else of_array(image, decoding)


def _tiff(data: bytes, decoding: Decoding) -> Pixels | None:
    """Decodes the stored pixels: OpenCV itself turns them whatever it is told, and makes transparent ones black."""
    tags = next(directories(io.BytesIO(data)), {})
    way = tiff_orientation(tags)
    changed: dict[int, int] = {ORIENTATION: 1} if way != 1 else {}
    if EXTRA_SAMPLES in tags and tags[EXTRA_SAMPLES].values[0] == _UNASSOCIATED:
        changed[EXTRA_SAMPLES] = _ASSOCIATED
    plain = bytearray(data) if changed else data
    for tag, value in changed.items():
        struct.pack_into(tags[tag].format, plain, tags[tag].place, value)
    if BITS in tags and (bits := tags[BITS].values[0]) > 8:
        # More than 16 OpenCV gives only as they are. In RGB, with IMREAD_ANYDEPTH, OpenCV 5.0 fills 16 bits with other
        # memory; by itself it would round them to 8, where other formats give the upper 8.
        flags = cv2.IMREAD_UNCHANGED if bits > 16 else cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH
        image = cv2.imdecode(np.frombuffer(plain, np.uint8), flags)
        if image is not None:
            image = of_array(image if image.ndim == 2 or image.shape[2] < 3 else image[..., 2::-1], decoding)
    else:
        image = _by_opencv(plain, decoding)
    return turned(image, way) if image is not None and decoding.turned else image


def _gif(data: bytes) -> Pixels | None:
    """Decodes what has transparent pixels, where OpenCV shows the colour of the background; None for any other."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB")) if "transparency" in image.info else None


def _avif(data: bytes, decoding: Decoding) -> Pixels | None:
    """Decodes in BGR and turns: with alpha OpenCV gives BGR for RGB, and it never turns. An AVIF states its depth, so
    that it needs no range."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR)
    if image is None:
        return None
    with Image.open(io.BytesIO(data)) as opened:
        way = orientation(opened) if decoding.turned else 1
    return turned(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), way)


def _may_be_deep(data: bytes) -> bool:
    """Whether more than 8 bits are worth a look, by a format's first bytes."""
    if data.startswith(b"\x89PNG"):
        return data[24] == 16
    shallow = data.startswith((b"\xff\xd8", b"GIF8", b"BM")) or data[8:12] == b"WEBP" or data[4:8] == _AVIF
    return not shallow


def _to_8_bits(image: Pixels, value_range: tuple[float, float] | None) -> Pixels:
    if image.dtype == np.uint8:
        return image
    if value_range:
        return _table(value_range)[image] if image.dtype == np.uint16 else _scaled(image, value_range)
    low, high = float(np.nanmin(image)), float(np.nanmax(image))
    if image.dtype.kind in "iu" and low >= 0 and high < 2**16:
        return (image >> 8).astype(np.uint8)
    raise ValueError(
        f"has {image.dtype} numbers from {low:g} to {high:g}, where 8 or 16 bits are expected; say in training which "
        f"become black and white, such as data.value_range=[{low:g},{high:g}], which checkpoints keep"
    )


@lru_cache(4)
def _table(value_range: tuple[float, float]) -> Pixels:
    return _scaled(np.arange(2**16), value_range)


def _scaled(image: Pixels, value_range: tuple[float, float]) -> Pixels:
    low, high = value_range
    shares = (np.nan_to_num(image.astype(np.float64), nan=low) - low) / (high - low)
    return np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
