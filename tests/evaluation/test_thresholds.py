"""Score thresholds of classes: a class that is never detected correctly shows its mistakes."""

from collections import Counter

import numpy as np
import pytest

from evaluation.analysis import KINDS, analyse
from evaluation.metrics import evaluate

LEFT, RIGHT, LOW, WIDE = [10, 10, 40, 40], [60, 10, 90, 40], [10, 60, 40, 90], [60, 60, 95, 75]
CLASSES = ("apple", "pear", "plum")


@pytest.fixture
def analysis_of(truth_of, predictions_of):
    """The analysis of objects (image, box, label) and detections (image, box, label, score)."""

    def made(objects, found, images=1, **flags):
        truth = truth_of(
            [{"image": i, "box": box, "label": label, **flags} for i, box, label in objects], range(images), CLASSES
        )
        predictions = predictions_of(
            [{"image": i, "box": box, "label": label, "score": score} for i, box, label, score in found]
        )
        return analyse(truth, predictions, evaluate(truth, predictions))

    return made


def kinds(analysis):
    return Counter(KINDS[kind] for kind in analysis.kinds if kind >= 0)


def test_swapped_classes_are_wrong_classes_and_not_missed(analysis_of):
    analysis = analysis_of([(0, LEFT, 0), (0, RIGHT, 1)], [(0, LEFT, 1, 0.95), (0, RIGHT, 0, 0.93)])
    assert analysis.confusion.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert not analysis.thresholds.is_best_f1.any()


def test_all_objects_predicted_as_a_class_that_the_split_lacks(analysis_of):
    analysis = analysis_of([(0, LEFT, 0), (0, RIGHT, 0)], [(0, LEFT, 2, 0.3), (0, RIGHT, 2, 0.2), (0, LOW, 2, 0.1)])
    assert kinds(analysis) == {"wrong class": 2}  # the third is below the best-F1 threshold of all classes together
    assert analysis.thresholds.scores[2] == pytest.approx(0.2)


def test_a_swapped_class_with_much_lower_scores_than_the_others(analysis_of):
    images = range(20)
    good = [(i, LEFT, 0, 0.9) for i in images]
    exchanged = [(i, RIGHT, 2, 0.04) for i in images]
    analysis = analysis_of([(i, LEFT, 0) for i in images] + [(i, RIGHT, 1) for i in images[:9]]
                           + [(i, RIGHT, 2) for i in images[9:]], good + exchanged[:9]
                           + [(i, RIGHT, 1, 0.03) for i in images[9:]], 20)  # fmt: skip
    assert kinds(analysis) == {"right": 20, "wrong class": 20}
    assert analysis.thresholds.is_best_f1.tolist() == [True, False, False]


def test_one_correct_detection_among_swapped_classes_does_not_hide_the_others(analysis_of):
    images = range(30)
    objects = [(i, LEFT, 0) for i in images] + [(i, RIGHT, 1) for i in images]
    found = [(0, LEFT, 0, 0.99), *((i, LEFT, 1, 0.9) for i in images[1:]), *((i, RIGHT, 0, 0.9) for i in images)]
    assert kinds(analysis_of(objects, found, 30)) == {"right": 1, "wrong class": 59}


def test_false_positives_where_no_detection_overlaps_an_object(analysis_of):
    analysis = analysis_of([(0, LEFT, 0)], [(0, LOW, 0, 0.9), (0, WIDE, 0, 0.2)])
    assert kinds(analysis) == {"false": 1}  # as many as there are objects
    assert analysis.confusion[0, -1] == analysis.confusion[-1, 0] == 1


def test_confident_false_positives_of_a_class_without_objects(analysis_of):
    found = [(0, LEFT, 0, 0.9), (0, RIGHT, 1, 0.99), (0, LOW, 1, 0.98), (0, WIDE, 1, 0.1)]
    analysis = analysis_of([(0, LEFT, 0)], found)
    assert analysis.confusion[-1].tolist() == [0, 2, 0, 0]


def test_a_split_without_objects_shows_one_false_positive_per_image(analysis_of):
    found = [(i, box, 0, score) for i in range(4) for box, score in ((LEFT, 0.8), (LOW, 0.1))]
    assert kinds(analysis_of([], found, 4)) == {"false": 4}


def test_equal_scores_are_all_shown(analysis_of):
    analysis = analysis_of([(0, LEFT, 0), (0, RIGHT, 1)], [(0, LEFT, 1, 0.5), (0, RIGHT, 0, 0.5), (0, LOW, 2, 0.5)])
    assert kinds(analysis) == {"wrong class": 2, "false": 1}


def test_detections_on_a_crowd_do_not_affect_the_threshold(analysis_of):
    analysis = analysis_of([(0, LEFT, 0)], [(0, LEFT, 1, 0.9), (0, LOW, 1, 0.8)], crowd=True)
    assert kinds(analysis) == {"ignored": 1}


def test_a_detected_class_keeps_the_threshold_of_its_best_f1(analysis_of):
    found = [(0, LEFT, 0, 0.7), (0, LOW, 0, 0.6), (0, RIGHT, 1, 0.2)]
    analysis = analysis_of([(0, LEFT, 0), (0, RIGHT, 1), (0, WIDE, 2)], found)
    assert analysis.thresholds.scores[:2] == pytest.approx([0.7, 0.2])
    assert analysis.thresholds.is_best_f1.tolist() == [True, True, False]


def test_without_detections_no_score_is_a_threshold(analysis_of):
    assert np.isinf(analysis_of([(0, LEFT, 0)], []).thresholds.scores).all()


def test_negative_scores_of_a_results_file_are_accepted(analysis_of):
    analysis = analysis_of([(0, LEFT, 0), (0, RIGHT, 0)], [(0, LEFT, 0, -1.5), (0, RIGHT, 0, -2.5), (0, LOW, 0, -9)])
    assert kinds(analysis) == {"right": 2}
