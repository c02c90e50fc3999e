"""Problems of annotations that are reported or refused before training."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_data import coco, voc, voc_object, write_coco, write_json, write_voc

from datamodules.base import DetectionDataModule
from datamodules.errors import DataError

SIZE = (96, 128)
BOXES = [[20, 30, 60, 40], [70, 10, 40, 50]]
RIGHT = [{"bbox": box, "area": 900} for box in BOXES]


def told(data: DetectionDataModule, stage: str | None = "fit") -> list[str]:
    """The warnings of a set-up, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup(stage)
    return list(dict.fromkeys(str(warning.message) for warning in caught))


def refused(data: DetectionDataModule) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError) as error:
            data.setup("fit")
    return str(error.value)


def corners(box: list[float]) -> dict[str, Any]:
    x, y, w, h = box
    return {"bbox": [x, y, x + w, y + h], "area": "absent"}


def of_xml(*boxes: str) -> str:
    return "".join(voc_object("a", box) for box in boxes)


def checked(root: Path, **options: Any) -> DetectionDataModule:
    return coco(root, check_boxes=True, **options)


# Boxes of another form


def test_correct_boxes_give_no_warning(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE] * 2, [RIGHT] * 2)
    assert told(checked(tmp_path)) == []
    write_voc(tmp_path / "voc", {"x": of_xml("1 1 40 30"), "y": of_xml("3 4 20 20", "40 30 40 30")})
    assert told(voc(tmp_path / "voc", classes=["a"], num_classes=1, check_boxes=True)) == []


def test_corners_in_place_of_a_bbox_are_reported_by_file(tmp_path: Path) -> None:
    """A file whose boxes are corners is reported on its own beside a valid file."""
    write_coco(tmp_path, [SIZE] * 9, [RIGHT] * 9)
    write_coco(tmp_path, [SIZE] * 2, [[corners(box) for box in BOXES]] * 2, "more")
    data = checked(tmp_path, train_split="train+more")
    (doubt,) = [line for line in told(data) if "filled in" not in line]
    assert "instances_more.json: are the boxes x1, y1, x2, y2?" in doubt
    assert "as they are now, 4 do" in doubt
    assert "inspect_data.py" in doubt
    assert len(told(coco(tmp_path, train_split="train+more"))) == 1  # the warning about filled-in values
    assert doubt.partition(", ")[2].startswith(data.describe().splitlines()[-1])  # the log and the report have it too
    assert len(data.truth("train").boxes) == 22


def test_a_wrong_form_is_reported_beside_the_problems_that_it_causes(tmp_path: Path) -> None:
    """The boxes are x, y, width, height instead of VOC's corners, so that many have a negative side."""
    objects = of_xml("10 5 12 6", "25 12 9 8", "30 20 5 4", "2 3 20 15")
    write_voc(tmp_path, {"x": objects, "y": objects})
    options: dict[str, Any] = {"classes": ["a"], "num_classes": 1, "check_boxes": True}
    said = refused(voc(tmp_path, **options))
    assert "negative width or height" in said
    assert f"{tmp_path / 'Annotations'}: are the boxes x, y, width, height? Read so, 0 of 8" in said
    assert any("are the boxes x, y, width, height?" in line for line in told(voc(tmp_path, on_error="skip", **options)))


@pytest.mark.parametrize("role", ["train_split", "val_split", "test_split"])
def test_fractions_are_refused_unless_check_boxes_is_off(tmp_path: Path, role: str) -> None:
    write_coco(tmp_path, [SIZE], [RIGHT])
    write_coco(tmp_path, [SIZE], [[[0.2, 0.3, 0.5, 0.4], [0, 0, 1, 1]]], "more")
    with pytest.raises(DataError, match=r"instances_more\.json: 2 of 2 boxes hold no number over 1.*check_boxes=false"):
        checked(tmp_path, **{role: "more"}).setup()
    coco(tmp_path, **{role: "more"}).setup()
    write_voc(tmp_path / "voc", {"x": of_xml("0.1 0.2 0.5 0.9", "0 0 1 1")})
    with pytest.raises(DataError, match="Annotations: 2 of 2 boxes hold no number over 1"):
        voc(tmp_path / "voc", classes=["a"], num_classes=1, check_boxes=True).setup()


# Nothing to train on, nothing to score


def of_unlisted_images(root: Path) -> None:
    write_coco(root, [SIZE], [[{"image_id": 5}, {"image_id": 6}]])


def of_other_classes(root: Path) -> None:
    write_coco(root, [SIZE], [[{"category_id": 7}, {"category_id": 7}]])


WITHOUT: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no annotation": (
        lambda root: write_coco(root, [SIZE] * 2, [[], []]), {}, r"no annotation; check .*, and data\.annotations$",
    ),
    "no annotation, empty images dropped": (
        lambda root: write_coco(root, [SIZE], [[]]), {"empty_images": "drop"}, "its images have no annotation",
    ),
    "all skipped": (
        lambda root: write_coco(root, [SIZE], [[[1, 1, -3, 4], [1, 1, 3, -4]]]), {"on_error": "skip"},
        "no sound annotation for its images: 2 skipped as data.on_error=skip has it .the box has a negative width",
    ),
    "ids that do not match": (
        of_unlisted_images, {"on_error": "skip"}, "2 skipped .*an annotation belongs to an image that",
    ),
    "other classes": (
        of_other_classes, {"classes": ["a"], "num_classes": 1}, r"of other classes; .* set 'data.classes=\[b\]'$",
    ),
    "crowds": (lambda root: write_coco(root, [SIZE], [[{"iscrowd": 1}]]), {}, "1 annotation .*: 1 crowd"),
    "small": (
        lambda root: write_coco(root, [SIZE], [[[1, 1, 3, 3], [1, 1, 0, 9]]]), {"min_box": 4},
        "2 with a side under 4 pixels; to train on boxes so small, if they are pixels, lower data.min_box",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WITHOUT)
def test_a_training_split_without_boxes_is_refused_with_the_cause(tmp_path: Path, case: str) -> None:
    write, options, says = WITHOUT[case]
    write(tmp_path)
    said = refused(checked(tmp_path, **options))
    file = tmp_path / "annotations" / "instances_train.json"
    assert said.startswith(f"split 'train' ({file}) has no box to train on: ")
    assert re.search(says, said), said


def test_a_split_all_of_whose_images_are_skipped_is_told_so(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 3, 4]]])
    file = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    del content["images"][0]["id"]
    file.write_text(json.dumps(content))
    said = refused(checked(tmp_path, on_error="skip"))
    assert said.startswith("data.train_split='train' is empty: none of its images is left: 2 skipped as data.on_error")
    assert str(file) in said


def test_without_a_name_of_a_class_nothing_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.classes=\[\]: expected the names"):
        checked(tmp_path, classes=[], num_classes=0)


def test_a_question_ends_without_a_full_stop(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE] * 2, [[corners(box) for box in BOXES]] * 2)
    said = [line for line in told(checked(tmp_path)) if line.endswith("inspect_data.py")]
    assert said
    assert not any("?." in line for line in said)


def test_boxes_that_are_all_held_out_leave_nothing_to_train_on(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE] * 2, [BOXES, []])
    found = [refused_or_told(checked(tmp_path, val_fraction=0.5, seed=seed)) for seed in range(8)]
    file = tmp_path / "annotations" / "instances_train.json"
    trained, scored = f"split 'train' ({file}) has no box to train on", "the val split 'train' has no box to score"
    assert {trained, scored} == set(found)


def refused_or_told(data: DetectionDataModule) -> str:
    try:
        return next(line for line in told(data) if "no box" in line).partition(",")[0]
    except DataError as error:
        return str(error).partition(":")[0]


@pytest.mark.parametrize(("stage", "role"), [("fit", "val"), ("validate", "val"), ("test", "test")])
def test_a_split_without_boxes_to_score_gives_a_warning(tmp_path: Path, stage: str, role: str) -> None:
    write_coco(tmp_path, [SIZE], [RIGHT])
    write_coco(tmp_path, [SIZE], [[{"iscrowd": 1}]], "more")
    (said,) = told(checked(tmp_path, **{f"{role}_split": "more"}), stage)
    assert said.startswith(f"the {role} split 'more' has no box to score, so that AP has no value: it has 1 annotation")
    assert said.endswith(": 1 crowd")
    assert told(checked(tmp_path), stage) == []


def test_boxes_too_small_to_train_are_scored(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 3, 3]]])
    assert told(checked(tmp_path, min_box=9), "validate") == []


def test_a_split_of_which_no_image_can_be_read_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE] * 3, [RIGHT] * 3)
    write_coco(tmp_path, [SIZE] * 2, [RIGHT] * 2, "more")
    for file in (tmp_path / "more").iterdir():
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    for role in ("train_split", "val_split"):
        said = refused(coco(tmp_path, on_error="skip", **{role: "more"}))
        assert said.startswith("no image of split 'more' can be read, with data.on_error=skip none is left; ")
        assert "more_0.png" in said
    shutil.copy(tmp_path / "train" / "train_1.png", tmp_path / "more" / "more_1.png")
    assert told(coco(tmp_path, on_error="skip", train_split="more")) == []


# Areas, sizes, categories


@pytest.mark.parametrize(
    ("areas", "says"),
    [
        ([0, 0], "next to nothing, such as 0 or 1, for 2 of the 2 boxes of 32 x 32 pixels or more"),
        ([1, 2000], "next to nothing, such as 0 or 1, for 1 of the 2 boxes"),
        ([0.19, 0.16], "next to nothing"),  # as fractions of the image
        ([SIZE[0] * SIZE[1]] * 2, "over twice the box's for 2 of the 2 boxes"),
        ([2400, 2000], ""),
        ([30, 2000], ""),  # a thin object across the box
        (["absent", "absent"], ""),
    ],
)
def test_areas_that_do_not_fit_their_boxes_are_reported_with_file_and_counts(
    tmp_path: Path, areas: list[Any], says: str
) -> None:
    boxes = [{"bbox": box, "area": area} for box, area in zip(BOXES, areas, strict=True)]
    write_coco(tmp_path, [SIZE], [[*boxes, {"bbox": [1, 1, 9, 9], "area": 1}]])
    said = [line for line in told(checked(tmp_path)) if "filled in" not in line]
    assert len(said) == bool(says)
    assert not says or f"instances_train.json: `area` is {says}" in said[0]


def test_an_impossible_image_size_is_reported_with_its_files(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [SIZE] * 3, [BOXES] * 3) / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"height": 96, "width": 128', '"height": 0, "width": 0', 2))
    data = coco(tmp_path)
    said = "\n".join(told(data))
    assert "instances_train.json: 2 image sizes that no image has, 0 x 0 of train_0.png, 0 x 0 of train_1.png; " in said
    assert data.truth("train").sizes.tolist() == [list(SIZE)] * 3
    write_voc(tmp_path / "voc", {"x": of_xml("1 1 9 9")}, size="0,0")
    said = "\n".join(told(voc(tmp_path / "voc", classes=["a"], num_classes=1)))
    assert f"{tmp_path / 'voc' / 'Annotations'}: 1 image size that no image has, 0 x 0 of x.jpg; " in said


def grouped(root: Path, group: dict[str, Any], categories: list[str], used: list[int], split: str = "train") -> Path:
    """Categories from 1 on, and before them their supercategory as a category of its own."""
    write_coco(root, [SIZE], [[]], split)
    rows = [group, *({"id": n, "name": name, "supercategory": group["name"]} for n, name in enumerate(categories, 1))]
    annotations = [{"id": n, "image_id": 10, "category_id": c, "bbox": BOXES[0]} for n, c in enumerate(used)]
    images = [{"id": 10, "file_name": f"{split}_0.png", "height": SIZE[0], "width": SIZE[1]}]
    return write_json(root, {"images": images, "annotations": annotations, "categories": rows}, split)


GROUP = {"id": 0, "name": "animals", "supercategory": "none"}


def test_a_category_that_only_groups_the_others_is_skipped(tmp_path: Path) -> None:
    grouped(tmp_path, GROUP, ["cat", "dog"], [1, 2, 2])
    data = coco(tmp_path)
    assert "split 'train', passed over: category 'animals', which is the supercategory of all others" in "".join(
        told(data)
    )
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (1, 2))
    assert data.truth("val").labels.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match=r"has 3 classes, of which 'animals' only groups the others.*num_classes=2,"):
        coco(tmp_path, num_classes=80).setup()


def test_a_group_category_that_is_counted_named_or_used_is_kept(tmp_path: Path) -> None:
    grouped(tmp_path, GROUP, ["cat", "dog"], [1, 2, 2])
    for options in ({"num_classes": 3}, {"classes": ["animals", "cat", "dog"], "num_classes": 3}):
        data = coco(tmp_path, **options)
        assert "passed over" not in "".join(told(data))
        assert data.class_names == ("animals", "cat", "dog")
    grouped(tmp_path, GROUP, ["cat", "dog"], [1, 0], "more")
    for split in ("more", "train+more"):
        with pytest.raises(DataError, match=r"set data\.num_classes=3"):
            coco(tmp_path, train_split=split).setup("fit")
    grouped(tmp_path, {**GROUP, "name": "else"}, ["cat"], [1], "other")
    file = tmp_path / "annotations" / "instances_other.json"
    file.write_text(file.read_text().replace('"supercategory": "else"', '"supercategory": "pets"'))
    with pytest.raises(DataError, match="2 classes, and"):
        coco(tmp_path, train_split="other", num_classes=1).setup("fit")


def test_a_category_with_the_name_of_its_supercategory_is_read(tmp_path: Path) -> None:
    grouped(tmp_path, {**GROUP, "name": "cat"}, ["cat"], [1, 1])
    data = coco(tmp_path, num_classes=1)
    assert "category 0, 'cat', is passed over" in "".join(told(data))
    assert (data.class_names, data.category_ids) == (("cat",), (1,))
    assert data.truth("train").labels.tolist() == [0, 0]


def test_a_file_without_categories_is_refused_with_the_ids_that_it_uses(tmp_path: Path) -> None:
    file = grouped(tmp_path, GROUP, ["cat", "dog"], [1, 2, 2])
    text = re.sub(r'"categories": \[.*\]', '"categories": []', file.read_text())
    file.write_text(text)
    assert "its list 'categories' is empty; give an id and a name for each of its annotations, which are 1, 2" in (
        refused(coco(tmp_path))
    )
    shutil.rmtree(tmp_path / "annotations")
    write_json(tmp_path, {"images": [], "annotations": [], "categories": []})
    assert "its list 'categories' is empty; give an id and a name for each" in refused(coco(tmp_path))
