"""Analysis of a split image by image, for pictures, the confusion matrix and the report: what is right, what wrong.

Detections are those at or over the threshold of their class (`evaluation.thresholds`); matching is at IoU 0.5.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from evaluation.by_image import by_image, iou
from evaluation.metrics import Metrics
from evaluation.thresholds import Thresholds, shown_thresholds
from evaluation.truth import Predictions, Truth

KINDS = ("right", "wrong class", "loose box", "duplicate", "false", "ignored")
"""Kinds of detections in the manner of TIDE (arXiv 2008.08115); the first that fits counts.

right        matches an object of its class
wrong class  matches an object of another class
loose box    overlaps an object of its class by 0.1 to 0.5
duplicate    overlaps an object of its class by 0.5 or more, which a better detection has matched
false        anything else
ignored      lies in a crowd or on a difficult object, which the evaluators don't count either
"""
RIGHT, WRONG_CLASS, LOOSE_BOX, DUPLICATE, FALSE, IGNORED = range(6)
_MATCH, _NEAR = 0.5, 0.1
_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


def sample(number: int, count: int, seed: int = 0) -> list[int]:
    """Draws `count` of the numbers 0 .. number - 1, rising; the same each time."""
    return np.sort(np.random.default_rng(seed).permutation(number)[:count]).tolist()


class JudgedBox(NamedTuple):
    """A true or a shown predicted box with its marks."""

    xyxy: Float[np.ndarray, "4"]
    """Original pixels."""
    label: int
    score: float | None
    """Score of a prediction; None for a true box."""
    marks: tuple[str, ...]
    """`missed`, `crowd` and `difficult` of a true box; the kind of a prediction unless it is right."""
    is_mistake: bool
    """True for a missed box and for a prediction that counts as wrong."""


@dataclass(frozen=True)
class Analysis:
    """N images, M true boxes, D detections, K classes."""

    truth: Truth
    predictions: Predictions
    metrics: Metrics
    thresholds: Thresholds
    shown: Bool[np.ndarray, " D"]
    """Detections at or over the threshold of their class."""
    kinds: Int[np.ndarray, " D"]
    """Index into `KINDS`; -1 where not shown."""
    missed: Bool[np.ndarray, " M"]
    """Objects that are neither matched, nor crowd or difficult, nor what a loose box was meant for."""
    confusion: Int[np.ndarray, "K1 K1"]
    """Objects of the row's class that were detected as the column's; the last row counts what is no object but
    was detected, the last column objects that no detection matches."""
    image_ap: Float[np.ndarray, " N"]
    """Mean over IoU 0.50:0.95 and the image's classes, of this image alone; without objects 1, or 0 if something is
    shown."""

    def worst(self, count: int) -> list[int]:
        """Ranks images by rising AP and gives the first rows; of equal ones those with the most mistakes first."""
        return self._by_ap()[:count].tolist()

    def best(self, count: int) -> list[int]:
        """Ranks images by falling AP and gives the first rows; of equal ones those with the most objects first."""
        uncounted = self.truth.crowd | self.truth.difficult
        objects = np.bincount(self.truth.image_index[~uncounted], minlength=len(self.image_ap)).astype(np.float64)
        return np.lexsort((-objects, -self.image_ap))[:count].tolist()

    def sample(self, count: int, seed: int = 0) -> list[int]:
        """Draws rows of images; the same ones for the same number of images."""
        return sample(len(self.image_ap), count, seed)

    def why(self, row: int) -> dict[str, int]:
        """Counts the kinds of mistakes that were made on an image."""
        objects, detections = self.of_image(row)
        kinds = Counter(KINDS[kind] for kind in self.kinds[detections])
        counts = {"missed": int(self.missed[objects].sum())}
        counts |= {kind: kinds[kind] for kind in ("false", "wrong class", "loose box", "duplicate")}
        return {kind: count for kind, count in counts.items() if count}

    def of_image(self, row: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " d"]]:
        """Finds an image's true boxes and, by falling score, its shown detections, as indices."""
        objects, detections = self._images[row]
        return objects, detections[self.shown[detections]]

    def boxes(self, row: int) -> tuple[list[JudgedBox], list[JudgedBox]]:
        """Lists the true boxes of an image, and its shown predictions by falling score."""
        truth, found = self.truth, self.predictions
        objects, detections = self.of_image(row)
        true: list[JudgedBox] = []
        for i in objects.tolist():
            missed = bool(self.missed[i])
            marks = {"missed": missed, "crowd": truth.crowd[i], "difficult": truth.difficult[i]}
            named = tuple(mark for mark, is_so in marks.items() if is_so)
            true.append(JudgedBox(truth.boxes[i], int(truth.labels[i]), None, named, missed))
        predicted: list[JudgedBox] = []
        for i in detections.tolist():
            kind = int(self.kinds[i])
            marks = () if kind == RIGHT else (KINDS[kind],)
            is_mistake = kind not in (RIGHT, IGNORED)
            predicted.append(JudgedBox(found.boxes[i], int(found.labels[i]), float(found.scores[i]), marks, is_mistake))
        return true, predicted

    @cached_property
    def _images(self) -> list[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " d"]]]:
        return list(by_image(self.truth, self.predictions))

    def _by_ap(self) -> Int[np.ndarray, " N"]:
        mistakes = np.bincount(self.truth.image_index[self.missed], minlength=len(self.image_ap))
        wrong = self.shown & (self.kinds != RIGHT) & (self.kinds != IGNORED)
        mistakes += np.bincount(self.predictions.image_index[wrong], minlength=len(self.image_ap))
        return np.lexsort((-mistakes.astype(np.float64), self.image_ap))


def analyse(truth: Truth, predictions: Predictions, metrics: Metrics) -> Analysis:
    """Judges every detection and object, image by image: seconds for thousands of images."""
    number = len(truth.class_names)
    thresholds = shown_thresholds(truth, predictions, metrics.curves)
    shown = predictions.scores >= thresholds.scores[predictions.labels]
    kinds = np.full(len(shown), -1)
    missed = np.zeros(len(truth.labels), bool)
    confusion = np.zeros((number + 1, number + 1), np.int64)
    image_ap = np.zeros(len(truth.image_ids))
    for row, (objects, detections) in enumerate(by_image(truth, predictions)):
        ignore = truth.crowd[objects] | truth.difficult[objects]
        classes, found = truth.labels[objects], predictions.labels[detections]
        overlaps = iou(predictions.boxes[detections], truth.boxes[objects], truth.crowd[objects])
        image_ap[row] = _average_precision(overlaps, found, classes, ignore)

        visible = shown[detections]
        overlaps, found, detections = overlaps[visible], found[visible], detections[visible]
        kinds[detections], matched, pointed = _judge(overlaps, found, classes, ignore)
        if ignore.all():
            image_ap[row] = float((kinds[detections] == IGNORED).all())
        missed[objects] = ~(pointed | ignore)
        pairs = np.full(len(classes), number)  # the class that each object was taken for
        pairs[matched[matched >= 0]] = found[matched >= 0]
        np.add.at(confusion, (classes[~ignore], pairs[~ignore]), 1)
        extra = found[(matched < 0) & (kinds[detections] != IGNORED)]
        confusion[number] += np.bincount(extra, minlength=number + 1)
    return Analysis(truth, predictions, metrics, thresholds, shown, kinds, missed, confusion, image_ap)


def _judge(
    overlaps: Float[np.ndarray, "d m"],
    found: Int[np.ndarray, " d"],
    classes: Int[np.ndarray, " m"],
    ignore: Bool[np.ndarray, " m"],
) -> tuple[Int[np.ndarray, " d"], Int[np.ndarray, " d"], Bool[np.ndarray, " m"]]:
    """Gives the kind of each detection, the object that it matches or -1, and which objects some detection points at.

    Detections of the right class choose first, by falling score; so an object that two classes were found on
    isn't taken from the right one by the other's higher score.
    """
    same = found[:, None] == classes
    matched = np.full(len(found), -1)
    taken = ignore.copy()
    for allowed in (same, ~same):
        for d in range(len(found)):
            free = np.where(allowed[d] & ~taken, overlaps[d], 0)
            if matched[d] < 0 and free.size and free.max() >= _MATCH:
                matched[d] = free.argmax()
                taken[matched[d]] = True

    own = np.where(same & ~ignore, overlaps, 0)
    nearest = own.max(axis=1, initial=0)
    kinds = np.full(len(found), FALSE)
    kinds[nearest >= _NEAR] = LOOSE_BOX
    kinds[nearest >= _MATCH] = DUPLICATE
    kinds[np.where(ignore, overlaps, 0).max(axis=1, initial=0) >= _MATCH] = IGNORED
    hit = np.flatnonzero(matched >= 0)
    kinds[hit] = np.where(same[hit, matched[hit]], RIGHT, WRONG_CLASS)

    pointed = np.zeros(len(classes), bool)
    pointed[matched[hit]] = True
    loose = np.flatnonzero(kinds == LOOSE_BOX)
    if len(loose):
        pointed[own[loose].argmax(axis=1)] = True
    return kinds, matched, pointed


def _average_precision(
    overlaps: Float[np.ndarray, "d m"],
    found: Int[np.ndarray, " d"],
    classes: Int[np.ndarray, " m"],
    ignore: Bool[np.ndarray, " m"],
) -> float:
    """Computes COCO's AP of one image over the classes that it has objects of, at 101 recalls."""
    values = [
        _class_precision(overlaps[found == label][:100][:, classes == label], ignore[classes == label])
        for label in np.unique(classes[~ignore])
    ]
    return float(np.mean(values)) if values else 0.0


def _class_precision(overlaps: Float[np.ndarray, "d m"], ignore: Bool[np.ndarray, " m"]) -> float:
    """Computes the AP of one class, the mean over the ten IoU thresholds, all of which are matched at once."""
    thresholds = np.arange(len(_IOUS))
    free = np.ones((len(_IOUS), len(ignore)), bool)
    right = np.zeros((len(overlaps), len(_IOUS)), bool)
    counted = np.ones_like(right)
    for d, row in enumerate(overlaps):
        reach = free & (row >= _IOUS[:, None]) & ~ignore
        hit = reach.any(axis=1)
        choice = np.where(reach, row, -1).argmax(axis=1)
        right[d] = hit
        free[thresholds[hit], choice[hit]] = False
        counted[d] = hit | ~((row >= _IOUS[:, None]) & ignore).any(axis=1)
    true, false = (np.cumsum(kind & counted, axis=0) for kind in (right, ~right))
    recall = true / (~ignore).sum()
    precision = true / np.maximum(true + false, 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    total = 0.0
    for t in thresholds:
        at = np.searchsorted(recall[:, t], _RECALLS - 1e-12)
        total += precision[at[at < len(precision)], t].sum()
    return total / (len(_RECALLS) * len(_IOUS))
