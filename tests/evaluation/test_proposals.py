"""Recall of proposals compared with pycocotools, and by hand."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation import proposals as under_test
from evaluation.coco import to_xywh
from evaluation.proposals import ImageProposals, proposal_recall
from evaluation.truth import Truth

BOX = [10.0, 10.0, 110.0, 110.0]


def oracle(truth: Truth, proposals: Sequence[ImageProposals], limits: Sequence[int]) -> list[float]:
    """pycocotools' recall with `useCats = 0`; the truth keeps its classes."""
    boxes = to_xywh(truth.boxes)
    annotations = [
        {
            "id": i + 1, "image_id": int(truth.image_index[i]), "category_id": int(truth.labels[i]),
            "bbox": boxes[i].tolist(), "area": float(truth.areas[i]),
            "iscrowd": int(truth.crowd[i] or truth.difficult[i]),
        }
        for i in range(len(boxes))
    ]  # fmt: skip
    results = [
        {"image_id": row, "category_id": 0, "bbox": box, "score": float(score)}
        for row, of_image in enumerate(proposals)
        for box, score in zip(to_xywh(of_image.boxes).tolist(), of_image.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": row} for row in range(len(truth.image_ids))], "annotations": annotations,
            "categories": [{"id": label} for label in range(len(truth.class_names))],
        }  # fmt: skip
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluator.params.useCats, evaluator.params.maxDets = 0, list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    recall = evaluator.eval["recall"][:, 0, 0]  # for all areas, by IoU and number of detections
    return recall.mean(axis=0).tolist()


@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_recall_equals_pycocotools_without_classes_however_the_split_is_divided(
    truth_of, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Ten images: crowds, difficult objects, equal scores, one image without objects and one without proposals."""
    random = np.random.default_rng(1)
    objects = []
    for image in range(10):
        for _ in range(0 if image == 4 else random.integers(1, 6)):
            corner = random.uniform(0, 500, 2)
            box = [*corner, *(corner + random.uniform(20, 200, 2))]
            kind = {"crowd": random.random() < 0.15, "difficult": random.random() < 0.1}
            objects.append({"image": image, "label": int(random.integers(0, 3)), "box": box, **kind})
    truth = truth_of(objects, image_ids=range(70, 80), class_names=("a", "b", "c"))
    proposals = []
    for image, image_id in enumerate(truth.image_ids.tolist()):
        near = truth.boxes[truth.image_index == image].repeat(3, axis=0)
        far = random.uniform(0, 500, (40, 2))
        boxes = np.concatenate([near + random.normal(0, 8, near.shape), np.concatenate([far, far + 60], axis=1)])
        boxes = boxes[: 0 if image == 7 else None].astype(np.float32)
        proposals.append(ImageProposals(image_id, boxes, random.random(len(boxes)).round(1).astype(np.float32)))
    monkeypatch.setattr(under_test, "_AT_ONCE", at_once)
    monkeypatch.setattr(under_test, "_LIMITS", [10, 30])
    found = proposal_recall(truth, proposals[::-1])
    assert list(found) == ["AR100_proposals", "AR1000_proposals"]
    few, many = found.values()
    assert 0.1 < few < many < 0.8
    np.testing.assert_allclose([few, many], oracle(truth, proposals, [10, 30]), rtol=0, atol=1e-12)


def test_a_box_after_the_hundredth_counts_only_for_ar1000(truth_of) -> None:
    """The best proposal meets one object with IoU 0.82, over seven of ten thresholds; the 101st is the other object."""
    truth = truth_of([{"box": BOX, "label": 0}, {"box": [300.0, 10.0, 400.0, 110.0], "label": 1}], class_names="ab")
    boxes = np.array([[10, 10, 110, 92], *[[500, 500, 520, 520]] * 99, [300, 10, 400, 110]], np.float32)
    scores = np.linspace(1, 0, len(boxes), dtype=np.float32)
    found = proposal_recall(truth, [ImageProposals(1, boxes, scores)])
    assert found["AR100_proposals"] == pytest.approx(7 / 20)
    assert found["AR1000_proposals"] == pytest.approx(17 / 20)


def test_without_objects_recall_is_undefined(truth_of) -> None:
    truth = truth_of([{"box": BOX, "crowd": True}, {"box": BOX, "difficult": True}])
    boxes = np.array([BOX], np.float32)
    for found in (boxes, boxes[:0]):
        proposals = [ImageProposals(1, found, np.ones(len(found), np.float32))]
        assert proposal_recall(truth, proposals) == {"AR100_proposals": -1, "AR1000_proposals": -1}


def test_without_proposals_recall_is_zero(truth_of) -> None:
    none = ImageProposals(1, np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    assert proposal_recall(truth_of([{"box": BOX}]), [none]) == {"AR100_proposals": 0, "AR1000_proposals": 0}
