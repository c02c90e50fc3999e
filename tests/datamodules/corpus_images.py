"""Image files in many forms: one picture in every form that can be read, and files that cannot be read.

A form has bytes, the pixels that they encode, and the tolerance of a decoder. A broken file has a function that writes
it to a path, and the expected message.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

SIZE = HEIGHT, WIDTH = 24, 40
_LOSSY = 6


def _picture() -> np.ndarray:
    """An image, grey or coloured, that differs from all its mirror images and rotations."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 // (WIDTH - 1), y * 200 // (HEIGHT - 1), np.full(SIZE, 90)], axis=-1).astype(np.uint8)


PICTURE = _picture()
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))


def save(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return save(image, "JPEG", quality=98, subsampling=0, **options)


class Form(NamedTuple):
    file: str
    data: bytes
    pixels: np.ndarray
    tolerance: int = 0


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def _without_adobe_marker(data: bytes) -> bytes:
    """A CMYK JPEG without its Adobe marker; decoders take it as inverted all the same."""
    out, position = data[:2], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        out += b"" if data[position + 1] == 0xEE else data[position:end]
        position = end
    return out + data[position:]


def _sixteen_bits(pixels: np.ndarray) -> bytes:
    ramp = pixels.astype(np.uint16) * 256 + 200  # the low byte must not change the high byte
    return cv2.imencode(".png", ramp[..., ::-1] if ramp.ndim == 3 else ramp)[1].tobytes()


def _forms() -> dict[str, Form]:
    picture, alpha = Image.fromarray(PICTURE), np.tile(np.arange(WIDTH, dtype=np.uint8) * 6, (HEIGHT, 1))
    palette, black_and_white = picture.quantize(64), Image.fromarray(GREY).convert("1")
    cmyk = picture.convert("CMYK")
    later = [Image.fromarray(np.roll(PICTURE, shift, axis=1)) for shift in (9, 18)]
    animated: dict[str, Any] = {"save_all": True, "duration": 50}
    frames = [image.quantize(64) for image in (picture, *later)]
    of_palette = np.asarray(palette.convert("RGB"))
    return {
        "PNG": Form("x.png", save(picture, "PNG"), PICTURE),
        "PNG named .jpg": Form("x.jpg", save(picture, "PNG"), PICTURE),
        "JPEG": Form("x.jpg", jpeg(picture), PICTURE, _LOSSY),
        "JPEG without suffix": Form("x", jpeg(picture), PICTURE, _LOSSY),
        "progressive JPEG": Form("x.jpg", jpeg(picture, progressive=True), PICTURE, _LOSSY),
        "grey JPEG": Form("x.jpg", jpeg(picture.convert("L")), _three(GREY), _LOSSY),
        "CMYK JPEG, inverted as Adobe does": Form("x.jpg", jpeg(cmyk), PICTURE, _LOSSY),
        "CMYK JPEG without Adobe's marker": Form("x.jpg", _without_adobe_marker(jpeg(cmyk)), PICTURE, _LOSSY),
        "grey PNG": Form("x.png", save(picture.convert("L"), "PNG"), _three(GREY)),
        "black and white PNG": Form(
            "x.png", save(black_and_white, "PNG"), _three(np.asarray(black_and_white.convert("L")))
        ),
        "palette": Form("x.png", save(palette, "PNG"), of_palette),
        "palette with a transparent colour": Form("x.png", save(palette, "PNG", transparency=3), of_palette),
        "palette with alphas": Form("x.png", save(palette, "PNG", transparency=bytes(range(64))), of_palette),
        "RGBA": Form("x.png", save(Image.fromarray(np.dstack([PICTURE, alpha])), "PNG"), PICTURE),
        "grey with alpha": Form("x.png", save(Image.fromarray(np.dstack([GREY, alpha])), "PNG"), _three(GREY)),
        "16-bit grey": Form("x.png", _sixteen_bits(GREY), _three(GREY)),
        "16-bit RGB": Form("x.png", _sixteen_bits(PICTURE), PICTURE),
        "animated GIF": Form("x.gif", save(frames[0], "GIF", append_images=frames[1:], **animated), of_palette),
        "animated WebP": Form(
            "x.webp", save(picture, "WEBP", append_images=later, lossless=True, **animated), PICTURE
        ),
        "animated PNG": Form("x.png", save(picture, "PNG", append_images=later, **animated), PICTURE),
        "WebP": Form("x.webp", save(picture, "WEBP", lossless=True), PICTURE),
        "BMP": Form("x.bmp", save(picture, "BMP"), PICTURE),
        "TIFF": Form("x.tif", save(picture, "TIFF", compression="tiff_lzw"), PICTURE),
    }  # fmt: skip


FORMS = _forms()


class Broken(NamedTuple):
    file: str
    make: Callable[[Path], object]
    says: str


def _of(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _claims_65535() -> tuple[bytes, bytes]:
    """A PNG and a JPEG whose headers state large sizes, with little data."""
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    data = bytearray(FORMS["JPEG"].data)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    return png, bytes(data)


def _wrong_checksum() -> bytes:
    data = bytearray(FORMS["PNG"].data)
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 0xFF
    return bytes(data)


def _broken() -> dict[str, Broken]:
    whole = {name: form.data for name, form in FORMS.items()}
    half = {name: data[: len(data) // 2] for name, data in whole.items()}
    scan = whole["JPEG"].index(b"\xff\xda")
    png, huge_jpeg = _claims_65535()
    undecodable = "can't be decoded as an image"
    return {
        "JPEG cut in its scan": Broken("x.jpg", _of(whole["JPEG"][: scan + 100]), "a truncated JPEG"),
        "JPEG cut in its headers": Broken("x.jpg", _of(whole["JPEG"][: scan - 10]), "a truncated JPEG"),
        "progressive JPEG cut short": Broken("x.jpg", _of(whole["progressive JPEG"][:-20]), "a truncated JPEG"),
        "empty file": Broken("x.jpg", _of(b""), "is empty"),
        "text named .jpg": Broken("x.jpg", _of(b"<html>404</html>"), rf"{undecodable} \(16 bytes, .*<html>404"),
        "PNG cut short": Broken("x.png", _of(half["PNG"]), undecodable),
        "PNG without its last chunk": Broken("x.png", _of(whole["PNG"][:-12]), undecodable),
        "PNG with a wrong checksum": Broken("x.png", _of(_wrong_checksum()), undecodable),
        "WebP cut short": Broken("x.webp", _of(half["WebP"]), undecodable),
        "animated WebP cut short": Broken("x.webp", _of(half["animated WebP"]), undecodable),
        "GIF cut short": Broken("x.gif", _of(half["animated GIF"][:300]), undecodable),
        "BMP cut short": Broken("x.bmp", _of(half["BMP"]), undecodable),
        "TIFF cut short": Broken("x.tif", _of(half["TIFF"]), undecodable),
        "PNG that claims 65535 x 65535": Broken("x.png", _of(png), undecodable),
        "JPEG that claims 65535 x 65535": Broken("x.jpg", _of(huge_jpeg), undecodable),
        "folder named .jpg": Broken("x.jpg", Path.mkdir, r"can't be opened \(Is a directory\)"),
        "dangling link": Broken("x.jpg", lambda path: path.symlink_to("gone.jpg"), "a link to gone.jpg, which does"),
        "no file": Broken("x.jpg", lambda path: None, "does not exist"),
        "link to itself": Broken("x.jpg", lambda path: path.symlink_to(path), r"can't be opened \(Too many levels"),
    }  # fmt: skip


BROKEN = _broken()

NAMES = {
    "composed": "caf\u00e9.png",
    "decomposed": "cafe\u0301.png",
    "emoji": "\U0001f642\U0001f469\u200d\U0001f680.png",
    "CJK": "図形の画像.png",
    "right to left": "صورة.png",
    "of 255 bytes": "é" * 125 + "x.png",
    "with spaces": "a b  c.png",
    "with spaces around": " a .png",
    "with quotes": "'\"`.png",
    "with a newline": "a\nb.png",
    "with a percent sign": "100%s%(x)d.png",
    "with brackets": "[red]{x}*?.png",
    "not UTF-8": os.fsdecode(b"caf\xe9.png"),
}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Runs as another user than root, who may read every file."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
