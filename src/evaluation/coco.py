"""COCO's numbers: average precision and recall over IoU 0.50:0.95."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float

from evaluation.curves import Curve
from evaluation.truth import COCO_METRICS, Predictions, Truth


def to_xywh(boxes: Float[np.ndarray, "D 4"]) -> Float[np.ndarray, "D 4"]:
    """Converts xyxy to COCO's x, y, width, height in float64, with sides rounded to 1e-9 pixels.

    (x + w) - x misses w by a few bits. Rounded, the w of the annotation or results file comes back bit for
    bit, so that a box of exactly 32 x 32 stays on the border of its area range.
    """
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], np.round(boxes[:, 2:] - boxes[:, :2], 9)], axis=1)


def coco_metrics(
    truth: Truth, predictions: Predictions
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Curve]]:
    """Computes the metrics of `COCO_METRICS`, and by class name AP, AP50 and the curve at IoU 0.5.

    Fractions of 1, equal to pycocotools'; -1, as there, where nothing could have been found. A difficult
    object (VOC) is scored as COCO scores a crowd: finding it any number of times, or not at all, costs
    nothing.
    """
    # Images are numbered by the order of their ids, as pycocotools goes through them: equal scores rank so.
    order = np.unique(truth.image_ids, return_inverse=True)[1]
    numbers = len(truth.image_ids), len(truth.class_names)
    truth_boxes, boxes = to_xywh(truth.boxes), to_xywh(predictions.boxes)
    with _uncollected():
        evaluator = COCOeval_faster(
            as_coco(
                *numbers,
                image_id=order[truth.image_index],
                category_id=truth.labels,
                bbox=truth_boxes,
                area=truth.areas,
                iscrowd=(truth.crowd | truth.difficult).astype(int),
            ),
            as_coco(
                *numbers,
                image_id=order[predictions.image_index],
                category_id=predictions.labels,
                bbox=boxes,
                area=boxes[:, 2] * boxes[:, 3],
                score=predictions.scores.astype(np.float64),
            ),
            iouType="bbox",
            print_function=silent,
        )
        evaluator.evaluate()
    precision = evaluator.eval["precision"]  # IoU thresholds, recalls, classes, area ranges, most detections
    recall = evaluator.eval["recall"]  # IoU thresholds, classes, area ranges, most detections
    scalars = [
        *(_mean(precision[ious, ..., 0, 2]) for ious in (slice(None), 0, 5)),
        *(_mean(precision[..., area, 2]) for area in (1, 2, 3)),
        *(_mean(recall[..., 0, most]) for most in (0, 1, 2)),
        *(_mean(recall[..., area, 2]) for area in (1, 2, 3)),
    ]
    per_class = {
        name: {"AP": _mean(precision[:, :, label, 0, 2]), "AP50": _mean(precision[0, :, label, 0, 2])}
        for label, name in enumerate(truth.class_names)
    }
    scores = np.where(precision[0, ..., 0, 2] > 0, evaluator.eval["scores"][0, ..., 0, 2], 0)  # recalls, classes
    curves = {
        name: Curve(precision[0, :, label, 0, 2].astype(np.float64), scores[:, label].astype(np.float64))
        for label, name in enumerate(truth.class_names)
    }
    return dict(zip(COCO_METRICS, scalars, strict=True)), per_class, curves


def as_coco(num_images: int, num_classes: int, **columns: np.ndarray) -> COCO:
    """Makes annotations for the evaluator, of images and classes that are numbered from 0."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    # Ids from 1: both evaluators take a match with id 0 for none.
    annotations = [dict(zip(columns, row, strict=True), id=number) for number, row in enumerate(rows, 1)]
    images = [{"id": image} for image in range(num_images)]
    categories = [{"id": label} for label in range(num_classes)]
    dataset = {"images": images, "categories": categories, "annotations": annotations}
    return COCO(dataset, print_function=silent)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses the garbage collector: going through half a million dicts again and again took a fifth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _mean(values: np.ndarray) -> float:
    """Averages what exists: -1 marks classes without objects."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def silent(*_: Any) -> None:
    pass
