"""All the numbers of a split, and how they look in a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from evaluation.classification import accuracy_table
from evaluation.coco import coco_metrics
from evaluation.confusions import Confusion
from evaluation.curves import Curve
from evaluation.truth import (
    CLASSIFICATION_METRICS,
    COCO_METRICS,
    PROPOSAL_METRICS,
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
    """By the names of `COCO_METRICS`, of `VOC_METRICS` for a truth of VOC, and of `PROPOSAL_METRICS` for a detector
    that has proposals; of a classifier, of `CLASSIFICATION_METRICS`. The first is the one to compare by."""
    per_class: dict[str, dict[str, float]]
    """Of each class by name: `AP`, `AP50`, for VOC `AP_voc07`, `AP_voc`; `num_objects`, difficult and crowds
    left out. Of a classifier see `evaluation.classification.accuracy`."""
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve], compare=False)
    """Precision against recall of each class by name."""
    confusions: dict[str, Confusion] = field(default_factory=dict[str, Confusion], compare=False)
    """What parts of the model counted of themselves, by short names."""


def evaluate(truth: Truth, predictions: Predictions) -> Metrics:
    """COCO's numbers, and VOC's where the truth asks for them."""
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


def table(metrics: Metrics, listed: int | None = None) -> Group:
    """Percentages of the whole split, then of each class, for rich's `print`; 80 columns wide.

    Of more than `listed` classes, those with the highest and with the lowest AP, half of the lines each.
    """
    if CLASSIFICATION_METRICS[0] in metrics.scalars:
        return accuracy_table(metrics.scalars, metrics.per_class)
    rows = (*COCO_METRICS[:6], *VOC_METRICS), COCO_METRICS[6:], PROPOSAL_METRICS
    overall = []
    for names in rows:
        if not (present := [name for name in names if name in metrics.scalars]):
            continue
        overall.append(Table(*(Column(name, justify="right") for name in present), box=SIMPLE_HEAD))
        overall[-1].add_row(*(_percent(metrics.scalars[name]) for name in present))

    columns = next(iter(metrics.per_class.values()), {})
    overall[0].title, overall[0].title_justify = "percent", "left"
    names, heading = [*metrics.per_class], "class"
    if listed is not None and len(names) > listed:
        names, heading = _best_and_worst(metrics.per_class, listed // 2), f"of {len(names)} classes"
    by_class = Table(heading, *(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD)
    for name in names:
        row = metrics.per_class.get(name, {})
        cells = (f"{value:.0f}" if key == "num_objects" else _percent(value) for key, value in row.items())
        by_class.add_row(escape(name), *cells)
    return Group(*overall, *([by_class] if names else []))


def _best_and_worst(per_class: Mapping[str, Mapping[str, float]], number: int) -> list[str]:
    """That many names of either, with dots between; without classes that have no AP."""
    found = sorted((name for name in per_class if per_class[name]["AP"] >= 0), key=lambda name: -per_class[name]["AP"])
    return found if len(found) <= 2 * number else [*found[:number], "...", *found[-number:]]


def headline(scalars: Mapping[str, float]) -> str:
    """The numbers to compare by, in percent."""
    known = {name: scalars[name] for name in _HEADLINE if scalars.get(name, -1.0) >= 0}
    return "  ".join(f"{name} {100 * value:.2f} %" for name, value in known.items()) or "nothing to find"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"
