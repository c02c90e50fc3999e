import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from detectors.boxes import (
    Weights,
    box_areas,
    boxes_to_deltas,
    boxes_to_distances,
    clip_boxes,
    deltas_to_boxes,
    distances_to_boxes,
)

ONES, RCNN = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)


def test_distances_are_left_top_right_bottom() -> None:
    distances = boxes_to_distances(torch.tensor([[4.0, 12.0]]), torch.tensor([[1.0, 2.0, 10.0, 20.0]]))
    assert distances.tolist() == [[3.0, 10.0, 6.0, 8.0]]


def test_boxes_come_back_from_distances_of_every_image() -> None:
    points = torch.rand(5, 2) * 50
    boxes = torch.cat((points - torch.rand(3, 5, 2) * 9, points + torch.rand(3, 5, 2) * 9), dim=-1)
    torch.testing.assert_close(distances_to_boxes(points, boxes_to_distances(points, boxes)), boxes)


def test_clipping_cuts_at_width_and_height_and_empties_what_is_outside() -> None:
    boxes = torch.tensor([[-5.0, 2.0, 30.0, 40.0], [25.0, -9.0, 40.0, -1.0], [1.0, 2.0, 3.0, 4.0]])
    clipped = clip_boxes(boxes, torch.tensor([10, 20]))
    assert clipped.tolist() == [[0.0, 2.0, 20.0, 10.0], [20.0, 0.0, 20.0, 0.0], [1.0, 2.0, 3.0, 4.0]]
    assert box_areas(clipped).tolist() == [160.0, 0.0, 4.0]


def test_clipping_takes_one_size_an_image() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0]], [[0.0, 0.0, 9.0, 9.0]]])
    clipped = clip_boxes(boxes, torch.tensor([[4, 5], [6, 7]])[:, None])
    assert clipped.tolist() == [[[0.0, 0.0, 5.0, 4.0]], [[0.0, 0.0, 7.0, 6.0]]]


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 500
    return torch.cat((corner, corner + torch.rand(*shape, 2, generator=generator) * 300 + 10), dim=-1)


def test_deltas_are_offsets_in_sides_of_the_anchor_and_logarithms_of_ratios() -> None:
    anchor, box = torch.tensor([[0.0, 0.0, 10.0, 40.0]]), torch.tensor([[10.0, 5.0, 30.0, 15.0]])
    # centres (5, 20) and (20, 10); sides 10 x 40 and 20 x 10
    expected = [1.5, -0.25, math.log(2), -math.log(4)]
    assert boxes_to_deltas(anchor, box, ONES)[0].tolist() == pytest.approx(expected)
    weights = (2.0, 3.0, 5.0, 7.0)
    weighted = [weight * delta for weight, delta in zip(weights, expected, strict=True)]
    assert boxes_to_deltas(anchor, box, weights)[0].tolist() == pytest.approx(weighted)
    assert deltas_to_boxes(anchor, torch.tensor([weighted]), weights)[0].tolist() == pytest.approx([10, 5, 30, 15])


def test_a_box_equal_to_its_anchor_has_no_deltas() -> None:
    anchors = random_boxes(50)
    assert boxes_to_deltas(anchors, anchors, RCNN).abs().max() == 0


@pytest.mark.parametrize("weights", [ONES, RCNN, (1.0, 2.0, 3.0, 4.0)])
def test_boxes_come_back_from_deltas_of_every_image(weights: Weights) -> None:
    anchors, boxes = random_boxes(99), random_boxes(3, 99, seed=1)
    back = deltas_to_boxes(anchors, boxes_to_deltas(anchors, boxes, weights), weights)
    torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("weights", [ONES, RCNN, (1.0, 2.0, 3.0, 4.0)])
def test_deltas_equal_torchvision(weights: Weights) -> None:
    coder, anchors, boxes = BoxCoder(weights), random_boxes(200), random_boxes(200, seed=1)
    deltas = boxes_to_deltas(anchors, boxes, weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors), rtol=1e-5, atol=1e-5)
    wild = torch.randn(200, 4, generator=torch.Generator().manual_seed(2)) * 20  # some reach the bound
    expected = coder.decode_single(wild, anchors)
    torch.testing.assert_close(deltas_to_boxes(anchors, wild, weights), expected, rtol=1e-5, atol=1e-2)


def test_decoded_sides_are_at_most_62_and_a_half_times_the_anchors() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 8.0]])
    deltas = torch.tensor([[0.0, 0.0, 1e6, 1e30]], requires_grad=True)
    box = deltas_to_boxes(anchor, deltas, RCNN)
    assert (box[0, 2:] - box[0, :2]).tolist() == pytest.approx([1000, 500])
    box.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()
    tiny = deltas_to_boxes(anchor, torch.tensor([[0.0, 0.0, -1e6, -1e30]]), RCNN)
    assert tiny[0].tolist() == [8, 4, 8, 4]
