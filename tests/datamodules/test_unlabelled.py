"""Splits that list images alone, as those of test sets whose annotations are not public."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_data import coco, voc, voc_object, write_coco, write_json, write_voc

from datamodules.base import DetectionDataModule
from datamodules.errors import DataError

SIZES = [(40, 60), (30, 50)]
FORMS: dict[str, dict[str, Any]] = {
    "no annotations": {"annotations": "absent"},
    "annotations null": {"annotations": None},
    "no annotation": {"annotations": []},
    "images alone": {"annotations": "absent", "categories": "absent"},
    "no annotation of no category": {"annotations": [], "categories": []},
}


def write_test(root: Path, split: str = "test", **changes: Any) -> None:
    """Adds a split without boxes, in a form of its own."""
    file = root / "annotations" / f"instances_{split}.json"
    write_coco(root, SIZES, [[], []], split)
    content = {**json.loads(file.read_text()), **changes}
    write_json(root, {key: value for key, value in content.items() if value != "absent"}, split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path, [(40, 60)], [[[1, 1, 9, 9]]])


@pytest.mark.parametrize("form", FORMS)
def test_a_coco_file_of_images_alone_is_read_to_be_tested_on(root: Path, form: str) -> None:
    write_test(root, **FORMS[form])
    data = coco(root, test_split="test", check_boxes=form == "no annotation")
    data.setup("fit")
    with pytest.warns(UserWarning, match="the test split 'test' has no (annotations, so that|box to score)"):
        data.setup("test")
    truth = data.truth("test")
    assert truth.image_ids.tolist() == [10, 20]
    assert truth.sizes.tolist() == [list(size) for size in SIZES]
    assert (truth.class_names, truth.category_ids) == (("a", "b"), (3, 7))
    assert len(truth.boxes) == 0
    assert sorted(info.image_id for batch in data.test_dataloader() for info in batch.infos) == [10, 20]


@pytest.mark.parametrize("form", ["images alone", "no annotation of no category"])
def test_without_categories_the_classes_are_those_of_a_checkpoint(root: Path, form: str) -> None:
    write_test(root, **FORMS[form])
    with pytest.raises(DataError, match="Set up a split with classes before it, or assume_classes"):
        coco(root, test_split="test").setup("test")
    data = coco(root, test_split="test")
    data.assume_classes(["b", "a"], [7, 3])
    data.setup("test")
    assert (data.class_names, data.category_ids) == (("b", "a"), (7, 3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("checked", [True, False])
def test_it_is_refused_to_be_trained_on(root: Path, form: str, checked: bool) -> None:
    write_test(root, **FORMS[form])
    if form == "no annotation" and not checked:
        return  # background, as data.check_boxes=false has it
    with pytest.raises(DataError, match=r"no list 'annotations'|no list 'categories'|no class|no box to train on"):
        coco(root, train_split="test", val_split="train", check_boxes=checked).setup("fit")


def test_it_is_refused_to_be_validated_on(root: Path) -> None:
    write_test(root, **FORMS["no annotations"])
    with pytest.raises(DataError, match=r"no list 'annotations', .*Only the split to test on \(data\.test_split\) can"):
        coco(root, val_split="test").setup("fit")


def test_a_list_that_is_named_for_validation_too_can_be_tested_on_alone(root: Path) -> None:
    write_test(root, **FORMS["no annotations"])
    data = coco(root, val_split="test", test_split="test")
    with pytest.warns(UserWarning, match="nothing to score"):
        data.setup("test")
    assert len(data.truth("test").image_ids) == 2


def test_cocos_own_file_of_images_alone_is_named_where_the_other_is_missing(root: Path) -> None:
    write_test(root, **FORMS["no annotations"])
    folder = root / "annotations"
    (folder / "instances_test.json").rename(folder / "image_info_test.json")
    says = rf"image_info_test\.json lists images alone: .* set data\.annotations={folder}/image_info_test\.json, and "
    with pytest.raises(DataError, match=says):
        coco(root, test_split="test").setup("test")
    with pytest.warns(UserWarning, match="nothing to score"):
        coco(root, test_split="test", annotations=str(folder / "image_info_test.json")).setup("test")


def test_it_is_not_joined_with_annotated_images(root: Path) -> None:
    write_test(root, **FORMS["no annotations"])
    with pytest.raises(DataError, match=r"instances_train\.json has annotations: score it by itself"):
        coco(root, test_split="train+test", val_split="train").setup("test")


@pytest.mark.parametrize("change", [{"annotations": {"1": []}}, {"categories": {"1": "a"}}, {"images": "absent"}])
def test_lists_of_another_kind_are_refused_to_be_tested_on_too(root: Path, change: dict[str, Any]) -> None:
    write_test(root, **change)
    (key,) = change
    with pytest.raises(DataError, match=f"has no list {key!r}, it .*Where there is no list to test on"):
        coco(root, test_split="test").setup("test")


def devkit(root: Path) -> DetectionDataModule:
    write_voc(root / "VOC2012", {"x": voc_object("a", "1 1 9 9")})
    write_voc(root / "VOC2012", {"2012_000001": "", "2012_000002": ""}, split="test")
    for stem in ("2012_000001", "2012_000002"):
        (root / "VOC2012" / "Annotations" / f"{stem}.xml").unlink()
    return voc(root, train_split="2012_trainval", val_split="2012_trainval", test_split="2012_test")


def test_a_voc_split_without_any_xml_is_read_to_be_tested_on(tmp_path: Path) -> None:
    data = devkit(tmp_path)
    data.setup("fit")
    with pytest.warns(UserWarning, match="the test split '2012_test' has no annotations") as told:
        data.setup("test")
    assert len(told) == 1
    truth = data.truth("test")
    assert truth.image_ids.tolist() == ["2012_000001", "2012_000002"]
    assert truth.sizes.tolist() == [[30, 40]] * 2
    assert truth.class_names == ("a", "b")
    assert [len(batch.infos) for batch in data.test_dataloader()] == [2]


def test_a_voc_split_without_any_xml_is_refused_to_be_trained_on(tmp_path: Path) -> None:
    data = devkit(tmp_path)
    data.train_split = "2012_test"
    says = re.escape(
        "none of the 2 annotation files of the split exists; the first would be "
        f"{tmp_path / 'VOC2012' / 'Annotations' / '2012_000001.xml'}."
    )
    with pytest.raises(DataError, match=f"{says}.*Only the split to test on"):
        data.setup("fit")


def test_a_voc_split_that_lacks_some_xml_or_a_picture_is_refused_as_before(tmp_path: Path) -> None:
    data = devkit(tmp_path)
    picture = tmp_path / "VOC2012" / "JPEGImages" / "2012_000002.jpg"
    kept = shutil.move(picture, tmp_path / "kept.jpg")
    with pytest.raises(DataError, match="none of the 2 annotation files of the split exists"):
        data.setup("test")
    shutil.move(kept, picture)
    write_voc(tmp_path / "VOC2012", {"2012_000001": voc_object("a", "1 1 9 9")}, split="other")
    with pytest.raises(DataError, match="an image of the split has no annotation file: 1"):
        data.setup("test")
