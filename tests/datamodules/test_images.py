"""Reading the file of an image: orientation, channels, and files that break after set-up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import coco, write_coco, write_image

from datamodules.images import decode


def jpeg(path: Path, **options: Any) -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(image).save(path, "JPEG", **options)
    return path.read_bytes()


def oriented(value: int, thumbnail: bool = False) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    if thumbnail:
        exif[0x9286] = b"\xff\xd8 a picture in the header \xff\xd9"
    return exif


def test_exif_orientation_is_honoured_where_it_gives_the_annotated_size(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    jpeg(file, exif=oriented(6))
    turned, stored = decode(str(file), (60, 40)), decode(str(file), (40, 60))
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))


def test_grey_and_transparent_images_have_three_channels(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (6, 4), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    assert decode(str(tmp_path / "grey.png"), (4, 6)).tolist() == [[[77] * 3] * 6] * 4
    assert decode(str(tmp_path / "clear.png"), (4, 6)).tolist() == [[[1, 2, 3]] * 6] * 4


@pytest.mark.parametrize("thumbnail", [False, True])
def test_a_jpeg_cut_anywhere_is_noticed(tmp_path: Path, thumbnail: bool) -> None:
    file = tmp_path / "x.jpg"
    whole = jpeg(file, exif=oriented(1, thumbnail))
    decode(str(file), (40, 60))
    file.write_bytes(whole + b"trailing bytes of a camera")
    decode(str(file), (40, 60))
    for length in (0, 3, 40, len(whole) // 4, len(whole) // 2, len(whole) - 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.jpg.*(empty|truncated|decoded)"):
            decode(str(file), (40, 60))


def break_file(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "size":
        write_image(path, (30, 33))
    else:
        path.write_bytes({"text": b"not a picture", "empty": b"", "cut": path.read_bytes()[:-200]}[how])


BROKEN = [
    ("missing", "does not exist"), ("text", "can't be decoded"), ("cut", "can't be decoded"), ("empty", "empty"),
    ("size", "is 33 x 30 pixels, but its annotation says 60 x 40"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "message"), BROKEN)
def test_an_image_that_breaks_after_setup_is_named(tmp_path: Path, how: str, message: str) -> None:
    write_coco(tmp_path, [(40, 60)], [[[1, 1, 9, 9]]])
    data = coco(tmp_path)
    data.setup("fit")
    break_file(tmp_path / "train" / "train_0.png", how)
    with pytest.raises((ValueError, OSError), match=rf"train_0\.png.*{message}.*data\.on_error=skip"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize(("how", "message"), BROKEN)
def test_on_error_skip_removes_the_image_from_the_batch_with_the_reason(tmp_path: Path, how: str, message: str) -> None:
    write_coco(tmp_path, [(40, 60)], [[[1, 1, 9, 9]]])
    data = coco(tmp_path, on_error="skip", batch_size=1)
    data.setup("fit")
    (good,) = data.train_dataloader()
    break_file(tmp_path / "train" / "train_0.png", how)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        (batch,) = loader
        (info,) = batch.unread
        assert message in str(info.error)
        assert info.image_id == 10
        assert batch.infos == []
        assert not batch.images.any()  # a black image replaces it
        assert batch.images.shape == good.images.shape
        assert (batch.labels == -1).all()
