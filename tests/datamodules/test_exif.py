"""Boxes lie on the pixels on which they were drawn, whether the annotation tool applied the orientation or not."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_data import coco, voc, voc_object, write_json, write_voc

from datamodules.base import DetectionDataModule

BOX = (5, 5, 30, 25)
"""xyxy, red on grey, on the pixels that were annotated."""


def picture(annotated: tuple[int, int], orientation: int, drawn_on: str) -> Image.Image:
    """Stored pixels of an image that was annotated at size (h, w), as "stored" or as "turned" by its orientation."""
    pixels = np.full((*annotated, 3), 90, np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (255, 0, 0)
    image = Image.fromarray(pixels)
    if drawn_on == "turned":  # back to the stored pixels
        image.getexif()[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)
        image = ImageOps.exif_transpose(image)
    return image


def write(root: Path, *pictures: tuple[tuple[int, int], int, str], sizes: bool = True) -> Path:
    """Writes a COCO data set of such images, each with the box."""
    (root / "train").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    x1, y1, x2, y2 = BOX
    for number, (annotated, orientation, drawn_on) in enumerate(pictures, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = picture(annotated, orientation, drawn_on)
        image.save(root / "train" / f"{number}.tif" if number % 2 else root / "train" / f"{number}.png", exif=exif)
        size = {"height": annotated[0], "width": annotated[1]} if sizes else {}
        images.append({"id": number, "file_name": f"{number}.{'tif' if number % 2 else 'png'}", **size})
        box = {"image_id": number, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 1, "iscrowd": 0}
        boxes.append({"id": number, "segmentation": [], **box})
    categories = [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]
    write_json(root, {"images": images, "annotations": boxes, "categories": categories})
    return root


def opened(root: Path, **settings: Any) -> tuple[DetectionDataModule, list[str]]:
    """The data module, and its warnings at set-up."""
    data = coco(root, cache_dir=str(root / "cache"), **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    said = {str(warning.message) for warning in caught}  # train and val are the same split, so each warning comes twice
    return data, [line for line in said if "filled in" not in line]


def assert_boxes_are_red(data: DetectionDataModule) -> None:
    truth = data.truth("train")
    for at, image_id in enumerate(truth.image_ids.tolist()):
        x1, y1, x2, y2 = truth.boxes[truth.image_index == at][0].astype(int)
        assert (data.image("train", image_id)[y1:y2, x1:x2] == (255, 0, 0)).all(), image_id


HALF_TURNS = [((60, 80), orientation) for orientation in (2, 3, 4)]
SQUARES = [((80, 80), orientation) for orientation in range(2, 9)]


@pytest.mark.parametrize("drawn_on", ["turned", "stored"])
def test_informative_sizes_decide_the_orientation_of_the_others(tmp_path: Path, drawn_on: str) -> None:
    pictures = [(size, orientation, drawn_on) for size, orientation in [*HALF_TURNS, *SQUARES, ((60, 80), 6)]]
    data, said = opened(write(tmp_path, *pictures))
    assert_boxes_are_red(data)
    assert not said
    way = {"turned": "turns images by their EXIF orientation", "stored": "leaves images as stored"}[drawn_on]
    assert f"; data.exif=auto {way} (annotated sizes that tell: 1)" in data.describe()
    assert data.exif_meaning == {"turned": "apply", "stored": "ignore"}[drawn_on]


@pytest.mark.parametrize("drawn_on", ["turned", "stored"])
@pytest.mark.parametrize("sizes", [True, False])
def test_the_exif_setting_decides_where_no_size_does(tmp_path: Path, drawn_on: str, sizes: bool) -> None:
    pictures = [(size, orientation, drawn_on) for size, orientation in [*HALF_TURNS, *SQUARES]]
    if not sizes:
        pictures += [((60, 80), orientation, drawn_on) for orientation in (5, 6, 7, 8)]
    setting = {"turned": "apply", "stored": "ignore"}[drawn_on]
    data, said = opened(write(tmp_path, *pictures, sizes=sizes), exif=setting)
    assert_boxes_are_red(data)
    assert not said
    assert data.exif_meaning == setting
    if drawn_on == "turned":  # auto decides the same, with a warning
        data, said = opened(tmp_path)
        assert_boxes_are_red(data)
        (line,) = said
        assert (
            f"no annotated size confirms (half turns, mirror images, squares): {len(pictures)}; they are turned" in line
        )
        assert "data.exif=ignore" in line


def test_each_image_is_read_by_its_own_size_first(tmp_path: Path) -> None:
    size = (60, 80)
    stored = [(size, 6, "stored"), (size, 8, "stored"), (size, 3, "stored")]
    data, said = opened(write(tmp_path, *stored, (size, 6, "turned")))
    assert_boxes_are_red(data)
    (line,) = said
    assert "images annotated as their EXIF orientation turns them: 1, as they are stored: 2; each is read" in line


def test_an_orientation_that_comes_or_goes_is_seen(tmp_path: Path) -> None:
    root = write(tmp_path, ((60, 80), 3, "stored"), ((60, 80), 6, "stored"))
    hidden = (root / "train" / "2.png").rename(tmp_path / "hidden")
    assert opened(root, on_error="skip")[0].exif_meaning == "apply"
    hidden.rename(root / "train" / "2.png")
    assert_boxes_are_red(opened(root)[0])
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert len(content["images"]) == 2


@pytest.mark.parametrize("drawn_on", ["turned", "stored"])
def test_flips_and_turns_follow_the_pixels_of_a_turned_picture(tmp_path: Path, drawn_on: str) -> None:
    root = write(tmp_path, *(((60, 80), orientation, drawn_on) for orientation in (3, 5, 6, 7, 8)))
    turns = {"turn": albumentations.RandomRotate90(p=1.0), "transpose": albumentations.Transpose(p=0.5)}
    data, _ = opened(root, augmentations=turns, flip=0.5, vertical_flip=0.5, resize=60, batch_size=1)
    loader, forms = data.train_dataloader(), set[bool]()
    for epoch in range(6):
        loader.batch_sampler.sampler.set_epoch(epoch)
        for batch in loader:
            x1, y1, x2, y2 = batch.boxes[0, 0].round().int().tolist()
            image = batch.images[0].permute(1, 2, 0).numpy()
            assert (image[y1:y2, x1:x2] == (255, 0, 0)).all()
            assert (image == (255, 0, 0)).all(axis=2).sum() == (x2 - x1) * (y2 - y1) == 25 * 20  # the whole box
            forms.add(bool(batch.sizes[0, 0] > batch.sizes[0, 1]))
    assert forms == {True, False}


def test_voc_with_half_turns_on_stored_pixels(tmp_path: Path) -> None:
    size = "<size><width>80</width><height>60</height></size>"
    write_voc(tmp_path, {"x": voc_object("a", "6 6 30 25")}, size="80,60")
    exif = Image.Exif()
    exif[0x0112] = 3
    picture((60, 80), 3, "stored").save(tmp_path / "JPEGImages" / "x.png", exif=exif)
    (tmp_path / "JPEGImages" / "x.jpg").unlink()
    assert size in (tmp_path / "Annotations" / "x.xml").read_text()
    data = voc(tmp_path, exif="ignore")
    data.setup("fit")
    assert_boxes_are_red(data)


def test_further_images_of_a_file_give_a_warning_at_set_up(tmp_path: Path) -> None:
    root = write(tmp_path, *[((60, 80), 1, "stored")] * 3)
    for name in ("1.tif", "3.tif"):
        image = picture((60, 80), 1, "stored")
        image.save(root / "train" / name, save_all=True, append_images=[image])
    _, (line,) = opened(root)
    assert f"several pictures (an animation, pages), of which the first is taken: 2, first: {root}/train/1.tif" in line


def test_wrong_exif_and_value_range_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.exif='no': expected auto or apply or ignore"):
        coco(tmp_path, exif="no")
    for wrong in ([5, 5], [5], [0, 1, 2], ["a", "b"]):
        with pytest.raises(ValueError, match=re.escape(f"data.value_range={wrong}: expected [black, white]")):
            coco(tmp_path, value_range=wrong)
