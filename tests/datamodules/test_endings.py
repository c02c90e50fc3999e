"""All data sets and prediction find images by the same file name suffixes, and can read each of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import voc, voc_object, write_voc

from datamodules.endings import PICTURES
from datamodules.imagefolder import read_folders
from datamodules.images import read_image

FORMATS = {".jfif": "JPEG", ".jp2": "JPEG2000", ".jpe": "JPEG"} | dict.fromkeys((".pbm", ".pgm", ".pnm", ".ppm"), "PPM")
"""Formats of suffixes from which Pillow does not derive one."""


def write(path: Path) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path, FORMATS.get(path.suffix))


@pytest.mark.parametrize("ending", PICTURES)
def test_each_ending_is_found_and_read(tmp_path: Path, ending: str) -> None:
    folder = write_voc(tmp_path / "voc", {"x": voc_object("a", "1 1 9 9")})
    (folder / "JPEGImages" / "x.jpg").unlink()
    write(folder / "JPEGImages" / f"x{ending}")
    data = voc(folder)
    data.setup("fit")
    assert data.image("val", "x").shape == (30, 40, 3)

    (tmp_path / "split" / "ape").mkdir(parents=True)
    write(tmp_path / "split" / "ape" / f"y{ending}")
    (image,) = read_folders([tmp_path / "split"]).images
    assert read_image(image.path).shape == (30, 40, 3)
