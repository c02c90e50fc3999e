"""All the numbers of a split, and how they look in a terminal."""

from dataclasses import dataclass, field

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from evaluation.coco import coco_metrics
from evaluation.curves import Curve
from evaluation.truth import COCO_METRICS, VOC_METRICS, Predictions, Truth
from evaluation.voc import voc_metrics


@dataclass(frozen=True)
class Metrics:
    """Fractions of 1. -1 (COCO) or nan (VOC) where the truth holds nothing to find."""

    scalars: dict[str, float]
    """By the names of `COCO_METRICS`, and of `VOC_METRICS` for a truth of VOC."""
    per_class: dict[str, dict[str, float]]
    """Of each class by name: `AP`, `AP50`, for VOC `AP_voc07`, `AP_voc`; `num_objects`, difficult and crowds
    left out."""
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve], compare=False)
    """Precision against recall of each class by name."""


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


def table(metrics: Metrics) -> Group:
    """Percentages of the whole split, then of each class, for rich's `print`; 80 columns wide."""
    rows = (*COCO_METRICS[:6], *VOC_METRICS), COCO_METRICS[6:]
    overall = []
    for names in rows:
        present = [name for name in names if name in metrics.scalars]
        overall.append(Table(*(Column(name, justify="right") for name in present), box=SIMPLE_HEAD))
        overall[-1].add_row(*(_percent(metrics.scalars[name]) for name in present))

    columns = next(iter(metrics.per_class.values()), {})
    overall[0].title, overall[0].title_justify = "percent", "left"
    by_class = Table("class", *(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD)
    for name, row in metrics.per_class.items():
        cells = (f"{value:.0f}" if key == "num_objects" else _percent(value) for key, value in row.items())
        by_class.add_row(escape(name), *cells)
    return Group(*overall, by_class)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"
