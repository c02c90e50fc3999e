"""Pascal VOC's average precision at IoU 0.5, by the rules of its development kit."""

import numpy as np
from jaxtyping import Bool, Float, Int

from evaluation.truth import Predictions, Truth


def voc_metrics(truth: Truth, predictions: Predictions) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Computes `mAP_voc07` (11 points, VOC2007), `mAP_voc` (area, since VOC2010); `AP_voc07`, `AP_voc` of each class.

    Each prediction belongs to the true box that it overlaps most; where a better scored one took that box it
    is false, though another box may be free. What belongs to a difficult object (or a crowd, which VOC does
    not have) counts for nothing. A class without any other object is nan and excluded from the mean.

    Equal scores rank in the order of `predictions` (the kit leaves their order open).
    """
    unscored = truth.difficult | truth.crowd
    order = np.argsort(-predictions.scores, kind="stable")
    labels, nearest = predictions.labels[order], _nearest(truth, predictions)[order]
    hit = nearest >= 0
    first = np.zeros_like(hit)
    first[np.unique(nearest, return_index=True)[1]] = True
    ignored = np.zeros_like(hit)
    ignored[hit] = unscored[nearest[hit]]

    per_class = {}
    for label, name in enumerate(truth.class_names):
        counted = (labels == label) & ~ignored
        num_objects = int(((truth.labels == label) & ~unscored).sum())
        per_class[name] = _average_precision((hit & first)[counted], num_objects)
    scalars = {}
    for rule in ("voc07", "voc"):
        values = [row[f"AP_{rule}"] for row in per_class.values() if not np.isnan(row[f"AP_{rule}"])]
        scalars[f"mAP_{rule}"] = float(np.mean(values)) if values else float("nan")
    return scalars, per_class


def _nearest(truth: Truth, predictions: Predictions) -> Int[np.ndarray, " D"]:
    """Finds the row of the true box of its image and class that each prediction overlaps most; -1 under IoU 0.5."""
    num_classes = len(truth.class_names)
    key = truth.image_index.astype(np.int64) * num_classes + truth.labels
    wanted = predictions.image_index.astype(np.int64) * num_classes + predictions.labels
    by_key = np.argsort(key, kind="stable")
    begin, end = (np.searchsorted(key, wanted, side, sorter=by_key) for side in ("left", "right"))

    # All pairs of a prediction and a true box of its image and class; a prediction's pairs are neighbours.
    counts = end - begin
    prediction = np.repeat(np.arange(len(wanted)), counts)
    place = np.arange(len(prediction)) - np.repeat(np.cumsum(counts) - counts, counts)
    object_ = by_key[begin[prediction] + place]
    overlap = _iou(predictions.boxes[prediction], truth.boxes[object_])

    best = np.lexsort((place, -overlap, prediction))[place == 0]
    best = best[overlap[best] >= 0.5]
    nearest = np.full(len(wanted), -1)
    nearest[prediction[best]] = object_[best]
    return nearest


def _iou(a: Float[np.ndarray, "P 4"], b: Float[np.ndarray, "P 4"]) -> Float[np.ndarray, " P"]:
    """Computes IoU row by row. Going back to the kit's inclusive pixels (x2 - 1) cancels its + 1 in every side."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = sides.clip(min=0).prod(axis=1)
    return intersection / ((a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection)


def _average_precision(true: Bool[np.ndarray, " d"], num_objects: int) -> dict[str, float]:
    """Computes both averages; `true` is ordered by falling score."""
    if num_objects == 0:
        return {"AP_voc07": float("nan"), "AP_voc": float("nan")}
    found = np.cumsum(true)
    recall = found / num_objects
    precision = found / np.arange(1, len(found) + 1)
    # Best precision at each recall or beyond it; 0 beyond the last.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # arange(0, 1.1, 0.1) as the kit has it: its 0.3 is 0.30000000000000004, which a recall of 3/10 misses.
    points = envelope[np.searchsorted(recall, np.arange(0, 1.1, 0.1))]
    return {
        "AP_voc07": float(points.mean()),
        "AP_voc": float((np.diff(recall, prepend=0.0) * envelope[:-1]).sum()),
    }
