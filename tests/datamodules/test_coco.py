import json
import math
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_data import coco, write_coco, write_json

from datamodules import coco_decoded, coco_json, coco_load
from datamodules.coco import CocoDataModule
from evaluation.metrics import evaluate
from evaluation.truth import Predictions

SIZE = (40, 60)


def test_real_coco_json_reads_as_pycocotools_reads_it(shared_data: Path) -> None:
    data = CocoDataModule(root=str(shared_data / "coco_small"), train_split="train", val_split="val", test_split="val")
    data.setup()
    truth = data.truth("train")
    oracle = COCO(str(shared_data / "coco_small" / "annotations" / "instances_train.json"))
    assert len(truth.image_ids) == 128
    assert len(truth.boxes) == 939
    assert truth.crowd.sum() == 10
    assert list(data.category_ids) == sorted(oracle.cats)
    assert data.class_names[0] == "person"
    for row, image_id in enumerate(truth.image_ids.tolist()):
        wanted = oracle.imgToAnns[image_id]
        here = truth.image_index == row
        xywh = truth.boxes[here]
        xywh[:, 2:] -= xywh[:, :2]
        np.testing.assert_allclose(xywh, np.reshape([a["bbox"] for a in wanted], (-1, 4)), atol=1e-9)
        assert truth.areas[here].tolist() == [a["area"] for a in wanted]
        assert truth.crowd[here].tolist() == [a["iscrowd"] == 1 for a in wanted]
        ids = [data.category_ids[label] for label in truth.labels[here]]
        assert ids == [a["category_id"] for a in wanted]
        assert truth.sizes[row].tolist() == [oracle.imgs[image_id]["height"], oracle.imgs[image_id]["width"]]
    assert data.test_is_val
    assert not truth.voc


def test_labels_follow_rising_category_ids(tmp_path: Path) -> None:
    data = coco(write_coco(tmp_path, [SIZE], [[{"category_id": 7}, {"category_id": 3}]]))
    data.setup()
    assert data.class_names == ("a", "b")
    assert data.category_ids == (3, 7)
    assert data.truth("train").labels.tolist() == [1, 0]


def test_a_subset_of_classes_is_relabelled_in_its_own_order(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[{"category_id": 7}, {"category_id": 3}, {"category_id": 7}]])
    data = coco(tmp_path, classes=["b"], num_classes=1)
    data.setup()
    assert data.category_ids == (7,)
    assert data.truth("val").labels.tolist() == [0, 0]
    assert "1 of other classes" in data.describe()
    with pytest.raises(ValueError, match="did you mean 'b'"):
        coco(tmp_path, classes=["bb"], num_classes=1).setup()
    with pytest.raises(ValueError, match="names a class twice"):
        coco(tmp_path, classes=["b", "b"]).setup()


def test_all_classes_or_those_chosen_become_a_single_one(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[{"category_id": 7}, {"category_id": 3}, {"category_id": 7, "iscrowd": 1}]])
    data = coco(tmp_path, single_class="object", num_classes=1)
    data.setup()
    truth = data.truth("val")
    assert (data.class_names, truth.class_names) == (("object",), ("object",))
    assert (data.category_ids, truth.category_ids, truth.other_categories) == ((1,), (1,), {})
    assert truth.labels.tolist() == [0, 0, 0]
    assert truth.crowd.tolist() == [False, False, True]
    batch = next(iter(data.train_dataloader()))
    assert batch.labels[0].tolist() == [0, 0]
    chosen = coco(tmp_path, single_class="object", classes=["b"], num_classes=1)
    chosen.setup()
    assert chosen.truth("val").labels.tolist() == [0, 0]
    assert "1 of other classes" in chosen.describe()
    with pytest.raises(ValueError, match=r"data\.num_classes=2, but data\.single_class=object makes one of all"):
        coco(tmp_path, single_class="object").setup()


def test_missing_optional_keys_are_filled_in_with_one_warning(tmp_path: Path) -> None:
    bare = {"iscrowd": "absent", "area": "absent", "segmentation": "absent", "bbox": [1, 2, 3, 4]}
    write_coco(tmp_path, [SIZE], [[bare, bare, {"id": "absent"}]])
    data = coco(tmp_path)
    with pytest.warns(UserWarning, match="filled in") as warnings:
        data.setup("fit")
    (message,) = {str(warning.message) for warning in warnings if "filled in" in str(warning.message)}
    for part in ("iscrowd 2 times", "area 2 times", "segmentation 2 times", "id 1 time"):
        assert part in message
    truth = data.truth("train")
    assert truth.areas.tolist() == [12, 12, 1.5]
    assert not truth.crowd.any()


def test_a_file_whose_annotations_have_a_box_alone_is_read_and_scored(tmp_path: Path) -> None:
    """As labelformat writes it, which COCO's own API refuses."""
    absent = dict.fromkeys(("id", "iscrowd", "area", "segmentation"), "absent")
    write_coco(tmp_path, [SIZE], [[{**absent, "bbox": [1, 2, 10, 10]}, {**absent, "bbox": [20, 2, 30, 30]}]])
    file = next(tmp_path.glob("**/instances_train.json"))
    assert {key for one in json.loads(file.read_text())["annotations"] for key in one} == {
        "image_id", "category_id", "bbox",
    }  # fmt: skip
    with pytest.raises(KeyError):
        COCO(str(file))
    data = coco(tmp_path)
    with pytest.warns(UserWarning, match="integer id 2 times, area 2 times, iscrowd 2 times"):
        data.setup("validate")
    truth = data.truth("val")
    assert truth.areas.tolist() == [100, 900]
    found = Predictions(truth.image_index, truth.boxes, np.full(2, 0.5), truth.labels)
    assert evaluate(truth, found).scalars["AP"] == 1


def test_a_box_without_width_is_not_trained_on_and_scored_as_pycocotools_scores_it(tmp_path: Path) -> None:
    """As a tiler writes it for an object that only touches the tile: nothing can be found there."""
    line = {"bbox": [0, 5, 0, 22], "area": 0, "category_id": 7}
    write_coco(tmp_path, [SIZE], [[line, {"bbox": [20, 10, 20, 20], "area": 400, "category_id": 7}]])
    data = coco(tmp_path)
    data.setup()
    assert (next(iter(data.train_dataloader())).labels[0] >= 0).sum() == 1
    assert "1 with a side under 1 pixel" in data.describe()
    truth = data.truth("val")
    assert truth.boxes.tolist() == [[0, 5, 0, 27], [20, 10, 40, 30]]
    found = Predictions(truth.image_index, truth.boxes, np.array([0.9, 0.8]), truth.labels)
    file = next(tmp_path.glob("**/instances_train.json"))
    with redirect_stdout(StringIO()):
        oracle = COCO(str(file))
        results = [
            {"image_id": int(truth.image_ids[0]), "category_id": 7, "bbox": box, "score": score}
            for box, score in (([0, 5, 0, 22], 0.9), ([20, 10, 20, 20], 0.8))
        ]
        judge = COCOeval(oracle, oracle.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    metrics = evaluate(truth, found).scalars
    assert metrics["AP"] == pytest.approx(judge.stats[0])
    assert 0 < metrics["AP"] < 1


NAN = math.nan
BAD: list[tuple[dict[str, Any], str]] = [
    ({"bbox": [NAN, 1, 2, 3]}, "not finite"),
    ({"bbox": [1, 1, math.inf, 3]}, "not finite"),
    ({"bbox": [1, 1, -2, 3]}, "negative width or height"),
    ({"bbox": [60, 1, 5, 5]}, "outside the image"),
    ({"bbox": [-9, 1, 5, 5]}, "outside the image"),
    ({"bbox": [1, 41, 5, 5]}, "outside the image"),
    ({"bbox": [1, 2, 3]}, "four numbers"),
    ({"bbox": "absent"}, "four numbers"),
    ({"bbox": [1, 2, 3, "x"]}, "four numbers"),
    ({"category_id": 5}, "category that the file does not list"),
    ({"image_id": 99}, "image that the file does not list"),
    ({"id": 100}, "annotation id is used twice"),
]


@pytest.mark.parametrize(("change", "rule"), BAD)
def test_a_bad_annotation_is_named_with_file_box_rule_and_remedy(
    tmp_path: Path, change: dict[str, Any], rule: str
) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 9, 9], change]])
    with pytest.raises(ValueError, match=rule) as error:
        coco(tmp_path).setup()
    message = str(error.value)
    assert "instances_train.json" in message
    assert f"annotation {change.get('id', 101)} of" in message
    assert "data.on_error=skip" in message
    if rule in ("negative width or height", "outside the image"):
        assert f"(60 x 40), bbox {[float(value) for value in change['bbox']]}: the box" in message


@pytest.mark.parametrize(("change", "rule"), BAD)
def test_on_error_skip_skips_only_the_bad_annotation_and_lists_it(
    tmp_path: Path, change: dict[str, Any], rule: str
) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 9, 9], change]])
    data = coco(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match=rule):
        data.setup()
    assert data.truth("train").boxes.tolist() == [[1, 1, 10, 10]]
    (problem,) = data.problems
    assert rule in problem


def test_an_error_lists_the_first_few_and_counts_all(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, -1, 3]] * 150])
    with pytest.raises(ValueError, match="150 problems") as error:
        coco(tmp_path).setup()
    assert len(str(error.value).splitlines()) == 12
    assert "... 140 more" in str(error.value)


def test_boxes_that_stick_out_or_have_no_area_stay_in_truth_and_are_cut_or_dropped_in_training(
    tmp_path: Path,
) -> None:
    write_coco(tmp_path, [(32, 32)], [[[-4, 2, 10, 40], [5, 5, 0, 3], [5, 5, 0.5, 3], [32, 0, 0, 3]]])
    data = coco(tmp_path, batch_size=1)
    data.setup()
    assert data.truth("train").boxes[0].tolist() == [-4, 2, 6, 42]
    assert len(data.truth("train").boxes) == 4
    batch = next(iter(data.train_dataloader()))
    assert batch.boxes.tolist() == [[[0, 2, 6, 32]]]
    assert "1 box cut at the border" in data.describe()
    assert "3 with a side under 1 pixel" in data.describe()


def test_missing_images_are_found_at_setup_by_name(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE, SIZE], [[[1, 1, 9, 9]], [[1, 1, 9, 9]]])
    (tmp_path / "train" / "train_1.png").unlink()
    with pytest.raises(ValueError, match=r"'train', missing image files: 1 of 2\n  .*train_1\.png\nRestore"):
        coco(tmp_path).setup()
    data = coco(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match="missing image files: 1 of 2"):
        data.setup()
    assert [info.image_id for batch in data.val_dataloader() for info in batch.infos] == [10]


def test_a_wrong_image_folder_is_an_error_whatever_on_error_says(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE, SIZE], [[], []])
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"none of the 2 images.*data\.root"):
        coco(tmp_path, on_error="skip").setup()


def test_class_count_that_disagrees_prints_both_and_the_override(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[]])
    with pytest.raises(ValueError, match=r"data\.num_classes=80.*2 classes, and .*data\.num_classes=2,.*\['a', 'b'\]"):
        coco(tmp_path, num_classes=80).setup()


def test_joined_splits_match_classes_by_name_and_refuse_shared_ids_in_evaluation(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[{"category_id": 7}]])
    file = write_coco(tmp_path, [SIZE], [[{"category_id": 3}]], "more") / "annotations/instances_more.json"
    file.write_text(file.read_text().replace('"a"', '"B"').replace('"b"', '"a"').replace('"B"', '"b"'))
    data = coco(tmp_path, train_split="train+more")
    data.setup()
    assert data.truth("train").labels.tolist() == [1, 1]  # "b" is 7 in one file and 3 in the other
    with pytest.raises(ValueError, match=r"more than once, e\.g\. 10"):
        coco(tmp_path, val_split="train+more").setup()


def test_a_wrong_split_lists_the_existing_files(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[]])
    with pytest.raises(ValueError, match=r"instances_trian\.json does not exist; there are instances_train\.json"):
        coco(tmp_path, train_split="trian").setup()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": []}, "no list 'categories'"),
        ([], "no list 'images'"),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            r"several categories of id \[1\]",
        ),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "is empty: it lists no image"),
    ],
)
def test_a_file_that_is_not_an_instances_json_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    write_json(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        coco(tmp_path, num_classes=1).setup()


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = write_json(tmp_path, {"images": []})
    file.write_text(file.read_text()[:-3])
    with pytest.raises(ValueError, match="not valid JSON"):
        coco(tmp_path).setup()


def test_an_image_without_stated_size_takes_it_from_its_file(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [(40, 60)], [[[1, 1, 9, 9]]]) / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"height": 40, "width": 60', '"height": 0'))
    data = coco(tmp_path)
    with pytest.warns(UserWarning, match="image size 1 time"):
        data.setup()
    assert data.truth("train").sizes.tolist() == [[40, 60]]


def test_a_split_keeps_its_own_numbers_of_the_same_classes(tmp_path: Path) -> None:
    """Its results file is for a server that knows no other."""
    write_coco(tmp_path, [SIZE], [[{"category_id": 7}]])
    write_coco(tmp_path, [SIZE], [[{"category_id": 1}]], split="other")
    file = tmp_path / "annotations" / "instances_other.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 1, "name": "b"}, {"id": 2, "name": "a"}, {"id": 9, "name": "c"}]
    file.write_text(json.dumps(content))
    data = coco(tmp_path, test_split="other", classes=["a", "b"])
    data.setup()
    assert (data.truth("val").class_names, data.truth("val").category_ids) == (("a", "b"), (3, 7))
    test = data.truth("test")
    assert (test.class_names, test.category_ids, test.other_categories) == (("a", "b"), (2, 1), {9: "c"})
    assert test.labels.tolist() == [1]


def test_without_categories_the_ids_that_need_a_name_are_listed(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[{"category_id": number} for number in (10, 2, 1, "x", 2)]])
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"categories": []}))
    with pytest.raises(ValueError, match=r"names no class: .* of its annotations, which are 1, 2, 10, 'x'$"):
        coco(tmp_path).setup()


def test_one_id_of_two_annotations_is_told_and_both_count(tmp_path: Path) -> None:
    """COCO's minival of 2014 has such ids, written as floats; the evaluator would count the second one twice."""
    entries = [{"id": 5.0, "bbox": [1, 1, 5, 5]}, {"id": 5.0, "bbox": [2, 2, 9, 9]}, {"id": 6.0, "bbox": [0, 3, 7, 0]}]
    write_coco(tmp_path, [SIZE], [entries])
    data = coco(tmp_path)
    with pytest.warns(
        UserWarning,
        match=r"has the id of another one, both are floats and both count: 1, first: .*id 5\.0, annotation 2",
    ):
        data.setup("fit")
    assert data.truth("train").boxes.tolist() == [[1, 1, 6, 6], [2, 2, 11, 11], [0, 3, 7, 3]]
    assert "1 with a side under 1 pixel" in data.describe()


def plain_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_load, "decoded", lambda _: None)


@pytest.mark.parametrize(
    "changes", [{}, {"iscrowd": "absent"}, {"area": -1}, {"segmentation": "absent"}, {"iscrowd": 1}]
)
def test_decoded_arrays_are_what_the_plain_way_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    second = {"bbox": [0.1, 0.2, 30.7, 8.3], "category_id": 3, **changes}
    write_coco(tmp_path, [SIZE] * 2, [[[1, 2, 10, 12], second], [second]])
    assert_same_reading(tmp_path / "annotations" / "instances_train.json", tmp_path / "train", monkeypatch)


def test_decoded_arrays_of_real_annotations_are_what_the_plain_way_reads(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shared_data / "coco_small"
    assert_same_reading(root / "annotations" / "instances_train.json", root / "train", monkeypatch)


def assert_same_reading(file: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert coco_decoded.decoded(file.read_bytes()) is not None
    quick = coco_json.read_coco([(str(file), str(images))])
    arrays = quick.arrays()
    plain_reading(monkeypatch)
    plain = coco_json.read_coco([(str(file), str(images))])
    expected = plain.arrays()
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values, strict=True)
    assert quick.meta() == plain.meta()


@pytest.mark.parametrize(
    "odd", [{"id": "7"}, {"image_id": 11}, {"category_id": 4}, {"bbox": [1, 2, 3]}, {"iscrowd": 2}, {"id": 2**63}]
)
def test_an_odd_entry_sends_its_file_the_plain_way(tmp_path: Path, odd: dict[str, Any]) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 2, 10, 12], odd]])
    assert coco_decoded.decoded((tmp_path / "annotations" / "instances_train.json").read_bytes()) is None
