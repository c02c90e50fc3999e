"""The sampled regions on which the head is trained, and its losses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from faster_rcnn_cases import of_images, proposals_of, random_boxes, random_region_outputs
from fcos_cases import random_truth
from retinanet_cases import RCNN, deltas_of, smooth_l1
from torch import Tensor

from detectors.faster_rcnn import RegionLoss, RegionOutputs, RegionSampler, RegionSamples
from detectors.losses import BACKGROUND, IGNORED
from detectors.retinanet import RetinaNetLoss
from detectors.rpn import RPNLoss

A, NEAR_A, HALF_A, B = [0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 40.0, 30.0], [0.0, 0.0, 40.0, 20.0], [50.0, 50.0, 90.0, 90.0]
NO_TRUTH = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64)


def in_rows(samples: RegionSamples, image: int = 0) -> list[tuple[list[float], int]]:
    """The sampled regions, ordered by their coordinates."""
    regions, labels = samples.regions[image].tolist(), samples.labels[image].tolist()
    return sorted((r, n) for r, n in zip(regions, labels, strict=True) if n != IGNORED)


def test_true_boxes_are_regions_too_and_regions_are_assigned_from_the_threshold_on() -> None:
    proposals = proposals_of([NEAR_A, HALF_A, [0.0, 0.0, 40.0, 19.0], B])
    truth = torch.tensor([[A]]), torch.tensor([[6]])
    samples = RegionSampler(positive_fraction=1.0)(proposals, *truth, [0])
    expected = [([0.0, 0.0, 40.0, 19.0], BACKGROUND), (HALF_A, 6), (NEAR_A, 6), (A, 6), (B, BACKGROUND)]
    assert in_rows(samples) == expected
    positive = samples.labels[0] >= 0
    assert samples.boxes[0][positive].tolist() == [A] * 3
    assert torch.equal(samples.boxes[0][~positive], samples.regions[0][~positive])
    stricter = RegionSampler(foreground_iou=0.76, positive_fraction=1.0)(proposals, *truth, [0])
    assert [label for _, label in in_rows(stricter)].count(6) == 1


def test_a_region_is_assigned_to_the_box_of_larger_iou() -> None:
    samples = RegionSampler()(proposals_of([[0, 0, 40, 34]]), torch.tensor([[A, NEAR_A]]), torch.tensor([[1, 2]]), [0])
    row = (samples.regions[0] == torch.tensor([0.0, 0.0, 40.0, 34.0])).all(dim=1)
    assert samples.labels[0][row].tolist() == [2]
    assert samples.boxes[0][row].tolist() == [NEAR_A]


@pytest.mark.parametrize("num_boxes", [0, 2])
def test_padding_is_never_sampled(num_boxes: int) -> None:
    """Neither padded proposals nor padded boxes are sampled, however few others there are."""
    proposals = proposals_of([A, B], [A, B, NEAR_A, HALF_A, *random_boxes(30).tolist()])
    boxes, labels = torch.zeros(2, 5, 4), torch.full((2, 5), -1)
    boxes[1], labels[1] = random_truth(1, 5, 4)[0][0], 3
    if num_boxes:
        boxes[0, :2], labels[0, :2] = torch.tensor([NEAR_A, B]), torch.tensor([4, 0])
    for seed in range(30):
        samples = RegionSampler(num_samples=16)(proposals, boxes, labels, [seed, seed + 1])
        background = [] if num_boxes else [(A, BACKGROUND), (B, BACKGROUND)]
        truth = [(NEAR_A, 4), (A, 4), (B, 0), (B, 0)]
        assert samples.regions.shape == (2, 16, 4)
        assert in_rows(samples) == (truth if num_boxes else background)
        assert len(in_rows(samples, 1)) == 16


def test_an_image_without_boxes_is_all_background() -> None:
    proposals = proposals_of(random_boxes(50))
    samples = RegionSampler(num_samples=20)(proposals, *NO_TRUTH, [0])
    assert (samples.labels == BACKGROUND).all()
    assert torch.equal(samples.boxes, samples.regions)
    given = set(map(tuple, proposals.boxes[0].tolist()))
    assert len(given & set(map(tuple, samples.regions[0].tolist()))) == 20


def test_an_image_with_neither_boxes_nor_proposals_has_no_sample_and_no_loss() -> None:
    nothing = proposals_of(random_boxes(5))
    nothing.labels.fill_(-1)
    samples = RegionSampler()(nothing, *NO_TRUTH, [0])
    assert (samples.labels == IGNORED).all()
    outputs = random_region_outputs(1, 5, 3)
    losses = RegionLoss()(outputs, samples)
    assert [x.item() for x in losses.values()] == [0.0, 0.0]
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), [outputs.logits, outputs.deltas])
    assert [x.abs().max().item() for x in gradients] == [0.0, 0.0]


def test_a_proposal_is_sampled_by_its_anchor_whatever_the_order_of_proposals() -> None:
    boxes, labels = random_truth(2, 6, 9)
    proposals = proposals_of(*(random_boxes(60, seed=i) for i in range(2)))
    sample = RegionSampler(num_samples=16)
    samples = sample(proposals, boxes, labels, [5, 6])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    changed = replace(
        proposals, boxes=proposals.boxes[:, order], scores=proposals.scores[:, order],
        labels=proposals.labels[:, order], anchors=proposals.anchors[:, order],
    )  # fmt: skip
    for name, again in vars(sample(changed, boxes, labels, [5, 6])).items():
        assert torch.equal(again, vars(samples)[name]), name
    others = replace(proposals, anchors=(proposals.anchors + 7) % 60)
    assert not torch.equal(sample(others, boxes, labels, [5, 6]).regions, samples.regions)


def test_images_are_sampled_independently() -> None:
    boxes, labels = random_truth(3, 6, 9)
    boxes[1, 2:], labels[1, 2:] = 0, -1
    proposals = proposals_of(*(random_boxes(60, seed=i) for i in range(3)))
    together = RegionSampler(num_samples=16)(proposals, boxes, labels, [5, 6, 7])
    for i in range(3):
        part = slice(i, i + 1)
        own = of_images(proposals, part)
        alone = RegionSampler(num_samples=16)(own, boxes[part], labels[part], [5 + i])
        assert torch.equal(alone.regions[0], together.regions[i])
        assert torch.equal(alone.labels[0], together.labels[i])


def samples_of(num_boxes: int = 4) -> RegionSamples:
    boxes, labels = random_truth(2, num_boxes, 3)
    proposals = proposals_of(random_boxes(30), random_boxes(30, seed=1))
    return RegionSampler(num_samples=20)(proposals, boxes, labels, [0, 1])


def test_weights_that_decode_to_no_box_are_refused() -> None:
    with pytest.raises(ValueError, match=r"box_weights=\[0\.0, 10\.0, 5\.0, 5\.0\]: expected four numbers over 0"):
        RegionLoss(box_weights=(0.0, 10.0, 5.0, 5.0))


@pytest.mark.parametrize("loss", [RegionLoss, RPNLoss, RetinaNetLoss])
@pytest.mark.parametrize("beta", [-0.5, float("nan")])
def test_a_negative_smooth_l1_beta_is_refused(loss: Callable[..., object], beta: float) -> None:
    with pytest.raises(
        ValueError, match=rf"smooth_l1_beta={beta} of (regions|anchors): expected 0 \(a plain L1 loss\) or more"
    ):
        loss(smooth_l1_beta=beta)


def test_losses_are_means_over_the_sampled_regions_of_the_class_of_each() -> None:
    outputs, samples = random_region_outputs(2, 20, 3), samples_of()
    losses = RegionLoss(smooth_l1_beta=0.5)(outputs, samples)
    of_class, of_box = torch.zeros(()), torch.zeros(())
    for image in range(2):
        for row, label in enumerate(samples.labels[image].tolist()):
            of_class = of_class - outputs.logits[image, row].softmax(dim=0)[label + 1].log()
            if label >= 0:
                target = deltas_of(samples.regions[image, row], samples.boxes[image, row]) * torch.tensor(RCNN)
                of_box = of_box + smooth_l1(outputs.deltas[image, row, label + 1], target, 0.5)
    torch.testing.assert_close(losses["loss_roi_cls"], of_class / 40, rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["loss_roi_loc"], of_box / 40, rtol=1e-4, atol=0)
    assert of_box > 0


def test_regions_that_were_not_sampled_are_ignored() -> None:
    outputs, samples = random_region_outputs(2, 20, 3), samples_of()
    labels = samples.labels.clone()
    labels[:, 15:] = IGNORED
    cut = RegionSamples(samples.regions[:, :15], samples.labels[:, :15], samples.boxes[:, :15])
    of_cut = RegionLoss()(RegionOutputs(outputs.logits[:, :15], outputs.deltas[:, :15]), cut)
    for ours, expected in zip(
        RegionLoss()(outputs, replace(samples, labels=labels)).values(), of_cut.values(), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("num_boxes", [0, 4])
def test_losses_are_finite_and_reach_both_outputs_also_without_boxes(num_boxes: int) -> None:
    outputs, samples = random_region_outputs(2, 20, 3), samples_of(num_boxes)
    losses = RegionLoss()(outputs, samples)
    leaves = [outputs.logits, outputs.deltas]
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves)
    assert all(x.isfinite().all() for x in (*losses.values(), *gradients))
    assert gradients[0].abs().max() > 0
    assert (gradients[1].abs().max() > 0) == (losses["loss_roi_loc"] > 0) == (num_boxes > 0)
    assert gradients[1][..., 0, :].abs().max() == 0  # background has no box


def test_extreme_deltas_of_background_do_not_change_the_loss() -> None:
    samples = RegionSampler(positive_fraction=1.0)(proposals_of([A, B]), torch.tensor([[A]]), torch.tensor([[0]]), [0])
    deltas = torch.zeros(1, 3, 2, 4)
    deltas[samples.labels == BACKGROUND] = torch.tensor([torch.inf, torch.nan, 1e30, -1e30])
    deltas.requires_grad_()
    loss = RegionLoss()(RegionOutputs(torch.zeros(1, 3, 2), deltas), samples)["loss_roi_loc"]
    (gradient,) = torch.autograd.grad(loss, deltas)
    assert loss == gradient.abs().max() == 0


def test_bfloat16_outputs_give_the_losses_of_their_values_in_float32_also_under_autocast() -> None:
    outputs, samples = random_region_outputs(2, 20, 3), samples_of()
    half = RegionOutputs(outputs.logits.bfloat16(), outputs.deltas.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = RegionLoss()(half, samples)
    expected: dict[str, Tensor] = RegionLoss()(RegionOutputs(half.logits.float(), half.deltas.float()), samples)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])
