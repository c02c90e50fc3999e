"""Predictions written to files and read back, and merged from several ranks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from evaluation.metrics import evaluate
from evaluation.results import ImagePredictions, collect, read_predictions, write_predictions
from evaluation.truth import Predictions, Truth


@pytest.fixture
def truth(truth_of: Callable[..., Truth]) -> Truth:
    objects = [
        {"image": image, "label": image % 2, "box": (10 + image, 10, 60 + 9.3 * image, 50)} for image in range(4)
    ]
    return truth_of(objects, image_ids=(30, 10, 20, 40), class_names=("cat", "dog"), category_ids=(18, 3))


def near(truth: Truth) -> Predictions:
    """Copies of every true box with noise, in float32."""
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(len(truth.boxes)), 5)
    return Predictions(
        image_index=truth.image_index[index],
        boxes=(truth.boxes[index] + rng.normal(0, 3, (len(index), 4))).astype(np.float32),
        scores=rng.random(len(index)).astype(np.float32),
        labels=truth.labels[index],
    )


def test_scoring_the_file_gives_the_same_digits_as_scoring_the_arrays(truth: Truth, tmp_path: Path) -> None:
    predictions = near(truth)
    write_predictions(tmp_path / "found.json", truth, predictions)
    read = read_predictions(tmp_path / "found.json", truth)
    for name in ("image_index", "labels", "scores"):
        assert_array_equal(getattr(read, name), getattr(predictions, name))
    np.testing.assert_allclose(read.boxes, predictions.boxes, rtol=0, atol=1e-9)
    assert evaluate(truth, read) == evaluate(truth, predictions)


def test_the_file_is_coco_results_and_the_only_one_left_in_the_folder(truth: Truth, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text("an older file")
    box = np.array([[1, 2, 4, 8.5]])
    found = Predictions(np.array([1]), box, scores=np.array([0.25]), labels=np.array([1]))
    write_predictions(path, truth, found)
    assert json.loads(path.read_text()) == [{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 6.5], "score": 0.25}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "found.json"
    path.write_text("an older file")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_predictions(path, truth, near(truth))
    assert path.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [path]


def test_file_stems_as_image_ids_survive_the_file(truth_of: Callable[..., Truth], tmp_path: Path) -> None:
    truth = truth_of([{"box": (0, 0, 5, 5), "image": 1}], image_ids=("000007", "img_b"), voc=True)
    write_predictions(tmp_path / "found.json", truth, near(truth))
    assert_array_equal(read_predictions(tmp_path / "found.json", truth).image_index, [1] * 5)


def test_an_empty_list_is_legal(truth: Truth, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text("[]")
    assert evaluate(truth, read_predictions(tmp_path / "found.json", truth)).scalars["AP"] == 0


GOOD: dict[str, Any] = {"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


def but(**changes: Any) -> str:
    return json.dumps([GOOD, {**GOOD, **changes}])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{", "is not JSON"),
        ("\xff", "is not JSON"),
        (json.dumps({"annotations": []}), "a dict, not a list"),
        (json.dumps([GOOD, 3]), "entry 1: 3 is not an object"),
        (json.dumps([GOOD, {"image_id": 10, "score": 1}]), "entry 1: has no category_id and no bbox"),
        (but(image_id=11), "entry 1: image_id 11 is not in the split, which has 4 images: 30, 10, 20, 40"),
        (but(image_id="10"), 'entry 1: image_id "10" is not in the split'),
        (but(image_id=10.5), r"entry 1: image_id 10\.5 is not in the split"),
        (but(image_id=True), "entry 1: image_id true is not in the split"),
        (but(category_id="3"), 'entry 1: category_id "3" is not in the data set'),
        (but(category_id=3.5), r"entry 1: category_id 3\.5 is not in the data set"),
        (
            json.dumps([{**GOOD, "image_id": f"{i}"} for i in (30, 10, 30)]),
            r"image ids are text \('30', '10'\), those of the annotations integers \(30, 10, 20, 40\)",
        ),
        (
            json.dumps([{**GOOD, "category_id": "dog"}]),
            r"category ids are text \('dog'\), those of the annotations integers \(18, 3\)",
        ),
        (but(image_id=[10]), r"entry 1: image_id \[10\] is not in the split"),
        (but(category_id=1), r"entry 1: category_id 1 .* categories are 18 \(cat\), 3 \(dog\)"),
        (but(bbox=[1, 2, 3]), r"entry 1: bbox \[1, 2, 3\] is not four finite numbers"),
        (but(bbox=[1, 2, float("nan"), 4]), "entry 1: bbox .*NaN.* is not four finite numbers"),
        (but(bbox=[1, 2, "3", 4]), "entry 1: bbox .* is not four finite numbers"),
        (but(bbox="1234"), "entry 1: bbox .* is not four finite numbers"),
        (but(bbox=[10, 10, -3, 4]), "entry 1: bbox .* negative side; write x, y, width, height"),
        (but(score=None), "entry 1: score null is not a finite number"),
        (but(score=float("inf")), "entry 1: score Infinity is not a finite number"),
    ],
)
def test_a_bad_file_is_named_with_entry_value_and_what_was_expected(
    text: str, says: str, truth: Truth, tmp_path: Path
) -> None:
    path = tmp_path / "found.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says) as raised:
        read_predictions(path, truth)
    assert str(path) in str(raised.value)


def test_integers_may_be_written_as_floats(truth: Truth, tmp_path: Path) -> None:
    """As pandas and tensors write them."""
    path = tmp_path / "found.json"
    path.write_text(json.dumps([{**GOOD, "image_id": 10.0, "category_id": 3.0}, GOOD]))
    read = read_predictions(path, truth)
    assert read.image_index.tolist() == [1, 1]
    assert read.labels.tolist() == [1, 1]


def test_numbers_for_ids_of_text_are_told_in_one_line(truth_of: Callable[..., Truth], tmp_path: Path) -> None:
    truth = truth_of([], image_ids=("000007", "000012"), voc=True)
    path = tmp_path / "found.json"
    path.write_text(json.dumps([{**GOOD, "category_id": 1, "image_id": i} for i in (7, 12.0)]))
    says = r"image ids are integers \(7, 12\), those of the annotations text \('000007', '000012'\)"
    with pytest.raises(ValueError, match=says):
        read_predictions(path, truth)


def test_categories_that_are_not_scored_are_left_out_and_counted(
    truth: Truth, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = replace(truth, other_categories={5: "bird", 6: "cow"})
    path = tmp_path / "found.json"
    others = [{**GOOD, "category_id": number} for number in (5, 6, 5.0)]
    path.write_text(json.dumps([others[0], GOOD, *others[1:]]))
    read = read_predictions(path, truth)
    assert read.labels.tolist() == [1]
    assert (
        "3 of its 4 entries are left out, of categories that are not scored (data.classes): 5 (bird) 2, 6 (cow) 1"
        in (caplog.text)
    )
    caplog.clear()
    path.write_text(json.dumps([GOOD]))
    assert read_predictions(path, truth).labels.tolist() == [1]
    assert not caplog.text


def test_a_category_that_no_annotation_file_has_is_refused_with_the_names_of_all(truth: Truth, tmp_path: Path) -> None:
    truth = replace(truth, other_categories={5: "bird"})
    path = tmp_path / "found.json"
    path.write_text(json.dumps([{**GOOD, "category_id": 5}, {**GOOD, "category_id": 7}]))
    with pytest.raises(ValueError, match=r"entry 1: category_id 7 .* 18 \(cat\), 3 \(dog\), 5 \(bird\)\. Write"):
        read_predictions(path, truth)


def part(image_id: int | str, *scores: float) -> ImagePredictions:
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (len(scores), 1))
    return ImagePredictions(image_id, boxes, np.array(scores, np.float32), np.zeros(len(scores), np.int64))


def test_parts_of_all_ranks_become_one_in_the_order_of_the_truth(truth: Truth) -> None:
    ranks = [[part(40, 0.4), part(10)], [part(20, 0.2, 0.1), part(30, 0.3)]]
    predictions = collect([entry for rank in ranks for entry in rank], truth)
    assert_array_equal(predictions.image_index, [0, 2, 2, 3])
    assert_array_equal(predictions.scores, np.float32([0.3, 0.2, 0.1, 0.4]))
    assert predictions.boxes.dtype == np.float32


def test_a_copy_of_an_image_counts_once(truth: Truth) -> None:
    parts = [part(image_id, 0.5) for image_id in (30, 10, 20, 40)]
    assert_array_equal(collect([*parts, part(10, 0.5)], truth).image_index, [0, 1, 2, 3])


def test_nothing_found_anywhere_can_be_scored(truth: Truth) -> None:
    empty = collect([part(image_id) for image_id in truth.image_ids.tolist()], truth)
    assert evaluate(truth, empty).scalars["AP"] == 0


def test_an_image_that_no_rank_evaluated_is_named(truth: Truth) -> None:
    with pytest.raises(ValueError, match="2 of 4 images have no predictions: 10, 40"):
        collect([part(20), part(30)], truth)


def test_a_split_without_images_cannot_be_scored(truth: Truth) -> None:
    with pytest.raises(ValueError, match="no image to score"):
        collect([], truth.only(np.zeros(4, bool)))


def test_an_image_of_another_split_is_named(truth: Truth) -> None:
    with pytest.raises(ValueError, match=r"the split lacks 1 image with predictions: 99\. It has 4 images: "):
        collect([part(image_id) for image_id in (30, 10, 20, 40, 99)], truth)
