"""Precision against recall of a class at IoU 0.5, and the score threshold that serves it best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RECALLS = np.linspace(0, 1, 101)


class BestF1(NamedTuple):
    """The point of a curve with the highest F1."""

    threshold: float
    """Detections with this score or a higher one are kept."""
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Curve:
    """The evaluator's own arrays at the recalls `RECALLS`: the mean of `precision` is AP50."""

    precision: Float[np.ndarray, "101"]
    """The best precision at this recall or a higher one; 0 where it is not reached, -1 for a class without objects."""
    scores: Float[np.ndarray, "101"]
    """Score of the detection at which the recall is reached; 0 where it is not."""

    @property
    def num_reached(self) -> int:
        """The number of recalls that are reached, counted from 0."""
        return int((self.precision > 0).sum())

    @property
    def best(self) -> BestF1:
        """The point where F1 = 2 P R / (P + R) is highest; the highest threshold of several.

        As `compute_thresholds_for_classes` of tianzhi0549/FCOS finds it on COCO's 101 recalls. A class of which
        nothing was found, or without objects, has F1 0 at threshold 1.
        """
        precision = np.maximum(self.precision, 0)
        f1 = 2 * precision * RECALLS / np.maximum(precision + RECALLS, 1e-6)
        at = int(f1.argmax())
        if f1[at] <= 0:
            return BestF1(1.0, 0.0, 0.0, 0.0)
        return BestF1(float(self.scores[at]), float(f1[at]), float(precision[at]), float(RECALLS[at]))


def best_thresholds(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Finds the score threshold of each class with the highest F1 at IoU 0.5."""
    return {name: curve.best.threshold for name, curve in curves.items()}
