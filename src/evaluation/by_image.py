"""The boxes of a split image by image, and how much they overlap."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from evaluation.truth import Predictions, Truth


def by_image(truth: Truth, predictions: Predictions) -> Iterator[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " d"]]]:
    """Yields for each image the indices of its true boxes, and of its detections by falling score."""
    rows = np.arange(1, len(truth.image_ids))
    order = np.lexsort((-predictions.scores, predictions.image_index))
    detections = np.split(order, np.searchsorted(predictions.image_index[order], rows))
    objects = np.split(np.arange(len(truth.labels)), np.searchsorted(truth.image_index, rows))
    yield from zip(objects, detections, strict=True)


def iou(
    boxes: Float[np.ndarray, "d 4"], others: Float[np.ndarray, "m 4"], crowd: Bool[np.ndarray, " m"]
) -> Float[np.ndarray, "d m"]:
    """Computes the overlap of each pair; with a crowd the share of the box that lies in it, as COCO does."""
    boxes = boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    area, other_area = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, others))
    union = np.where(crowd, area[:, None], area[:, None] + other_area - common)
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
