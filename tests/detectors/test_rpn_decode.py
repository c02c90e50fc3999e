"""The whole proposal network (RPN), and the boxes that it proposes."""

from dataclasses import replace

import pytest
import torch
from faster_rcnn_cases import random_rpn_outputs, rpn_outputs_on
from torch import Tensor, nn

from detectors.anchors import FASTER_RCNN_FPN, FASTER_RCNN_VGG16, RETINANET
from detectors.backbones.resnet import ResNet
from detectors.boxes import clip_boxes, deltas_to_boxes
from detectors.detections import Detections
from detectors.rpn import RPN, WEIGHTS, RPNDecoder

SIZE = torch.tensor([[100, 100]])
A, NEAR_A, B = [0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 40.0, 30.0], [50.0, 50.0, 90.0, 90.0]


def found(detections: Detections, image: int = 0) -> list[list[float]]:
    return detections.boxes[image][detections.labels[image] >= 0].tolist()


def test_boxes_are_anchors_moved_by_their_deltas_with_the_sigmoid_as_their_score() -> None:
    deltas = torch.tensor([[[0.5, 0.0, 0.0, -0.6931472]]])  # half a width to the right, half as high
    detections = RPNDecoder(max_proposals=3)(rpn_outputs_on([A], [[1.5]], deltas), SIZE)
    assert detections.boxes[0, 0].tolist() == pytest.approx([20, 10, 60, 30])
    assert detections.scores[0].tolist() == pytest.approx([0.8175745, 0, 0])
    assert detections.labels.tolist() == [[0, -1, -1]]
    assert detections.boxes[0, 1:].abs().max() == 0


def test_every_proposal_names_its_anchor() -> None:
    outputs = random_rpn_outputs(2)
    sizes = torch.tensor([[128, 128], [90, 100]])
    proposals = RPNDecoder(max_proposals=4000, min_size=3.0)(outputs, sizes)
    for image in range(2):
        is_box = proposals.labels[image] >= 0
        assert 0 < is_box.sum() < 4000
        rows = proposals.anchors[image][is_box]
        assert len(rows.unique()) == len(rows)
        moved = deltas_to_boxes(outputs.anchors[rows], outputs.deltas[image, rows], WEIGHTS)
        assert torch.equal(clip_boxes(moved, sizes[image]), proposals.boxes[image][is_box])
        torch.testing.assert_close(outputs.logits[image, rows].sigmoid(), proposals.scores[image][is_box])


def test_boxes_are_clipped_and_those_left_empty_or_small_are_dropped() -> None:
    anchors = [[-20.0, 10.0, 30.0, 120.0], [100.0, 0.0, 130.0, 30.0], [0.0, 0.0, 16.0, 40.0], [50.0, 50.0, 65.9, 99.0]]
    outputs = rpn_outputs_on(anchors, [[4.0, 3.0, 2.0, 1.0]])
    clipped = [0.0, 10.0, 30.0, 100.0]
    assert found(RPNDecoder()(outputs, SIZE)) == [clipped, anchors[2], pytest.approx(anchors[3])]
    assert found(RPNDecoder(min_size=16.0)(outputs, SIZE)) == [clipped, anchors[2]]
    nothing = RPNDecoder(min_size=99.0, max_proposals=5)(outputs, SIZE)
    assert nothing.labels.tolist() == [[-1] * 5]
    assert nothing.scores.abs().max() == 0


def test_boxes_suppress_those_of_their_own_level_whose_iou_is_larger() -> None:
    """The IoU of A and NEAR_A is 0.75."""
    outputs = rpn_outputs_on([A, NEAR_A, B], [[2.0, 1.0, -30.0]])
    assert found(RPNDecoder(nms_threshold=0.74)(outputs, SIZE)) == [A, B]
    assert found(RPNDecoder(nms_threshold=0.75)(outputs, SIZE)) == [A, NEAR_A, B]
    apart = replace(outputs, level_sizes=(1, 2))
    assert found(RPNDecoder(nms_threshold=0.74)(apart, SIZE)) == [A, NEAR_A, B]


def test_each_level_keeps_its_best_anchors_and_an_image_its_best_boxes() -> None:
    outputs = rpn_outputs_on([A, NEAR_A, B], [[1.0, 3.0, 2.0]], level_sizes=(2, 1))
    assert found(RPNDecoder(candidates_per_level=1)(outputs, SIZE)) == [NEAR_A, B]
    assert found(RPNDecoder(max_proposals=1)(outputs, SIZE)) == [NEAR_A]
    assert found(RPNDecoder(max_proposals=2, nms_threshold=0.9)(outputs, SIZE)) == [NEAR_A, B]


def test_equal_scores_after_the_sigmoid_keep_the_order_of_their_logits() -> None:
    outputs = rpn_outputs_on([A, NEAR_A, B], [[80.0, 90.0, 100.0]])
    assert found(RPNDecoder(nms_threshold=0.9)(outputs, SIZE)) == [B, NEAR_A, A]


def test_an_images_proposals_do_not_depend_on_its_neighbours() -> None:
    outputs, sizes = random_rpn_outputs(3), torch.tensor([[128, 128], [60, 90], [128, 70]])
    decode = RPNDecoder(candidates_per_level=200, max_proposals=150)
    together = decode(outputs, sizes)
    for image in range(3):
        part = slice(image, image + 1)
        alone = decode(replace(outputs, logits=outputs.logits[part], deltas=outputs.deltas[part]), sizes[part])
        assert torch.equal(alone.boxes[0], together.boxes[image])
        assert torch.equal(alone.scores[0], together.scores[image])
        height, width = sizes[image].tolist()
        assert (together.boxes[image] <= torch.tensor([width, height, width, height])).all()
    assert not together.boxes.requires_grad


def test_extreme_deltas_give_bounded_boxes_and_non_finite_ones_none() -> None:
    deltas = torch.tensor([[[0.0, 0.0, 1e9, 1e9], [torch.nan, 0.0, 0.0, 0.0], [torch.inf, 0.0, 0.0, 0.0]]])
    outputs = rpn_outputs_on([[496.0, 496.0, 504.0, 504.0]] * 3, torch.zeros(1, 3), deltas)
    assert found(RPNDecoder()(outputs, torch.tensor([[1000, 1000]]))) == [pytest.approx([250, 250, 750, 750])]


def test_bfloat16_outputs_are_decoded_in_float32_also_under_autocast() -> None:
    outputs, size = random_rpn_outputs(1), torch.tensor([[128, 128]])
    half = replace(outputs, logits=outputs.logits.bfloat16(), deltas=outputs.deltas.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        detections = RPNDecoder()(half, size)
    expected = RPNDecoder()(replace(outputs, logits=half.logits.float(), deltas=half.deltas.float()), size)
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    assert torch.equal(detections.boxes, expected.boxes)


@pytest.mark.parametrize("canvas", [(64, 64), (96, 160)])
@pytest.mark.parametrize("one_map", [False, True])
def test_every_anchor_has_an_output(canvas: tuple[int, int], one_map: bool) -> None:
    backbone = ResNet(18, weights=None, norm="bn", frozen_stages=0)
    anchors, channels = (FASTER_RCNN_VGG16, None) if one_map else (FASTER_RCNN_FPN, 32)
    network = RPN(backbone, anchors, pyramid_channels=channels)
    outputs = network(torch.zeros(2, 3, *canvas, dtype=torch.uint8), torch.tensor([canvas] * 2))
    assert outputs.logits.shape == (2, len(outputs.anchors))
    assert outputs.deltas.shape == (2, len(outputs.anchors), 4)
    assert sum(outputs.level_sizes) == len(outputs.anchors)
    strides = (16,) if one_map else (4, 8, 16, 32, 64)
    assert [tuple(x.shape[2:]) for x in outputs.maps] == [(-(-canvas[0] // s), -(-canvas[1] // s)) for s in strides]


def test_numbers_of_an_anchor_are_adjacent_and_cells_ordered_row_by_row() -> None:
    network = RPN(ResNet(18, weights=None, norm="bn"), FASTER_RCNN_VGG16, pyramid_channels=None)
    conv, logits, deltas = network.rpn.conv, network.rpn.logits, network.rpn.deltas
    for layer in (conv, logits, deltas):
        nn.init.zeros_(layer.weight)
    with torch.no_grad():
        nn.init.dirac_(conv.weight)  # pyright: ignore[reportArgumentType]
        logits.weight[:, 0, 0, 0] = 1.0
        logits.bias.copy_(torch.arange(9) * 100)  # pyright: ignore[reportOptionalMemberAccess]
        deltas.bias.copy_(torch.arange(36))  # pyright: ignore[reportOptionalMemberAccess]
    x = torch.zeros(1, network.num_channels, 2, 3)
    x[0, 0] = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    (rows,), (moves,) = network.rpn([x])
    assert rows[0].tolist() == [cell + 100 * anchor for cell in range(6) for anchor in range(9)]
    assert moves[0].tolist() == [[4.0 * a, 4.0 * a + 1, 4.0 * a + 2, 4.0 * a + 3] for _ in range(6) for a in range(9)]


def test_the_head_starts_small_and_without_bias() -> None:
    torch.manual_seed(0)
    head = RPN(ResNet(18, weights=None, norm="bn"), FASTER_RCNN_FPN, pyramid_channels=64).rpn
    for layer in (head.conv, head.logits, head.deltas):
        assert 0.008 < layer.weight.std() < 0.012
        assert isinstance(layer.bias, Tensor)
        assert layer.bias.abs().max() == 0


def test_anchors_of_other_strides_are_refused() -> None:
    backbone = ResNet(18, weights=None, norm="bn")
    for anchors, channels, strides in (
        (RETINANET, 256, r"\(4, 8, 16, 32, 64\)"),
        (FASTER_RCNN_FPN, None, r"\(16,\)"),
        (FASTER_RCNN_VGG16, 256, r"\(4, 8, 16, 32, 64\)"),
    ):
        with pytest.raises(ValueError, match=rf"anchors at strides .*: expected those of the maps, {strides}"):
            RPN(backbone, anchors, pyramid_channels=channels)
