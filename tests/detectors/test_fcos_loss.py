import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fcos_cases import outputs_of, pad_truth, random_outputs, random_truth, rows
from torch import Tensor

from detectors.fcos import SIZE_RANGES, FCOSLoss, FCOSOutputs, assign_fcos, centerness_of

Golden = Callable[[str], dict[str, Any]]
CASES = ["default_iou", "linear_iou_cs15", "no_positive", "single_positive"]
HEADS = ("logits", "distances", "centerness")


def original(outputs: FCOSOutputs, labels: Tensor, targets: Tensor, kind: str, smoothing: float) -> dict[str, Tensor]:
    """The original's three losses by rows of positives; its `smoothing` is 1, ours is 0."""

    def area(d: Tensor) -> Tensor:
        return (d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3])

    positive = labels >= 0
    count = max(1, int(positive.sum()))
    p = outputs.logits.sigmoid()
    t = F.one_hot(labels + 1, p.shape[-1] + 1)[..., 1:]
    focal = -t * 0.25 * (1 - p) ** 2 * p.log() - (1 - t) * 0.75 * p**2 * (1 - p).log()
    predicted, target = outputs.distances[positive], targets[positive]
    inter = area(torch.minimum(predicted, target))
    union = area(predicted) + area(target) - inter
    iou = (inter + smoothing) / (union + smoothing)
    hull = area(torch.maximum(predicted, target))
    box = {"iou": -iou.log(), "linear_iou": 1 - iou, "giou": 1 - iou + (hull - union) / hull}[kind]
    weight = centerness_of(target)
    bce = F.binary_cross_entropy_with_logits(outputs.centerness[positive], weight, reduction="sum")
    return {
        "loss_cls": focal.sum() / count,
        "loss_box": (box * weight).sum() / (weight.sum() if positive.any() else 1),
        "loss_centerness": bce / count,
    }


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_original_without_its_smoothing(golden: Golden, case: str) -> None:
    """With smoothing 1 the oracle equals the recorded original, with 0 ours."""
    recorded = golden("fcos/total_loss")[case]
    args, given, expected = recorded["args"], recorded["in"], recorded["out"]
    outputs = outputs_of(given["cls_logits"], given["box_regression"], given["centerness_logits"])
    outputs = replace(outputs, **{k: getattr(outputs, k).requires_grad_() for k in HEADS})
    boxes, labels = pad_truth(given["boxes"], given["labels"])
    radius = args["center_sampling_radius"] or None
    target_labels, targets = assign_fcos(
        outputs.points, outputs.strides, outputs.level_sizes, boxes, labels, center_sampling=radius
    )
    assert (target_labels >= 0).sum() == expected["num_pos"]
    leaves = [getattr(outputs, k) for k in HEADS]

    def gradients(losses: dict[str, Tensor]) -> list[Tensor]:
        total = losses["loss_cls"] + losses["loss_box"] + losses["loss_centerness"]
        return list(torch.autograd.grad(total, leaves, materialize_grads=True, allow_unused=True))

    theirs = original(outputs, target_labels, targets, args["iou_loss_type"], smoothing=1)
    for name, key in (
        ("loss_cls", "loss_cls"),
        ("loss_box", "loss_reg"),
        ("loss_centerness", "loss_centerness"),
    ):
        torch.testing.assert_close(theirs[name], expected[key], rtol=1e-4, atol=1e-7)
    recorded_gradients = (
        rows(expected["grad_cls_logits"]),
        rows(expected["grad_box_regression"]),
        rows(expected["grad_centerness_logits"])[..., 0],
    )
    for a, b in zip(gradients(theirs), recorded_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)

    without = original(outputs, target_labels, targets, args["iou_loss_type"], smoothing=0)
    ours = FCOSLoss(center_sampling=radius, box_loss=args["iou_loss_type"])(outputs, boxes, labels)
    torch.testing.assert_close(ours, without, rtol=1e-4, atol=1e-7)
    for a, b in zip(gradients(ours), gradients(without), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_losses_of_one_point_worked_out_by_hand() -> None:
    # One 8x8 cell at (4, 4) in the box (0, 0, 16, 8): target distances (4, 4, 12, 4), centerness sqrt(1/3).
    outputs = FCOSOutputs(
        logits=torch.zeros(1, 1, 1),
        distances=torch.full((1, 1, 4), 4.0),
        centerness=torch.zeros(1, 1),
        points=torch.tensor([[4.0, 4.0]]),
        strides=torch.tensor([8.0]),
        level_sizes=(1, 0, 0, 0, 0),
    )
    losses = FCOSLoss()(outputs, torch.tensor([[[0.0, 0.0, 16.0, 8.0]]]), torch.tensor([[0]]))
    assert losses["loss_cls"].item() == pytest.approx(0.25 * 0.25 * 0.693147)
    assert losses["loss_box"].item() == pytest.approx(0.693147)  # IoU 64 / 128; the weight cancels out
    assert losses["loss_centerness"].item() == pytest.approx(0.693147)


@pytest.mark.parametrize("box_loss", ["iou", "linear_iou", "giou"])
@pytest.mark.parametrize("num_boxes", [0, 3])
def test_a_batch_without_objects_is_finite_and_reaches_every_output(box_loss: str, num_boxes: int) -> None:
    outputs = random_outputs(2, 3)
    boxes, labels = torch.zeros(2, num_boxes, 4), torch.full((2, num_boxes), -1)
    losses = FCOSLoss(box_loss=box_loss)(outputs, boxes, labels)
    sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert losses["loss_box"] == losses["loss_centerness"] == 0
    assert losses["loss_cls"] > 0
    for name in HEADS:
        gradient = getattr(outputs, name).grad
        assert gradient is not None
        assert gradient.isfinite().all()
    assert outputs.logits.grad is not None
    assert outputs.logits.grad.abs().min() > 0


def test_an_empty_image_beside_a_full_one_only_adds_background() -> None:
    outputs = random_outputs(2, 3)
    boxes, labels = random_truth(2, 5, 3)
    labels[1] = -1
    both = FCOSLoss()(outputs, boxes, labels)
    alone = replace(outputs, **{k: getattr(outputs, k)[:1] for k in HEADS})
    one = FCOSLoss()(alone, boxes[:1], labels[:1])
    torch.testing.assert_close(both["loss_box"], one["loss_box"])
    torch.testing.assert_close(both["loss_centerness"], one["loss_centerness"])
    assert both["loss_cls"] > one["loss_cls"]


def test_bfloat16_outputs_give_float32_losses_also_under_autocast() -> None:
    outputs = random_outputs(2, 3)
    half = replace(outputs, **{k: getattr(outputs, k).bfloat16() for k in HEADS})
    boxes, labels = random_truth(2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        losses = FCOSLoss()(half, boxes, labels)
    rounded = replace(outputs, **{k: getattr(half, k).float() for k in HEADS})
    for name, expected in FCOSLoss()(rounded, boxes, labels).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected)


def test_box_predictions_of_background_points_are_ignored() -> None:
    outputs = random_outputs(1, 3)
    boxes, labels = random_truth(1, 5, 3)
    target_labels, _ = assign_fcos(outputs.points, outputs.strides, outputs.level_sizes, boxes, labels)
    background = (target_labels < 0)[..., None]
    wild = replace(outputs, distances=outputs.distances.detach().masked_fill(background, torch.inf))
    torch.testing.assert_close(FCOSLoss()(wild, boxes, labels), FCOSLoss()(outputs, boxes, labels))


def test_an_unknown_box_loss_names_the_choices() -> None:
    loss = FCOSLoss()
    object.__setattr__(loss, "box_loss", "diou")  # the constructor's type check would refuse it first
    with pytest.raises(ValueError, match="box_loss=diou: expected one of iou, linear_iou, giou"):
        loss.__post_init__()


@pytest.mark.parametrize("size_ranges", [((0.0, 9.0),), ((0.0, 9.0),) * 4 + ((9.0, 9.0),), ((0.0, 9.0, 10.0),) * 5])
def test_size_ranges_are_one_pair_a_level(size_ranges: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"size_ranges=\[\[0\.0, .*expected 5 pairs, one for each level"):
        FCOSLoss(size_ranges=size_ranges)


def test_size_ranges_choose_the_levels_that_boxes_train() -> None:
    outputs, (boxes, labels) = random_outputs(1, 2), random_truth(1, 4, 2)

    def loss_box(size_ranges: tuple[tuple[float, float], ...]) -> float:
        return FCOSLoss(size_ranges=size_ranges)(outputs, boxes, labels)["loss_box"].item()

    assert loss_box(SIZE_RANGES) == FCOSLoss()(outputs, boxes, labels)["loss_box"].item() > 0
    assert loss_box(((-1.0, 16.0), *SIZE_RANGES[1:])) not in (0.0, loss_box(SIZE_RANGES))
    assert loss_box(((1e7, 1e8),) * 5) == 0


@pytest.mark.compiled
@pytest.mark.slow
def test_no_shape_depends_on_the_targets() -> None:
    """Assignment and loss trace as one graph, which an operator with a data-dependent shape (a wait for the device)
    would break; the whole network exports with the type of its outputs.
    """
    script = """
        import torch
        from fcos_cases import random_outputs, random_truth
        from detectors.backbones import ResNet
        from detectors.fcos import FCOS, FCOSLoss, FCOSOutputs

        for options in ({}, {"center_sampling": 1.5, "box_loss": "giou"}):
            outputs, (boxes, labels) = random_outputs(2, 3), random_truth(2, 5, 3)
            loss = FCOSLoss(**options)
            compiled = torch.compile(loss, fullgraph=True, backend="eager")
            for empty in (False, True):
                labels = labels.masked_fill(torch.tensor(empty), -1)
                torch.testing.assert_close(compiled(outputs, boxes, labels), loss(outputs, boxes, labels))

        network = FCOS(ResNet(18, weights=None), 3, pyramid_channels=32, num_convs=1).eval()
        example = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]])
        exported = torch.export.export(network, example).module()(*example)
        assert isinstance(exported, FCOSOutputs), exported
        torch.testing.assert_close(exported.distances, network(*example).distances)
    """
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
