"""Repeat-factor sampling (LVIS, arXiv 1908.03195, appendix B): images of rare classes are trained on more often."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RepeatFactors:
    """How often each image is trained on in an epoch, on average. K classes, N images."""

    of_class: np.ndarray
    """float64 (K,): r(c) = max(1, sqrt(t / f(c))), where f(c) is the share of images that have class c; 1 where none
    has."""
    of_image: np.ndarray
    """float64 (N,): the largest of its classes; 1 without objects."""


def repeat_factors(
    image_index: np.ndarray, labels: np.ndarray, num_images: int, num_classes: int, threshold: float
) -> RepeatFactors:
    """Computes factors from the image and the label of each box, int (M,), and `threshold`, the t of the paper."""
    # one row for each class that an image has, however many of its boxes
    images, classes = np.divmod(np.unique(image_index.astype(np.int64) * num_classes + labels), num_classes)
    share = np.bincount(classes, minlength=num_classes) / num_images
    of_class = np.sqrt(np.maximum(1.0, threshold / np.where(share > 0, share, np.inf)))
    of_image = np.ones(num_images)
    np.maximum.at(of_image, images, of_class[classes])
    return RepeatFactors(of_class, of_image)
