"""VOC's metrics compared with the recorded original and with cases worked by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evaluation.truth import Predictions, Truth
from evaluation.voc import voc_metrics


def continuous(boxes: np.ndarray) -> np.ndarray:
    """Converts inclusive yxyx to our xyxy."""
    return boxes[:, [1, 0, 3, 2]].astype(np.float64) + np.array([0, 0, 1, 1])


def flat(arrays: list[Any], empty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The list (by row) that each element came from, and the elements."""
    arrays = [np.asarray(array) for array in arrays]
    index = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    return index, np.concatenate([empty, *arrays])


def scored(case: dict[str, Any]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    given = case["in"]
    box, number = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    image_index, boxes = flat(given["gt_bboxes"], box)
    found_index, found = flat(given["pred_bboxes"], box)
    difficult = flat(given["gt_difficults"], np.zeros(0, bool))[1]
    truth = Truth(
        image_ids=np.arange(len(given["gt_bboxes"])),
        sizes=np.full((len(given["gt_bboxes"]), 2), 500),
        image_index=image_index,
        boxes=continuous(boxes),
        labels=flat(given["gt_labels"], number)[1],
        areas=np.ones(len(boxes)),
        crowd=np.zeros(len(boxes), bool),
        difficult=difficult & case["args"]["use_difficult"],
        class_names=tuple(f"class {label}" for label in range(len(case["out"]["ap_07"]))),
        category_ids=tuple(range(len(case["out"]["ap_07"]))),
        voc=True,
    )
    predictions = Predictions(
        image_index=found_index,
        boxes=continuous(found),
        scores=flat(given["pred_scores"], np.zeros(0, np.float32))[1],
        labels=flat(given["pred_labels"], number)[1],
    )
    return voc_metrics(truth, predictions)


CASES = [
    "random40",
    "random40_nodiff_arg",
    "duplicates",
    "difficult_twice",
    "best_gt_taken_no_second_choice",
    "pred_for_class_without_gt",
]  # without score_ties, where the order of equal scores is undefined in the original


@pytest.mark.parametrize("name", CASES)
def test_equals_the_recorded_original(name: str, golden: Callable[[str], dict[str, Any]]) -> None:
    case = golden("frcnn/eval_detection_voc")[name]
    scalars, per_class = scored(case)
    exactly = {"rtol": 0, "atol": 1e-9}
    for rule, theirs in (("voc07", "07"), ("voc", "area")):
        ours = [row[f"AP_{rule}"] for row in per_class.values()]
        np.testing.assert_allclose(ours, case["out"][f"ap_{theirs}"], **exactly)
        np.testing.assert_allclose(scalars[f"mAP_{rule}"], case["out"][f"map_{theirs}"], **exactly)


def test_every_recorded_case_is_compared(golden: Callable[[str], dict[str, Any]]) -> None:
    assert {*CASES, "score_ties"} == set(golden("frcnn/eval_detection_voc"))


def test_five_detections_worked_by_hand(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    truth = truth_of([{"box": (100 * n, 0, 100 * n + 50, 50)} for n in range(4)])
    hits = [True, False, True, False, True]  # by falling score; the fourth object is missed
    found = [
        {"box": (100 * sum(hits[:n]), 0 if hit else 200, 100 * sum(hits[:n]) + 50, 50 if hit else 250)}
        for n, hit in enumerate(hits)
    ]
    predictions = predictions_of([{**row, "score": 0.9 - 0.1 * n} for n, row in enumerate(found)])
    # recall     1/4  1/4  2/4  2/4  3/4
    # precision  1    1/2  2/3  2/4  3/5
    scalars, _ = voc_metrics(truth, predictions)
    assert scalars["mAP_voc"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    # points 0 0.1 0.2 | 0.3 0.4 0.5 | 0.6 0.7 | 0.8 0.9 1
    assert scalars["mAP_voc07"] == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)


def test_overlap_uses_the_devkits_inclusive_pixels(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    # Pixels 1..10 by 1..10 in the kit's XML against 1..5 by 1..10: 50 pixels of 100, exactly the threshold.
    truth = truth_of([{"box": (0, 0, 10, 10)}])
    half, less = (0, 0, 5, 10), (0, 0, 4, 10)
    assert voc_metrics(truth, predictions_of([{"box": half, "score": 1}]))[0]["mAP_voc"] == 1
    assert voc_metrics(truth, predictions_of([{"box": less, "score": 1}]))[0]["mAP_voc"] == 0


def test_equal_scores_rank_in_the_order_given(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    truth = truth_of([{"box": (0, 0, 10, 10)}])
    right, wrong = {"box": (0, 0, 10, 10), "score": 0.5}, {"box": (50, 50, 60, 60), "score": 0.5}
    assert voc_metrics(truth, predictions_of([right, wrong]))[0]["mAP_voc"] == 1
    assert voc_metrics(truth, predictions_of([wrong, right]))[0]["mAP_voc"] == 0.5


def test_classes_and_images_are_scored_separately(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    box = (0, 0, 10, 10)
    truth = truth_of(
        [{"box": box, "image": 0, "label": 1}, {"box": box, "image": 1, "label": 0}],
        image_ids=("a", "b"),
        class_names=("cat", "dog"),
    )
    swapped = [
        {"box": box, "image": 0, "label": 0, "score": 1},
        {"box": box, "image": 1, "label": 1, "score": 1},
    ]
    assert voc_metrics(truth, predictions_of(swapped))[0] == {"mAP_voc07": 0, "mAP_voc": 0}


def test_without_detections_ap_is_zero_and_without_objects_nan(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    box = (0, 0, 10, 10)
    truth = truth_of([{"box": box}, {"box": box, "label": 1, "difficult": True}], class_names=("cat", "dog"))
    scalars, per_class = voc_metrics(truth, predictions_of([]))
    assert scalars == {"mAP_voc07": 0, "mAP_voc": 0}
    assert np.isnan(list(per_class["dog"].values())).all()
    nothing = truth_of([], class_names=("cat", "dog"))
    scalars, _ = voc_metrics(nothing, predictions_of([{"box": box, "score": 1}]))
    assert np.isnan(list(scalars.values())).all()
