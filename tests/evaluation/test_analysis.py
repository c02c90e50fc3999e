"""Analysis: kinds of detections, the confusion matrix and AP of single images, with numbers that are easy to check."""

import numpy as np
import pytest

from evaluation.analysis import KINDS, analyse, iou
from evaluation.curves import RECALLS, Curve, best_thresholds
from evaluation.metrics import Metrics, evaluate
from evaluation.truth import Predictions, Truth

CLASSES = ("cat", "dog")
BOX, NEAR, LOOSE, FAR = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 4.0], [50.0, 50.0, 60.0, 60.0]


def truth_of(*rows, images=1):
    """Truth from rows of (image, box, label) with optional "crowd" or "difficult"."""
    boxes = np.array([row[1] for row in rows], np.float64).reshape(-1, 4)
    return Truth(
        image_ids=np.arange(images), sizes=np.full((images, 2), 100),
        image_index=np.array([row[0] for row in rows], np.int64), boxes=boxes,
        labels=np.array([row[2] for row in rows], np.int64), areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        crowd=np.array(["crowd" in row[3:] for row in rows], bool),
        difficult=np.array(["difficult" in row[3:] for row in rows], bool),
        class_names=CLASSES, category_ids=(7, 9),
    )  # fmt: skip


def predictions_of(*rows):
    """Predictions from rows of (image, box, label, score)."""
    return Predictions(
        image_index=np.array([row[0] for row in rows], np.int64),
        boxes=np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[3] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int64),
    )


def flat(threshold):
    """A curve whose best F1 is at a threshold."""
    return Curve(np.ones(101), np.full(101, threshold))


def analysed(truth, predictions, threshold=0.5):
    return analyse(truth, predictions, Metrics({}, {}, {name: flat(threshold) for name in CLASSES}))


def kinds(analysis):
    return [KINDS[kind] if kind >= 0 else None for kind in analysis.kinds]


@pytest.mark.parametrize(
    ("truth", "predictions", "expected", "missed", "why"),
    [
        ([(0, BOX, 0)], [(0, NEAR, 0, 0.9)], ["right"], 0, {}),
        ([(0, BOX, 0)], [(0, NEAR, 1, 0.9)], ["wrong class"], 0, {"wrong class": 1}),
        ([(0, BOX, 0)], [(0, LOOSE, 0, 0.9)], ["loose box"], 0, {"loose box": 1}),
        ([(0, BOX, 0)], [(0, FAR, 0, 0.9)], ["false"], 1, {"missed": 1, "false": 1}),
        ([(0, BOX, 0)], [(0, NEAR, 0, 0.9), (0, BOX, 0, 0.8)], ["right", "duplicate"], 0, {"duplicate": 1}),
        ([(0, BOX, 0)], [(0, BOX, 1, 0.9), (0, NEAR, 0, 0.8)], ["false", "right"], 0, {"false": 1}),
        ([(0, BOX, 0)], [(0, BOX, 0, 0.4)], [None], 1, {"missed": 1}),
        ([(0, BOX, 0, "crowd")], [(0, LOOSE, 0, 0.9)], ["ignored"], 0, {}),
        ([(0, BOX, 0, "difficult")], [(0, NEAR, 0, 0.9)], ["ignored"], 0, {}),
        ([], [(0, BOX, 0, 0.9)], ["false"], 0, {"false": 1}),
        ([(0, BOX, 0)], [], [], 1, {"missed": 1}),
    ],
)
def test_each_detection_has_the_kind_that_a_reader_would_give_it(truth, predictions, expected, missed, why):
    analysis = analysed(truth_of(*truth), predictions_of(*predictions))
    assert kinds(analysis) == expected
    assert analysis.missed.sum() == missed
    assert analysis.why(0) == why


def test_confusion_counts_true_classes_in_rows_and_background_in_the_last():
    truth = truth_of((0, BOX, 0), (0, FAR, 1), (1, BOX, 1), (1, FAR, 0, "crowd"), images=2)
    predictions = predictions_of(
        (0, NEAR, 0, 0.9), (0, [20.0, 20.0, 30.0, 30.0], 1, 0.9), (1, BOX, 0, 0.8), (1, FAR, 0, 0.9), (1, FAR, 0, 0.1)
    )
    expected = [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert analysed(truth, predictions).confusion.tolist() == expected


def test_boxes_of_single_ones_in_a_crowd_are_counted_nowhere_in_the_confusion():
    """However small they are beside the crowd."""
    inside = [[40.0, 40.0, 50.0, 50.0], [55.0, 55.0, 65.0, 65.0], [80.0, 80.0, 89.0, 89.0]]
    truth = truth_of((0, BOX, 0), (0, [30.0, 30.0, 90.0, 90.0], 0, "crowd"))
    found = predictions_of((0, BOX, 0, 0.9), *((0, box, 0, 0.9) for box in inside))
    analysis = analysed(truth, found)
    assert analysis.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert kinds(analysis) == ["right", "ignored", "ignored", "ignored"]
    assert analysis.missed.sum() == 0


def test_ap_of_an_image_is_the_evaluators_for_that_image_alone():
    rng = np.random.default_rng(3)
    rows, found = [], []
    for image in range(12):
        for _ in range(rng.integers(1, 9)):
            corner, size, label = rng.uniform(0, 60, 2), rng.uniform(8, 40, 2), int(rng.integers(2))
            flags = ["crowd"] if rng.random() < 0.1 else []
            rows.append((image, [*corner, *(corner + size)], label, *flags))
            for _ in range(rng.integers(0, 3)):
                moved = np.array([*corner, *(corner + size)]) + rng.normal(0, 2.5, 4)
                found.append((image, moved, label if rng.random() < 0.8 else 1 - label, rng.random()))
    truth, predictions = truth_of(*rows, images=12), predictions_of(*found)
    analysis = analysed(truth, predictions)
    for image in range(12):
        alone = predictions.image_index == image
        one = Predictions(
            np.zeros(alone.sum(), np.int64), predictions.boxes[alone], predictions.scores[alone],
            predictions.labels[alone],
        )  # fmt: skip
        ap = evaluate(truth.only(np.arange(12) == image), one).scalars["AP"]
        if ap >= 0:
            assert analysis.image_ap[image] == pytest.approx(ap, abs=1e-6)
    assert analysis.image_ap[analysis.worst(12)].tolist() == sorted(analysis.image_ap)
    assert analysis.image_ap[analysis.best(3)].tolist() == sorted(analysis.image_ap)[::-1][:3]


def test_an_image_without_objects_is_perfect_without_shown_detections():
    truth = truth_of((0, BOX, 0), images=3)
    analysis = analysed(truth, predictions_of((1, BOX, 0, 0.9), (2, BOX, 0, 0.1)))
    assert analysis.image_ap.tolist() == [0, 0, 1]


def test_the_curve_is_the_evaluators_own():
    boxes = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(4)]
    truth = truth_of(*((0, box, 0) for box in boxes))
    scores = [0.9, 0.8, 0.7, 0.6]
    wrong = (0, [80.0, 80.0, 90.0, 90.0], 0, 0.65)
    metrics = evaluate(truth, predictions_of(*((0, b, 0, s) for b, s in zip(boxes, scores, strict=True)), wrong))
    curve = metrics.curves["cat"]
    assert curve.precision.mean() == pytest.approx(metrics.per_class["cat"]["AP50"])
    assert curve.precision[:76] == pytest.approx(1)
    assert curve.precision[76:] == pytest.approx(0.8)
    assert curve.scores[RECALLS <= 0.25] == pytest.approx(0.9)
    # F1 is 2 x 0.8 / 1.8 = 0.889 with all four, 2 x 0.75 / 1.75 = 0.857 with the three that have no mistake among them
    assert curve.best == pytest.approx((0.6, 1.6 / 1.8, 0.8, 1.0), abs=1e-6)
    assert set(metrics.curves["dog"].precision) == {-1.0}


def test_a_class_without_detections_shows_nothing():
    metrics = evaluate(truth_of((0, BOX, 0)), predictions_of())
    assert best_thresholds(metrics.curves) == {"cat": 1.0, "dog": 1.0}


def test_boxes_inside_a_crowd_are_ignored():
    overlaps = iou(np.array([[0, 0, 5, 10.0]]), np.array([BOX, BOX]), np.array([False, True]))
    assert overlaps == pytest.approx(np.array([[0.5, 1.0]]))


def test_boxes_of_an_image_carry_their_marks_and_its_mistakes_are_marked():
    truth = truth_of((0, BOX, 0, "crowd", "difficult"), (0, FAR, 1), (1, BOX, 0), (1, FAR, 0), images=2)
    predictions = predictions_of((0, BOX, 0, 0.9), (1, NEAR, 0, 0.8), (1, BOX, 0, 0.7), (1, FAR, 0, 0.4))
    analysis = analysed(truth, predictions)
    true, predicted = analysis.boxes(0)
    assert [(box.label, box.score, box.marks, box.is_mistake) for box in true] == [
        (0, None, ("crowd", "difficult"), False),
        (1, None, ("missed",), True),
    ]
    assert [(box.label, box.marks, box.is_mistake) for box in predicted] == [(0, ("ignored",), False)]
    true, predicted = analysis.boxes(1)
    assert [box.xyxy.tolist() for box in true] == [BOX, FAR]
    assert [box.xyxy.tolist() for box in predicted] == [NEAR, BOX]  # the third is under the threshold
    assert [box.score for box in predicted] == pytest.approx([0.8, 0.7])
    assert [box.marks for box in predicted] == [(), ("duplicate",)]
