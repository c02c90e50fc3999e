"""Boxes in another form are reported with its name; correct boxes never are, however few and wherever they lie."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.box_forms import Form, doubt

Boxes = np.ndarray
XYWH: Form = "x, y, width, height"
XYXY: Form = "x1, y1, x2, y2"


def as_form(form: str, xywh: Boxes) -> Boxes:
    x, y, w, h = xywh.T
    columns = {
        "x": x, "y": y, "width": w, "height": h, "x1": x, "y1": y, "x2": x + w, "y2": y + h, "centre x": x + w / 2,
        "centre y": y + h / 2,
    }  # fmt: skip
    return np.stack([columns[name] for name in form.split(", ")], axis=1)


FORMS = [
    f"{y}, {x}, {height}, {width}"
    for first, second in ((("x", "y"), ("width", "height")), (("x1", "y1"), ("x2", "y2")),
                          (("centre x", "centre y"), ("width", "height")))
    for (x, y), (width, height) in ((first[::-1], second[::-1]), (first, second))
]  # fmt: skip


def drawn(number: int, seed: int = 0) -> tuple[Boxes, np.ndarray, np.ndarray]:
    """Correct boxes of any size in images of any shape, some of them whole images; returns boxes, sizes and images."""
    random = np.random.default_rng(seed)
    sizes = random.integers(40, 800, (number, 2))
    sides = sizes[:, ::-1] * np.exp(random.uniform(-3.5, 0, (number, 2)))
    sides[::7] = sizes[::7, ::-1]
    corners = random.uniform(0, 1, (number, 2)) * (sizes[:, ::-1] - sides)
    return np.concatenate([corners, sides], axis=1).round(2), sizes, np.arange(number)


def judged(xywh: Boxes, sizes: np.ndarray, images: np.ndarray, form: str, read_as: Form) -> str:
    found = doubt(as_form(form, xywh), sizes, read_as, images)
    assert found is None or not found.is_certain
    return "" if found is None else found.text


@pytest.mark.parametrize("read_as", [XYWH, XYXY])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised_by_where_its_boxes_lie(form: str, read_as: Form) -> None:
    said = judged(*drawn(300), form, read_as)
    assert said.startswith(f"are the boxes {form}? Read so, 0 of 300 stick out of their" if form != read_as else "")
    assert bool(said) == (form != read_as)


def test_four_boxes_are_enough_where_all_of_them_cross_the_border() -> None:
    boxes = np.array([[20, 30, 60, 40], [70, 10, 40, 50]] * 2)
    said = judged(boxes, np.array([[96, 128]] * 4), np.array([0, 0, 1, 1]), XYXY, XYWH)
    assert said.startswith("are the boxes x1, y1, x2, y2? Read so, 0 of 4 stick out of their images")
    assert said.endswith("; read as x, y, width, height, as they are now, 4 do")


@pytest.mark.parametrize("number", [1, 2, 3, 5, 10, 40, 300])
def test_correct_boxes_are_never_reported(number: int) -> None:
    for seed in range(40):
        for read_as in (XYWH, XYXY):
            assert judged(*drawn(number, seed), read_as, read_as) == ""


def test_one_box_over_the_whole_of_each_image_is_correct() -> None:
    sizes = drawn(50)[1]
    whole = np.concatenate([np.zeros((50, 2)), sizes[:, ::-1]], axis=1)
    assert judged(whole, sizes, np.arange(50), XYWH, XYWH) == ""
    assert judged(whole, sizes, np.arange(50), XYXY, XYXY) == ""


def test_boxes_that_stick_out_slightly_or_rarely_are_correct() -> None:
    boxes, sizes, images = drawn(400)
    boxes[:, 2:] += 2
    assert judged(boxes, sizes, images, XYWH, XYWH) == ""
    boxes[::30, :2] -= boxes[::30, 2:] / 2
    assert judged(boxes, sizes, images, XYWH, XYWH) == ""


@pytest.mark.parametrize("read_as", [XYWH, XYXY])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [1, 300])
def test_fractions_of_the_image_are_certain_in_any_form(form: str, read_as: Form, number: int) -> None:
    boxes, sizes, images = drawn(number)
    found = doubt(as_form(form, boxes / np.tile(sizes[:, ::-1], 2)).round(4), sizes, read_as, images)
    assert found is not None
    assert found.is_certain
    assert f"{number} of {number} boxes hold no number over 1" in found.text


def test_some_fractions_among_pixels_are_reported() -> None:
    boxes, sizes, images = drawn(300)
    boxes[:60] /= np.tile(sizes[:60, ::-1], 2)
    assert judged(boxes, sizes, images, XYWH, XYWH).startswith("60 of 300 boxes hold no number over 1")


def test_percentages_and_pixels_of_smaller_copies_are_reported() -> None:
    boxes, sizes, images = drawn(300)
    sizes *= 3
    for factor in (np.tile(100 / sizes[:, ::-1], 2), 1 / 2):
        assert "none of 300 boxes reaches over the upper left part" in judged(boxes * factor, sizes, images, XYWH, XYWH)


def test_boxes_of_other_images_are_reported() -> None:
    boxes, sizes, images = drawn(300)
    assert "stick out of their images" in judged(boxes, np.roll(sizes, 1, axis=0), images, XYWH, XYWH)


@pytest.mark.parametrize("stated", [[[0, 0, 0, 0]], [[np.nan, 1, 1, 1], [np.inf, 0, 1, 1]], [[1e308] * 4] * 2])
def test_invalid_boxes_raise_no_error(stated: list[list[float]]) -> None:
    boxes = np.array(stated)
    for form in (XYWH, XYXY):
        found = doubt(boxes, np.full((len(boxes), 2), 50), form, np.zeros(len(boxes), np.int64))
        assert found is None or not found.is_certain
    assert doubt(np.zeros((0, 4)), np.zeros((0, 2)), XYWH, np.zeros(0, np.int64)) is None


def _coco(folder: Path) -> tuple[Boxes, np.ndarray, np.ndarray]:
    content = json.loads((folder / "coco_small" / "annotations" / "instances_train.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    images = [annotation["image_id"] for annotation in content["annotations"]]
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    return np.array(boxes, float), np.array([sizes[image] for image in images]), np.array(images)


def _bccd(folder: Path) -> tuple[Boxes, np.ndarray, np.ndarray]:
    boxes, sizes, images = [], [], []
    for number, file in enumerate(sorted((folder / "bccd_voc" / "Annotations").glob("*.xml"))):
        tree = ET.parse(file)
        for entry in tree.iter("object"):
            x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{n}") or 0) for n in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append([x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1])
            sizes.append([float(tree.findtext(f"size/{side}") or 0) for side in ("height", "width")])
            images.append(number)
    return np.array(boxes), np.array(sizes), np.array(images)


@pytest.mark.parametrize("read", [_coco, _bccd])
def test_real_boxes_are_correct_in_any_subset_and_recognised_in_any_form(
    shared_data: Path, read: Callable[[Path], tuple[Boxes, np.ndarray, np.ndarray]]
) -> None:
    boxes, sizes, images = read(shared_data)
    random = np.random.default_rng(0)
    for number in [1, 2, 3, 5, 10, 30, 100] * 30:
        part = random.choice(len(boxes), number, replace=False)
        for read_as in (XYWH, XYXY):
            assert judged(boxes[part], sizes[part], images[part], read_as, read_as) == ""
    for form in FORMS:
        for read_as in (XYWH, XYXY):
            said = judged(boxes, sizes, images, form, read_as)
            assert said.startswith(f"are the boxes {form}?" if form != read_as else "")
            assert bool(said) == (form != read_as)
