"""The anchors that the RPN's loss samples, and its targets and losses."""

from dataclasses import replace

import pytest
import torch
from faster_rcnn_cases import random_rpn_outputs, rpn_outputs_on
from fcos_cases import random_truth
from retinanet_cases import deltas_of, smooth_l1
from torch import Tensor

from detectors.anchors import FASTER_RCNN_FPN
from detectors.losses import BACKGROUND, IGNORED
from detectors.matching import match_anchors
from detectors.rpn import AnchorSampler, AnchorSamples, RPNLoss, anchors_inside, assign_rpn

SIZES = torch.tensor([[100, 120], [50, 60]])
ANCHORS = torch.tensor(
    [
        [0.0, 0.0, 60.0, 50.0],  # fills the second image
        [0.0, 0.0, 120.0, 100.0],  # fills the first
        [-0.1, 0.0, 40.0, 40.0],
        [0.0, 10.0, 40.0, 50.1],
        [80.0, 60.0, 120.1, 90.0],
        [80.0, 60.0, 110.0, 90.0],
    ]
)


def test_an_anchor_on_the_border_of_its_image_is_inside() -> None:
    assert anchors_inside(ANCHORS, SIZES).tolist() == [
        [True, True, False, True, False, True],
        [True, False, False, False, False, False],
    ]


def test_anchors_that_stick_out_are_ignored_and_the_best_inside_is_assigned_to_a_box() -> None:
    """The third anchor fits best but sticks out of the image; the first overlaps the box by 0.53, the fourth by 0.6."""
    boxes, labels = torch.tensor([[[0.0, 0.0, 40.0, 40.0]]]).expand(2, 1, 4), torch.tensor([[5], [3]])
    kept, target = assign_rpn(ANCHORS, boxes, labels, SIZES)
    assert kept[0].tolist() == [IGNORED, BACKGROUND, 5, IGNORED, BACKGROUND, BACKGROUND]
    assert torch.equal(target[0, 2], boxes[0, 0])
    assert torch.equal(target[0, 3], ANCHORS[3])

    kept, target = assign_rpn(ANCHORS, boxes, labels, SIZES, inside_only=True)
    assert kept.tolist() == [
        [IGNORED, BACKGROUND, IGNORED, 5, IGNORED, BACKGROUND],
        [3, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED],
    ]
    assert torch.equal(target[0, 3], boxes[0, 0])
    assert torch.equal(target[1, 1:], ANCHORS[1:])


def test_a_box_that_no_anchor_inside_overlaps_forces_none() -> None:
    boxes = torch.tensor([[[85.0, 0.0, 119.0, 40.0]]])
    inside = torch.tensor([ANCHORS[0].tolist(), ANCHORS[5].tolist(), [85.0, -1.0, 119.0, 40.0]])
    labels, _ = assign_rpn(inside, boxes, torch.tensor([[0]]), SIZES[:1], inside_only=True)
    assert labels.tolist() == [[BACKGROUND, BACKGROUND, IGNORED]]


@pytest.mark.parametrize("inside_only", [True, False])
def test_images_are_assigned_independently_and_padded_truth_is_ignored(inside_only: bool) -> None:
    anchors, sizes = FASTER_RCNN_FPN.grid((128, 128)), torch.tensor([[128, 128], [90, 70], [128, 100]])
    boxes, labels = random_truth(3, 6, 9, size=80)
    boxes[1, 2:], labels[1, 2:] = 0, -1
    together = assign_rpn(anchors, boxes, labels, sizes, inside_only=inside_only)
    assert (together[0] >= 0).any(dim=1).all()
    for i, count in enumerate((6, 2, 6)):
        part = slice(i, i + 1)
        alone = assign_rpn(anchors, boxes[part, :count], labels[part, :count], sizes[part], inside_only=inside_only)
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("allow_low_quality", [True, False])
def test_each_images_own_anchors_are_matched_as_shared_ones_are(allow_low_quality: bool) -> None:
    anchors = FASTER_RCNN_FPN.grid((128, 128))
    boxes, _ = random_truth(3, 6, 9)
    settings = {"background_iou": 0.3, "foreground_iou": 0.5, "allow_low_quality": allow_low_quality}
    shared = match_anchors(anchors, boxes, **settings)
    assert torch.equal(match_anchors(anchors.expand(3, -1, -1), boxes, **settings), shared)
    order = torch.stack([torch.randperm(len(anchors), generator=torch.Generator().manual_seed(i)) for i in range(3)])
    assert torch.equal(match_anchors(anchors[order], boxes, **settings), shared.gather(1, order))
    assert torch.equal(match_anchors(anchors[order], boxes, **settings, max_pairs=1), shared.gather(1, order))


def sampled(
    loss: RPNLoss, num_boxes: int = 4, num_samples: int = 256
) -> tuple[AnchorSamples, dict[str, Tensor], list[Tensor]]:
    outputs = random_rpn_outputs(2)
    boxes, labels = random_truth(2, num_boxes, 3)
    sample = AnchorSampler(num_samples=num_samples)
    samples = sample(outputs, boxes, labels, torch.tensor([[128, 128]] * 2), [3, 4])
    return samples, loss(outputs, samples), [outputs.logits, outputs.deltas]


def test_losses_are_means_over_the_sampled_anchors() -> None:
    outputs, loss = random_rpn_outputs(2), RPNLoss(smooth_l1_beta=0.5)
    samples, found, _ = sampled(loss, num_samples=64)
    of_class, of_box = torch.zeros(()), torch.zeros(())
    for image in range(2):
        for row, label, box in zip(samples.rows[image], samples.labels[image], samples.boxes[image], strict=True):
            p = outputs.logits[image, row].sigmoid()
            of_class = of_class - (p if label >= 0 else 1 - p).log()
            if label >= 0:
                target = deltas_of(outputs.anchors[row], box)
                of_box = of_box + smooth_l1(outputs.deltas[image, row], target, 0.5)
    torch.testing.assert_close(found["loss_rpn_cls"], of_class / 128, rtol=1e-4, atol=0)
    torch.testing.assert_close(found["loss_rpn_loc"], of_box / 128, rtol=1e-4, atol=0)
    assert of_box > 0


def test_anchors_that_were_not_sampled_are_ignored() -> None:
    """They count neither in the sum nor in the number, which is 40 where 64 were asked for."""
    labels = torch.tensor([[0] * 8 + [BACKGROUND] * 32 + [IGNORED] * 24])
    outputs = random_rpn_outputs(1)
    rows = torch.arange(64)[None]
    boxes = outputs.anchors[rows] + 1.0
    whole, part = RPNLoss(), slice(40)
    some = AnchorSamples(rows[:, part], labels[:, part], boxes[:, part])
    for ours, expected in zip(
        whole(outputs, AnchorSamples(rows, labels, boxes)).values(), whole(outputs, some).values(), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("num_boxes", [0, 4])
def test_losses_are_finite_and_reach_both_outputs_also_without_boxes(num_boxes: int) -> None:
    samples, losses, leaves = sampled(RPNLoss(), num_boxes)
    assert (samples.labels >= 0).any() == (num_boxes > 0)
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves)
    assert all(x.isfinite().all() for x in (*losses.values(), *gradients))
    assert gradients[0].abs().max() > 0
    assert (gradients[1].abs().max() > 0) == (losses["loss_rpn_loc"] > 0) == (num_boxes > 0)


def test_without_any_anchor_the_loss_is_zero() -> None:
    """No anchor lies inside a tiny image."""
    outputs, loss = random_rpn_outputs(1), RPNLoss()
    boxes, labels = torch.tensor([[[1.0, 1.0, 8.0, 8.0]]]), torch.tensor([[0]])
    samples = AnchorSampler(inside_only=True)(outputs, boxes, labels, torch.tensor([[10, 10]]), [0])
    assert (samples.labels == IGNORED).all()
    losses = loss(outputs, samples)
    assert [x.item() for x in losses.values()] == [0.0, 0.0]
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), [outputs.logits, outputs.deltas])
    assert [x.abs().max().item() for x in gradients] == [0.0, 0.0]


def test_extreme_deltas_of_background_do_not_change_the_loss() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    deltas = torch.tensor([[[0.0] * 4, [torch.inf, torch.nan, 1e30, -1e30]]]).requires_grad_()
    outputs = rpn_outputs_on(anchors, torch.zeros(1, 2), deltas)
    samples = AnchorSampler()(outputs, anchors[None, :1], torch.tensor([[0]]), torch.tensor([[99, 99]]), [0])
    loss = RPNLoss()(outputs, samples)["loss_rpn_loc"]
    (gradient,) = torch.autograd.grad(loss, deltas)
    assert loss == gradient.abs().max() == 0


def test_bfloat16_outputs_give_the_losses_of_their_values_in_float32_also_under_autocast() -> None:
    outputs, loss = random_rpn_outputs(2), RPNLoss()
    samples, _, _ = sampled(loss)
    half = replace(outputs, logits=outputs.logits.bfloat16(), deltas=outputs.deltas.bfloat16())
    rounded = replace(outputs, logits=half.logits.float(), deltas=half.deltas.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half, samples)
    for ours, expected in zip(found.values(), loss(rounded, samples).values(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)


def test_the_thresholds_must_not_be_crossed() -> None:
    for background, foreground in ((0.8, 0.7), (0.0, 0.7), (0.3, 1.1)):
        with pytest.raises(ValueError, match=r"expected 0 < background_iou <= foreground_iou <= 1"):
            AnchorSampler(background_iou=background, foreground_iou=foreground)
