"""How often a classifier is right: its rankings of classes against the one label of each image."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from evaluation.results import in_order
from evaluation.truth import Truth

TOP = 5
"""Classes of an image that are kept."""
_LISTED = 20


class ImageRanking(NamedTuple):
    """The likeliest classes of one image."""

    image_id: int | str
    labels: Int[np.ndarray, " k"]
    """The best first; `TOP` of them, or all where there are fewer."""


def accuracy(truth: Truth, rankings: Iterable[ImageRanking]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """`top1` and `top5`: the share of images whose label comes first, or among the first five; then of each class by
    name `top1`, `top5`, -1 without images, and `num_images`.

    Whole numbers are counted before they are divided, so that the digits do not depend on the order of the rankings.
    """
    labels = truth.labels  # one for each image, in their order
    ranked = np.stack([best for (best,) in in_order(rankings, truth)])
    hits = ranked == labels[:, None]
    first, among = hits[:, 0], hits.any(axis=1)
    scalars = {"top1": float(first.mean()), "top5": float(among.mean())}
    num_classes = len(truth.class_names)
    images, once, within = (np.bincount(labels[part], minlength=num_classes) for part in (slice(None), first, among))
    per_class = {
        name: {
            "top1": float(once[label] / images[label]) if images[label] else -1.0,
            "top5": float(within[label] / images[label]) if images[label] else -1.0,
            "num_images": float(images[label]),
        }
        for label, name in enumerate(truth.class_names)
    }
    return scalars, per_class


def accuracy_table(scalars: dict[str, float], per_class: dict[str, dict[str, float]]) -> Group:
    """Percentages of the whole split, then of each class; of many classes, those that are told worst."""
    overall = Table(*(Column(name, justify="right") for name in scalars), box=SIMPLE_HEAD)
    overall.title, overall.title_justify = "percent", "left"
    overall.add_row(*(f"{100 * value:.1f}" for value in scalars.values()))
    shown = [name for name, row in per_class.items() if row["num_images"]]
    heading = "class"
    if len(shown) > _LISTED:
        heading = f"lowest {_LISTED} of {len(shown)} classes"
        shown = sorted(shown, key=lambda name: per_class[name]["top1"])[:_LISTED]
    by_class = Table(heading, *(Column(name, justify="right") for name in (*scalars, "images")), box=SIMPLE_HEAD)
    for name in shown:
        row = per_class[name]
        percent = (f"{100 * row[key]:.1f}" for key in scalars)
        by_class.add_row(escape(name), *percent, f"{row['num_images']:.0f}")
    return Group(overall, by_class)
