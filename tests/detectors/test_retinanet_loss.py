import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fcos_cases import random_truth
from retinanet_cases import (
    boxes_of,
    deltas_of,
    focal,
    gradients,
    outputs_on,
    random_outputs,
    smooth_l1,
    total,
)
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from detectors.anchors import RETINANET
from detectors.backbones.resnet import ResNet
from detectors.boxes import check_same_weights
from detectors.losses import BACKGROUND, IGNORED
from detectors.retinanet import BOX_LOSSES, RetinaNet, RetinaNetDecoder, RetinaNetLoss, assign_retinanet

HEADS = ("logits", "deltas")


# By hand


def test_losses_of_one_anchor_worked_out_by_hand() -> None:
    # The box is the anchor, so deltas of (0.3, 0, 0, -0.05) are the errors, on both sides of beta.
    outputs = outputs_on([[0, 0, 8, 8]], torch.zeros(1, 1, 1), torch.tensor([[[0.3, 0.0, 0.0, -0.05]]]))
    box, label = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.tensor([[0]])
    losses = RetinaNetLoss(smooth_l1_beta=0.1, box_loss_weight=1.0)(outputs, box, label)
    assert losses["loss_cls"].item() == pytest.approx(0.25 * 0.25 * 0.693147)
    assert losses["loss_box"].item() == pytest.approx(0.3 - 0.05 + 0.05**2 / 0.2)
    losses = RetinaNetLoss(box_loss="l1", box_loss_weight=0.5)(outputs, box, label)
    assert losses["loss_box"].item() == pytest.approx(0.5 * 0.35)


def test_box_weights_multiply_the_targets() -> None:
    # centre 2 right of the anchor's, twice as high: targets (2 / 8 wx, 0, 0, log 2 wh)
    outputs = outputs_on([[0, 0, 8, 8]], torch.zeros(1, 1, 1))
    box, label = torch.tensor([[[2.0, -4.0, 10.0, 12.0]]]), torch.tensor([[0]])
    losses = RetinaNetLoss(box_weights=(10.0, 10.0, 5.0, 7.0), box_loss="l1", box_loss_weight=1.0)(outputs, box, label)
    assert losses["loss_box"].item() == pytest.approx(2.5 + 7 * 0.693147)


def test_giou_of_a_box_half_covered() -> None:
    # An anchor of 8 x 8 and a box of 8 x 4 inside it: IoU 1/2, and the hull is the anchor
    outputs = outputs_on([[0, 0, 8, 8]], torch.zeros(1, 1, 1))
    box, label = torch.tensor([[[0.0, 0.0, 8.0, 4.0]]]), torch.tensor([[0]])
    losses = RetinaNetLoss(box_loss="giou", box_loss_weight=1.0)(outputs, box, label)
    assert losses["loss_box"].item() == pytest.approx(0.5)


def test_both_losses_are_divided_by_the_matched_anchors_of_the_whole_batch() -> None:
    """Three matched anchors in each of two images, none in the third."""
    anchors = [[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.0], [0.0, 0.0, 8.0, 6.0], [40.0, 40.0, 48.0, 48.0]]
    outputs = outputs_on(anchors, torch.zeros(3, 4, 2), torch.ones(3, 4, 4))
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0]], [[0.0, 0.0, 8.0, 8.0]], [[0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[0], [1], [-1]])
    assert (assign_retinanet(outputs.anchors, boxes, labels)[0] >= 0).sum(dim=1).tolist() == [3, 3, 0]
    losses = RetinaNetLoss(box_loss="l1", box_loss_weight=1.0)(outputs, boxes, labels)
    quarter = 0.25 * 0.693147  # loss of each column, times alpha
    assert losses["loss_cls"].item() == pytest.approx(quarter * (6 * 0.25 + 18 * 0.75) / 6)
    # Errors of 1 in each coordinate, except for targets of 5 log(8 / 7) and 5 log(8 / 6) in the heights, and
    # 10 (4 - 3.5) / 7 and 10 (4 - 3) / 6 in the centres
    off = [abs(1 - x) for x in (5 * 0.1335314, 5 * 0.2876821, 5 / 7, 10 / 6)]
    assert losses["loss_box"].item() == pytest.approx(2 * (8 + sum(off)) / 6)


# Against a plain formula


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_losses_and_gradients_equal_a_plain_formula(box_loss: str, allow_low_quality: bool) -> None:
    """The formula loops over images and matched rows, with torchvision's focal and GIoU functions."""
    outputs = random_outputs(3, 4)
    outputs = replace(outputs, deltas=(outputs.deltas.detach() * 0.3).requires_grad_())
    boxes, labels = random_truth(3, 6, 4)
    boxes[1, 2:], labels[1, 2:] = 0, -1
    boxes[2], labels[2] = 0, -1
    loss = RetinaNetLoss(
        box_weights=(3.0, 4.0, 5.0, 6.0),
        allow_low_quality=allow_low_quality,
        box_loss=box_loss,
        smooth_l1_beta=0.2,
        box_loss_weight=0.7,
        focal_alpha=0.4,
        focal_gamma=1.5,
    )
    weights = torch.tensor(loss.box_weights)
    target_labels, target = assign_retinanet(outputs.anchors, boxes, labels, allow_low_quality=allow_low_quality)
    of_class, of_box, count = torch.zeros(()), torch.zeros(()), 0
    for image in range(3):
        kept, positive = target_labels[image] != IGNORED, target_labels[image] >= 0
        one_hot = F.one_hot(target_labels[image, kept] + 1, 5)[:, 1:].float()
        of_class = of_class + sigmoid_focal_loss(outputs.logits[image, kept], one_hot, 0.4, 1.5, reduction="sum")
        anchors, box, deltas = outputs.anchors[positive], target[image, positive], outputs.deltas[image, positive]
        if box_loss == "giou":
            predicted = boxes_of(anchors, deltas / weights)
            of_box = of_box + (1 - generalized_box_iou(predicted, box).diagonal()).sum()
        else:
            beta = {"smooth_l1": 0.2, "l1": 1e-9}[box_loss]
            of_box = of_box + smooth_l1(deltas, deltas_of(anchors, box) * weights, beta)
        count += int(positive.sum())
    assert count > 20
    expected = {"loss_cls": of_class / count, "loss_box": 0.7 * of_box / count}
    ours = loss(outputs, boxes, labels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(ours, outputs), gradients(expected, outputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


# What is not matched


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@pytest.mark.parametrize("num_boxes", [0, 3])
def test_a_batch_without_objects_is_finite_and_reaches_every_output(box_loss: str, num_boxes: int) -> None:
    outputs = random_outputs(2, 3)
    boxes, labels = torch.zeros(2, num_boxes, 4), torch.full((2, num_boxes), -1)
    losses = RetinaNetLoss(box_loss=box_loss)(outputs, boxes, labels)
    total(losses).backward()
    assert losses["loss_box"] == 0
    assert losses["loss_cls"] > 0
    for name in HEADS:
        gradient = getattr(outputs, name).grad
        assert gradient is not None
        assert gradient.isfinite().all()
    assert outputs.logits.grad is not None
    assert outputs.logits.grad.abs().min() > 0


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_ignored_anchors_have_no_gradient_and_background_ones_none_of_their_deltas(box_loss: str) -> None:
    outputs = random_outputs(2, 3)
    boxes, labels = random_truth(2, 5, 3)
    target, _ = assign_retinanet(outputs.anchors, boxes, labels)
    assert all((target == value).sum() > 10 for value in (IGNORED, BACKGROUND))
    of_logits, of_deltas = gradients(RetinaNetLoss(box_loss=box_loss)(outputs, boxes, labels), outputs)
    assert of_logits[target == IGNORED].abs().max() == 0
    assert of_logits[target != IGNORED].abs().min() > 0
    assert of_deltas[target < 0].abs().max() == 0
    assert (of_deltas[target >= 0].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_an_empty_image_beside_a_full_one_only_adds_background(box_loss: str) -> None:
    outputs = random_outputs(2, 3)
    boxes, labels = random_truth(2, 5, 3)
    boxes[1], labels[1] = 0, -1
    loss = RetinaNetLoss(box_loss=box_loss)
    both = loss(outputs, boxes, labels)
    alone = replace(outputs, **{k: getattr(outputs, k)[:1] for k in HEADS})
    one = loss(alone, boxes[:1], labels[:1])
    torch.testing.assert_close(both["loss_box"], one["loss_box"], rtol=1e-5, atol=0)
    positives = (assign_retinanet(outputs.anchors, boxes, labels)[0] >= 0).sum()
    background = focal(outputs.logits[1].sigmoid(), torch.full((len(outputs.anchors),), BACKGROUND)) / positives
    torch.testing.assert_close(both["loss_cls"] - one["loss_cls"], background, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_deltas_of_unmatched_anchors_are_ignored(box_loss: str) -> None:
    outputs = random_outputs(1, 3)
    boxes, labels = random_truth(1, 5, 3)
    target, _ = assign_retinanet(outputs.anchors, boxes, labels)
    loss, unmatched = RetinaNetLoss(box_loss=box_loss), (target < 0)[..., None]
    for value in (torch.inf, torch.nan):
        wild = replace(outputs, deltas=outputs.deltas.detach().masked_fill(unmatched, value).requires_grad_())
        losses = loss(wild, boxes, labels)
        torch.testing.assert_close(losses, loss(outputs, boxes, labels))
        assert gradients(losses, wild)[1].isfinite().all()


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_bfloat16_outputs_give_float32_losses_also_under_autocast(box_loss: str) -> None:
    outputs, loss = random_outputs(2, 3), RetinaNetLoss(box_loss=box_loss)
    half = replace(outputs, **{k: getattr(outputs, k).bfloat16() for k in HEADS})
    boxes, labels = random_truth(2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(half, boxes, labels)
    rounded = replace(outputs, **{k: getattr(half, k).float() for k in HEADS})
    for name, expected in loss(rounded, boxes, labels).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected, rtol=1e-6, atol=0)


def test_every_setting_of_the_assignment_is_used() -> None:
    outputs = random_outputs(1, 3)
    boxes, labels = random_truth(1, 8, 3)
    changed: tuple[dict[str, Any], ...] = (
        {},
        {"background_iou": 0.2},
        {"foreground_iou": 0.7},
        {"allow_low_quality": False},
    )
    values = [total(RetinaNetLoss(**knobs)(outputs, boxes, labels)).item() for knobs in changed]
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"background_iou": 0.6}, r"background_iou=0\.6, foreground_iou=0\.5: expected 0 < background_iou <="),
        ({"background_iou": 0.0}, r"background_iou=0\.0, foreground_iou=0\.5: expected 0 < background_iou <="),
        ({"foreground_iou": 1.5}, r"foreground_iou=1\.5: expected .* foreground_iou <= 1"),
        (
            {"box_weights": (1.0, 1.0, 0.0, 1.0)},
            r"box_weights=\[1\.0, 1\.0, 0\.0, 1\.0\]: expected four numbers over 0",
        ),
    ],
)
def test_impossible_settings_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetinaNetLoss(**knobs)


def test_an_unknown_box_loss_names_the_choices() -> None:
    loss = RetinaNetLoss()
    object.__setattr__(loss, "box_loss", "diou")  # the constructor's type check would refuse it first
    with pytest.raises(ValueError, match="box_loss=diou: expected one of smooth_l1, l1, giou"):
        loss.__post_init__()


def test_a_decoder_with_other_box_weights_than_the_loss_is_refused() -> None:
    check_same_weights(RetinaNetLoss(), RetinaNetDecoder())
    check_same_weights(RetinaNetLoss(box_weights=[1.0] * 4), RetinaNetDecoder(box_weights=(1.0,) * 4))
    check_same_weights(object(), RetinaNetDecoder())
    with pytest.raises(ValueError, match=r"box_weights=\[10\.0, .* of the decoder: expected \[1\.0, 1\.0, "):
        check_same_weights(RetinaNetLoss(box_weights=[1.0] * 4), RetinaNetDecoder())


# Devices and compilers


class Copies(TorchFunctionMode):
    """Counts calls that copy from the host to the device and wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, made = (
            {x.device.type for x in tree_leaves(tree) if isinstance(x, Tensor)} for tree in ((args, kwargs), out)
        )
        of_numbers = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
        if made == {"meta"} and (of_numbers or given == {"cpu"}) and not (kwargs or {}).get("non_blocking"):
            self.found.append(str(func))
        return out


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_a_training_step_never_waits_for_the_device(box_loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors any read of a value fails; copies from the host are intercepted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # on CUDA plain copies wait for queued work
    with torch.device("meta"):
        network = RetinaNet(ResNet(18, weights=None), 3, RETINANET, pyramid_channels=32, num_convs=1)
        images, sizes = torch.empty(2, 3, 160, 160, dtype=torch.uint8), torch.empty(2, 2, dtype=torch.int64)
        boxes, labels = torch.empty(2, 3, 4), torch.empty(2, 3, dtype=torch.int64)
    with Copies() as copies:
        losses = RetinaNetLoss(box_loss=box_loss)(network(images, sizes), boxes, labels)
        total(losses).backward()
    assert losses["loss_box"].device.type == "meta"
    assert not copies.found


@pytest.mark.compiled
@pytest.mark.slow
def test_no_shape_depends_on_the_targets() -> None:
    """Assignment and loss trace as one graph, which an operator with a data-dependent shape (a wait for the device)
    would break; the whole network exports with the type of its outputs.
    """
    script = """
        import torch
        from fcos_cases import random_truth
        from retinanet_cases import random_outputs
        from detectors.anchors import RETINANET
        from detectors.backbones import ResNet
        from detectors.retinanet import RetinaNet, RetinaNetLoss, RetinaNetOutputs

        for options in ({}, {"box_loss": "giou", "allow_low_quality": False}):
            outputs, (boxes, labels) = random_outputs(2, 3), random_truth(2, 5, 3)
            loss = RetinaNetLoss(**options)
            compiled = torch.compile(loss, fullgraph=True, backend="eager")
            for empty in (False, True):
                boxes, labels = (x.masked_fill(torch.tensor(empty), y) for x, y in ((boxes, 0), (labels, -1)))
                torch.testing.assert_close(compiled(outputs, boxes, labels), loss(outputs, boxes, labels))

        network = RetinaNet(ResNet(18, weights=None), 3, RETINANET, pyramid_channels=32, num_convs=1).eval()
        example = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]])
        exported = torch.export.export(network, example).module()(*example)
        assert isinstance(exported, RetinaNetOutputs), exported
        torch.testing.assert_close(exported.deltas, network(*example).deltas)
        torch.testing.assert_close(exported.anchors, network(*example).anchors)
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
