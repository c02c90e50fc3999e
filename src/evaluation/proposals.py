"""Recall of a detector's proposals, of whichever class."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster
from jaxtyping import Float

from evaluation.coco import as_coco, silent, to_xywh
from evaluation.results import in_order
from evaluation.truth import PROPOSAL_METRICS, Truth

_LIMITS = [100, 1000]
"""Proposals of an image that count, by falling score; in the order of `PROPOSAL_METRICS`."""
_AT_ONCE = 50
"""Images that are scored at once: the evaluator keeps about 1 KB for each box, and a whole split might not fit."""


class ImageProposals(NamedTuple):
    """Boxes of one image that may hold objects, in original pixels; in float32 20 bytes each."""

    image_id: int | str
    boxes: Float[np.ndarray, "p 4"]
    """xyxy."""
    scores: Float[np.ndarray, " p"]


def proposal_recall(truth: Truth, proposals: Iterable[ImageProposals]) -> dict[str, float]:
    """Computes COCO's average recall over IoU 0.50:0.95 without classes, by the names of `PROPOSAL_METRICS`.

    As pycocotools' with `useCats = 0`; -1 where there is nothing to find. Crowds and difficult objects count as they
    do for AP. Found objects are added up over parts of the split, which is exact, since matching is by image.
    """
    by_image = in_order(proposals, truth)
    counted = ~(truth.crowd | truth.difficult)
    found = np.zeros((1, len(_LIMITS)))
    for start in range(0, len(by_image), _AT_ONCE):
        images = slice(start, min(start + _AT_ONCE, len(by_image)))
        objects = slice(*np.searchsorted(truth.image_index, (images.start, images.stop)))
        if number := counted[objects].sum():
            found = found + np.round(_recall(truth, images, objects, by_image[images]) * number)
    if not counted.any():
        return dict.fromkeys(PROPOSAL_METRICS, -1.0)
    recall = (found / counted.sum()).mean(axis=0)
    return dict(zip(PROPOSAL_METRICS, recall.tolist(), strict=True))


def _recall(
    truth: Truth, images: slice, objects: slice, proposals: list[list[np.ndarray]]
) -> Float[np.ndarray, "ious limits"]:
    """Computes the recall of neighbouring images at each IoU and number of proposals."""
    boxes, scores = (np.concatenate(parts) for parts in zip(*proposals, strict=True))
    truth_boxes, boxes = to_xywh(truth.boxes[objects]), to_xywh(boxes)
    number = len(proposals)
    evaluator = COCOeval_faster(
        as_coco(
            number,
            1,
            image_id=truth.image_index[objects] - images.start,
            category_id=np.zeros(len(truth_boxes), int),
            bbox=truth_boxes,
            area=truth.areas[objects],
            iscrowd=(truth.crowd | truth.difficult)[objects].astype(int),
        ),
        as_coco(
            number,
            1,
            image_id=np.repeat(np.arange(number), [len(of_image) for _, of_image in proposals]),
            category_id=np.zeros(len(boxes), int),
            bbox=boxes,
            area=boxes[:, 2] * boxes[:, 3],
            score=scores.astype(np.float64),
        ),
        iouType="bbox",
        print_function=silent,
    )
    evaluator.params.maxDets = _LIMITS.copy()
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, np.inf]], ["all"]
    evaluator.evaluate()
    return evaluator.eval["recall"][:, 0, 0]  # IoU thresholds, classes, area ranges, most detections
