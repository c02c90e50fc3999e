"""The score from which detections of a class are shown: in confusion matrix, report and pictures."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from evaluation.by_image import by_image, iou
from evaluation.curves import Curve
from evaluation.truth import Predictions, Truth

LEAST_F1 = 0.1
"""A class whose best F1 is lower is hardly ever found: the point of that F1 is chance, and would hide its mistakes."""


class Thresholds(NamedTuple):
    """The lowest score that is shown of each of K classes."""

    scores: Float[np.ndarray, " K"]
    is_best_f1: Bool[np.ndarray, " K"]
    """Tells which are those of the class's best F1; the others' mistakes are shown from a score chosen without it."""


def shown_thresholds(truth: Truth, predictions: Predictions, curves: Mapping[str, Curve]) -> Thresholds:
    """Finds the threshold of each class: that of its best F1 at IoU 0.5, if it is found at all.

    A class that is not (F1 under `LEAST_F1`, or no object of it) has mistakes alone to show, such as its boxes on
    objects of another class where two classes are exchanged. It takes the lowest of three scores: that of its own best
    F1, if there is one; that of the best F1 of all classes taken as one, from which boxes are where objects are; and
    that which as many of its detections reach as it has objects, for a class whose scores are lower than the others'.
    """
    best = [curves[name].best if name in curves else None for name in truth.class_names]
    scores = np.array([np.inf if one is None or one.f1 <= 0 else one.threshold for one in best])
    is_best_f1 = np.array([one is not None and one.f1 >= LEAST_F1 for one in best], bool)
    if is_best_f1.all():
        return Thresholds(scores, is_best_f1)
    counted = ~(truth.crowd | truth.difficult)
    objects = np.bincount(truth.labels[counted], minlength=len(best))
    of_all = _of_all_classes(truth, predictions)
    for label in np.flatnonzero(~is_best_f1):
        own = predictions.scores[predictions.labels == label]
        scores[label] = min(scores[label], of_all, _reached_by(own, int(objects[label])))
    return Thresholds(scores, is_best_f1)


def _of_all_classes(truth: Truth, predictions: Predictions) -> float:
    """Finds the score with the best F1 at IoU 0.5 where any class may match any; where nothing does, that which as many
    detections reach as there are objects, or images where there are none.

    A detection belongs to the object that it overlaps most, of which the first counts.
    """
    ignored = truth.crowd | truth.difficult
    hit, counted = np.zeros(len(predictions.scores), bool), np.ones(len(predictions.scores), bool)
    for objects, detections in by_image(truth, predictions):
        if not len(objects) or not len(detections):
            continue
        overlaps = iou(predictions.boxes[detections], truth.boxes[objects], truth.crowd[objects])
        nearest = np.where(overlaps.max(axis=1) >= 0.5, overlaps.argmax(axis=1), -1)
        first = np.zeros(len(nearest), bool)
        first[np.unique(nearest, return_index=True)[1]] = True
        on_ignored = (nearest >= 0) & ignored[objects][nearest]
        hit[detections] = first & (nearest >= 0) & ~on_ignored
        counted[detections] = ~on_ignored
    number = int((~ignored).sum())
    if not hit.any():
        return _reached_by(predictions.scores, number or len(truth.image_ids))
    order = np.argsort(-predictions.scores, kind="stable")
    falling = predictions.scores[order]
    f1 = 2 * np.cumsum(hit[order]) / (np.cumsum(counted[order]) + number)
    is_last = np.append(falling[1:] < falling[:-1], True)  # of equal scores all are shown, or none
    return float(falling[np.where(is_last, f1, -1).argmax()])


def _reached_by(scores: Float[np.ndarray, " d"], count: int) -> float:
    """Finds the highest score that so many reach, or all where there are fewer; infinity for none."""
    if not count or not len(scores):
        return np.inf
    return float(np.sort(scores)[-min(count, len(scores))])
