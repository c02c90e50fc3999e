"""Accuracy of a classifier: its rankings of classes against the one label of each image."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from evaluation.results import in_order
from evaluation.truth import Truth

TOP = 5
"""Classes of an image that are kept."""


class ImageRanking(NamedTuple):
    """The likeliest classes of one image."""

    image_id: int | str
    labels: Int[np.ndarray, " k"]
    """The best first; `TOP` of them, or all where there are fewer."""


class ImageProbabilities(NamedTuple):
    """What a classifier says of one image."""

    image_id: int | str
    label: int
    """The likeliest class."""
    probabilities: Float[np.ndarray, " k"]
    """Of all classes by label; they sum to 1."""


def accuracy(truth: Truth, rankings: Iterable[ImageRanking]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Computes `top1` and `top5`, the shares of images whose label comes first, or among the first five.

    The second dict has by class name `top1` and `top5`, -1 without images, and `num_images`. Whole numbers are counted
    before they are divided, so that the digits do not depend on the order of the rankings.
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
