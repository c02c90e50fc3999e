"""The last step of every decoder: suppression, with either of its implementations."""

import pytest
import torch
from faster_rcnn_cases import random_boxes
from torch import Tensor
from torchvision.ops import nms

from detectors import detections
from detectors.detections import nms_and_pad


def random_rows(number: int, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in clusters, many of them with equal scores."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(number // 8).repeat(8, 1)
    boxes = boxes + torch.rand(boxes.shape, generator=generator) * 6
    scores = torch.randint(1, 50, (len(boxes),), generator=generator) / 50
    return boxes, scores, torch.randint(num_groups, (len(boxes),), generator=generator)


def by_hand(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """Suppresses group by group in float64, then keeps the best of all; of equal scores the first."""
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for group in groups.unique():
        (own,) = (groups == group).nonzero(as_tuple=True)
        order = own[scores[own].argsort(descending=True, stable=True)]
        kept[order[nms(boxes[order].double(), scores[order].double(), threshold)]] = True
    (rows,) = kept.nonzero(as_tuple=True)
    return rows[scores[rows].argsort(descending=True, stable=True)][:most]


@pytest.mark.parametrize("num_groups", [1, 5, 80])
@pytest.mark.parametrize("many", [0, 10**9])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_groups_are_suppressed_separately_in_both_implementations(
    monkeypatch: pytest.MonkeyPatch, num_groups: int, many: int, class_agnostic: bool
) -> None:
    monkeypatch.setattr(detections, "_GROUPWISE_FROM", many)
    boxes, scores, labels = random_rows(1600, num_groups)
    found = nms_and_pad(boxes, scores, labels, nms_threshold=0.5, max_detections=300, class_agnostic=class_agnostic)
    rows = by_hand(boxes, scores, labels * 0 if class_agnostic else labels, 0.5, 300)
    assert 100 < len(rows) <= 300
    for mine, all_rows in zip(found, (boxes, scores, labels), strict=True):
        assert torch.equal(mine[: len(rows)], all_rows[rows])


@pytest.mark.parametrize("many", [0, 10**9])
def test_without_boxes_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr(detections, "_GROUPWISE_FROM", many)
    nothing = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    boxes, scores, labels = nms_and_pad(*nothing, nms_threshold=0.5, max_detections=3)
    assert boxes.shape == (3, 4)
    assert not scores.any()
    assert labels.tolist() == [-1] * 3
