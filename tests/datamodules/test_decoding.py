"""An image has the same pixels from its file, from Pillow and by its header, whatever its format and orientation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from corpus_images import GREY, HEIGHT, PICTURE, SIZE, WIDTH, jpeg, save
from PIL import Image, ImageOps

from datamodules.decoding import Decoding, of_array, of_pil
from datamodules.headers import has_several, read_header
from datamodules.images import ImageError, decode, deep_range, read_image

STORED = Decoding(turned=False, by_size=False)
ALPHA = np.tile((np.arange(WIDTH) % 20 * 12).astype(np.uint8), (HEIGHT, 1))
"""An alpha channel that is zero in some columns."""
RGBA = np.dstack([PICTURE, ALPHA])
DEEP = PICTURE[..., 0].astype(np.uint16) * 16 + 9
"""An image of a 12-bit camera."""


def with_orientation(file_format: str, pixels: np.ndarray = PICTURE, **options: Any) -> Callable[[int], bytes]:
    def write(orientation: int) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return save(Image.fromarray(pixels), file_format, exif=exif, **options)

    return write


avif = with_orientation("AVIF", quality=100, subsampling="4:4:4")
FORMATS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "JPEG": (with_orientation("JPEG", quality=98, subsampling=0), 6),
    "JPEG with a preview": (with_orientation("MPO", quality=98, subsampling=0), 6),
    "PNG": (with_orientation("PNG"), 0),
    "WebP": (with_orientation("WEBP", lossless=True), 0),
    "AVIF": (avif, 8),
    "AVIF of another brand": (lambda orientation: avif(orientation).replace(b"ftypavif", b"ftypmif1"), 8),
    "AVIF with alpha": (with_orientation("AVIF", RGBA, quality=100, subsampling="4:4:4"), 8),
    "TIFF": (with_orientation("TIFF"), 0),
    "BigTIFF": (with_orientation("TIFF", big_tiff=True), 0),
    "TIFF, packed": (with_orientation("TIFF", compression="tiff_lzw"), 0),
    "TIFF with alpha": (with_orientation("TIFF", RGBA), 0),
    "TIFF, 16 bits": (with_orientation("TIFF", GREY.astype(np.uint16) * 256 + 200), 0),
}


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: int) -> None:
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= tolerance


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_rotated_once_or_not_at_all(tmp_path: Path, name: str, orientation: int) -> None:
    write, tolerance = FORMATS[name]
    path = tmp_path / "x"
    path.write_bytes(write(orientation))
    stored = np.repeat(GREY[..., None], 3, axis=2) if "16 bits" in name else PICTURE
    upright = turned(stored, orientation)
    header = read_header(str(path))
    assert (header.stored, header.orientation) == (SIZE, orientation)
    assert header.size(turned=True) == upright.shape[:2]
    for decoding, wanted in ((Decoding(), upright), (STORED, stored)):
        assert_close(read_image(str(path), decoding), wanted, tolerance)
        assert_close(decode(str(path), wanted.shape[:2], decoding), wanted, tolerance)
        with Image.open(path) as image:
            assert_close(of_pil(image, decoding), wanted, tolerance)
    assert_close(decode(str(path), SIZE), stored if orientation > 4 else upright, tolerance)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_size_of_the_other_orientation_is_an_error_where_exif_is_set(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(FORMATS["JPEG"][0](orientation))
    wrong = r"x\.jpg is 24 x 40 pixels with data\.exif=apply, but its annotation says 40 x 24; .*data\.exif=auto"
    with pytest.raises(ImageError, match=wrong):
        decode(str(path), SIZE, Decoding(by_size=False))
    with pytest.raises(ImageError, match=r"is 40 x 24 pixels with data\.exif=ignore, but its annotation says 24 x 40"):
        decode(str(path), (WIDTH, HEIGHT), STORED)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_only_exif_gives_the_orientation_and_a_broken_one_is_ignored(tmp_path: Path, file_format: str) -> None:
    """XMP has an orientation too, which OpenCV and browsers ignore."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    path, options = tmp_path / "x", {"lossless": True} if file_format == "WEBP" else {}
    if file_format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        data = save(Image.fromarray(PICTURE), "PNG", pnginfo=info)
    else:
        key = {"tiffinfo": {700: xmp}} if file_format == "TIFF" else {"xmp": xmp}
        data = save(Image.fromarray(PICTURE), file_format, **key, **options)
    path.write_bytes(data)
    with Image.open(path) as image:
        assert image.getexif().get(0x0112) == 6  # Pillow reads it as an orientation
        assert of_pil(image, Decoding()).shape == (*SIZE, 3)
    for orientation in (0, 9, 300):
        assert read_header(str(path)) == (SIZE, 1, False)
        assert read_image(str(path)).shape == (*SIZE, 3)
        path.write_bytes(with_orientation(file_format, **options)(orientation))


# Alpha


TRANSPARENT: dict[str, tuple[bytes, int]] = {
    "PNG": (save(Image.fromarray(RGBA), "PNG"), 0),
    "WebP": (save(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True), 0),
    "TIFF": (save(Image.fromarray(RGBA), "TIFF"), 0),
    "TIFF, packed": (save(Image.fromarray(RGBA), "TIFF", compression="tiff_adobe_deflate"), 0),
    "BMP": (cv2.imencode(".bmp", cv2.cvtColor(RGBA, cv2.COLOR_RGBA2BGRA))[1].tobytes(), 0),
    "JPEG 2000": (save(Image.fromarray(RGBA), "JPEG2000"), 0),
    "AVIF": (save(Image.fromarray(RGBA), "AVIF", quality=100, subsampling="4:4:4"), 8),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_have_their_stored_colour(tmp_path: Path, name: str) -> None:
    data, tolerance = TRANSPARENT[name]
    path = tmp_path / "x"
    path.write_bytes(data)
    assert_close(read_image(str(path)), PICTURE, tolerance)
    with Image.open(path) as image:
        assert_close(of_pil(image, Decoding()), PICTURE, tolerance)


@pytest.mark.parametrize("file_format", ["GIF", "PNG"])
def test_a_transparent_colour_of_a_palette_is_shown(tmp_path: Path, file_format: str) -> None:
    palette = Image.fromarray(PICTURE).quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    for index in (int(np.asarray(palette)[5, 5]), int(np.asarray(palette)[-1, -1])):
        path = tmp_path / "x"
        path.write_bytes(save(palette, file_format, transparency=index))
        assert_close(read_image(str(path)), colours, 0)
        with Image.open(path) as image:
            assert_close(of_pil(image, Decoding()), colours, 0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_arrays_of_one_to_four_channels_are_converted_as_by_pillow(mode: str) -> None:
    image = Image.fromarray(RGBA).convert(mode)
    array = np.asarray(image)
    wanted = of_pil(image, Decoding())
    np.testing.assert_array_equal(of_array(array, Decoding()), wanted)
    if mode == "L":
        np.testing.assert_array_equal(of_array(array[..., None], Decoding()), wanted)


# More than 8 bits


def tiff(array: np.ndarray) -> bytes:
    return cv2.imencode(".tiff", array)[1].tobytes()


DEEPS = {
    "PNG": cv2.imencode(".png", DEEP)[1].tobytes(),
    "PNG, RGB": cv2.imencode(".png", np.dstack([DEEP] * 3))[1].tobytes(),
    "TIFF": tiff(DEEP),
    "TIFF, signed": tiff(DEEP.astype(np.int16)),
    "TIFF, float": tiff(DEEP.astype(np.float32)),
    "TIFF, double": tiff(DEEP.astype(np.float64)),
    "TIFF, float RGB": tiff(np.dstack([DEEP.astype(np.float32)] * 3)),
    "TIFF, 32 bits": tiff(DEEP.astype(np.int32)),
    "PNG, RGBA": cv2.imencode(".png", np.dstack([DEEP] * 3 + [ALPHA.astype(np.uint16) * 257]))[1].tobytes(),
    "TIFF, RGB": tiff(np.dstack([DEEP] * 3)),
    "TIFF, RGBA": tiff(np.dstack([DEEP] * 3 + [ALPHA.astype(np.uint16) * 257])),
    "PGM": b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP.astype(">u2").tobytes(),
    "PPM": b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + np.dstack([DEEP] * 3).astype(">u2").tobytes(),
    "JPEG 2000": save(Image.fromarray(DEEP), "JPEG2000"),
}


@pytest.mark.parametrize("name", DEEPS)
def test_a_value_range_maps_a_part_of_16_bits_to_all_grey_levels(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(DEEPS[name])
    assert deep_range(str(path)) == (DEEP.min(), DEEP.max())
    low, high = 500.0, 4000.0
    decoding = Decoding(value_range=(low, high))
    wanted = np.rint((DEEP.clip(low, high) - low) * 255 / (high - low)).astype(np.uint8)
    wanted = np.repeat(wanted[..., None], 3, axis=2)
    assert (wanted.min(), wanted.max()) == (0, 255)
    assert_close(read_image(str(path), decoding), wanted, 0)
    if name not in ("TIFF, double", "TIFF, float RGB"):  # Pillow can't open them
        with Image.open(path) as image:
            assert_close(of_pil(image, decoding), wanted, 0)
    if "float" in name or "double" in name:
        with pytest.raises(ImageError, match=rf"from 9 to {DEEP.max()}, where 8 or 16 .*data\.value_range=\[9,"):
            read_image(str(path))
    else:
        upper = np.repeat((DEEP >> 8).astype(np.uint8)[..., None], 3, axis=2)
        assert_close(read_image(str(path)), upper, 0)
        with Image.open(path) as image:
            assert_close(of_pil(image, Decoding()), upper, 0)


@pytest.mark.parametrize("file_format", [".png", ".tiff", ".ppm", ".jp2"])
@pytest.mark.parametrize("decoding", [Decoding(), Decoding(value_range=(500.0, 60000.0))], ids=["upper 8", "range"])
def test_channels_of_16_bits_are_those_of_the_array(tmp_path: Path, file_format: str, decoding: Decoding) -> None:
    picture = np.tile(PICTURE, (2, 2, 1))  # OpenCV writes no smaller JPEG 2000
    deep = picture.astype(np.uint16) * 250 + np.arange(3, dtype=np.uint16) * 40
    path = tmp_path / f"x{file_format}"
    path.write_bytes(cv2.imencode(file_format, deep[..., ::-1])[1].tobytes())
    if file_format != ".jp2":  # which is lossy
        np.testing.assert_array_equal(read_image(str(path), decoding), of_array(deep, decoding))
    with Image.open(path) as image:
        np.testing.assert_array_equal(of_pil(image, decoding), read_image(str(path), decoding))


def test_a_value_range_does_not_change_8_bit_and_avif_images(tmp_path: Path) -> None:
    twelve = cv2.imencode(".avif", np.dstack([DEEP] * 3), [cv2.IMWRITE_AVIF_DEPTH, 12, cv2.IMWRITE_AVIF_QUALITY, 100])
    forms = {
        "jpg": jpeg(Image.fromarray(PICTURE)),
        "png": save(Image.fromarray(PICTURE), "PNG"),
        "avif": twelve[1].tobytes(),
    }
    for name, data in forms.items():
        path = str(tmp_path / f"x.{name}")
        Path(path).write_bytes(data)
        assert deep_range(path) is None
        assert_close(read_image(path, Decoding(value_range=(0, 100))), read_image(path), 0)


# Several pictures


def test_further_images_of_a_file_are_noticed_but_not_previews(tmp_path: Path) -> None:
    first, later = Image.fromarray(PICTURE), [Image.fromarray(np.roll(PICTURE, 9, axis=1))]
    for number, (file_format, several) in enumerate(
        [("GIF", True), ("PNG", True), ("WEBP", True), ("AVIF", True), ("TIFF", True), ("MPO", False)]
    ):
        for more in (later, []):
            path = tmp_path / f"{number}{len(more)}"
            path.write_bytes(save(first, file_format, save_all=True, append_images=more))
            assert has_several(str(path)) == (several and bool(more))
    pyramid = tmp_path / "pyramid.tif"
    small = first.resize((20, 12))
    for kind, several in ((0, True), (1, False), (4, False), (2, True)):  # 1 is a smaller copy, 4 a mask
        small.encoderinfo = {"tiffinfo": {254: kind}}
        pyramid.write_bytes(save(first, "TIFF", save_all=True, append_images=[small]))
        assert has_several(str(pyramid)) == several
    assert not has_several(str(tmp_path / "none"))
