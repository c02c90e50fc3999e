"""All metrics of a split."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.coco import coco_metrics
from evaluation.confusions import Confusion
from evaluation.curves import Curve
from evaluation.truth import (
    CLASSIFICATION_METRICS,
    VOC_METRICS,
    Predictions,
    Truth,
)
from evaluation.voc import voc_metrics

_HEADLINE = ("AP", "AP50", "AP75", *VOC_METRICS, *CLASSIFICATION_METRICS)


@dataclass(frozen=True)
class Metrics:
    """Fractions of 1. -1 (COCO) or nan (VOC) where the truth holds nothing to find."""

    scalars: dict[str, float]
    """Metrics of the split by the names of `COCO_METRICS`, of `VOC_METRICS` for a truth of VOC, and of
    `PROPOSAL_METRICS` for a detector with proposals; for a classifier of `CLASSIFICATION_METRICS`. The first is the one
    to compare by."""
    per_class: dict[str, dict[str, float]]
    """Metrics of each class by name: `AP`, `AP50`, for VOC `AP_voc07`, `AP_voc`; `num_objects`, difficult and crowds
    excluded. For a classifier see `evaluation.classification.accuracy`."""
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve], compare=False)
    """Precision against recall of each class by name."""
    confusions: dict[str, Confusion] = field(default_factory=dict[str, Confusion], compare=False)
    """Confusions that parts of the model counted, by short names."""


def evaluate(truth: Truth, predictions: Predictions) -> Metrics:
    """Computes COCO's metrics, and VOC's where the truth asks for them."""
    scalars, per_class, curves = coco_metrics(truth, predictions)
    if truth.voc:
        voc_scalars, voc_per_class = voc_metrics(truth, predictions)
        scalars |= voc_scalars
        for name, row in voc_per_class.items():
            per_class[name] |= row
    counted = truth.labels[~(truth.crowd | truth.difficult)]
    for row, count in zip(per_class.values(), np.bincount(counted, minlength=len(per_class)), strict=True):
        row["num_objects"] = float(count)
    return Metrics(scalars, per_class, curves)


def has_score(scalars: Mapping[str, float]) -> bool:
    """Tells whether there was anything to find: not so without annotations, or without a box of the classes."""
    return next(iter(scalars.values()), -1.0) >= 0  # false of nan too


def headline(scalars: Mapping[str, float]) -> str:
    """Writes the metrics to compare by, in percent."""
    known = {name: scalars[name] for name in _HEADLINE if scalars.get(name, -1.0) >= 0}
    return "  ".join(f"{name} {100 * value:.2f} %" for name, value in known.items()) or "nothing to find"
