"""Losses compared with those recorded from zgcr and xytpai; each oracle works with and without their faults."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from retinanet_cases import ONES, RCNN, boxes_of, deltas_of, focal, gradients, ious, outputs_on, smooth_l1, total
from torch import Tensor

from detectors import retinanet
from detectors.losses import BACKGROUND, IGNORED
from detectors.retinanet import RetinaNetLoss

Golden = Callable[[str], dict[str, Any]]


def with_targets(monkeypatch: pytest.MonkeyPatch, labels: Tensor, boxes: Tensor) -> None:
    """Makes the loss use these targets, whatever the truth."""
    monkeypatch.setattr(retinanet, "assign_retinanet", lambda *_, **__: (labels, boxes))


NO_TRUTH = (torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64))


def test_losses_of_recorded_targets_equal_the_original_of_zgcr(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one image. It clamps probabilities to [1e-4, 1 - 1e-4]; without that the oracle equals ours."""
    recorded = golden("retinanet_zgcr/loss_one_image")["float32"]
    p, reg, targets = (recorded["in"][k] for k in ("cls_prob", "reg", "targets"))
    labels = targets[:, 4].long() - 1  # ignored, background, classes: -2, -1, 0 ...
    positive = labels >= 0
    count = positive.sum()
    theirs = focal(p.clamp(1e-4, 1 - 1e-4), labels) / count
    torch.testing.assert_close(theirs, recorded["out"]["focal"], rtol=1e-4, atol=0)
    # a mean over the four coordinates: our weight of 0.25
    of_box = 0.25 * smooth_l1(reg[positive], targets[positive, :4], 1 / 9) / count
    torch.testing.assert_close(of_box, recorded["out"]["smooth_l1"], rtol=1e-4, atol=0)

    anchors = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(len(labels), 4)
    boxes = boxes_of(anchors, targets[:, :4] / torch.tensor(RCNN))
    with_targets(monkeypatch, labels[None], boxes.where(positive[:, None], anchors)[None])
    logits = p.logit(1e-6)
    ours = RetinaNetLoss()(outputs_on(anchors, logits[None], reg[None]), *NO_TRUTH)
    torch.testing.assert_close(ours["loss_box"], recorded["out"]["smooth_l1"], rtol=1e-4, atol=0)
    without_clamp = focal(logits.double().sigmoid(), labels) / count
    torch.testing.assert_close(ours["loss_cls"].double(), without_clamp, rtol=1e-4, atol=0)


def of_zgcr(given: dict[str, Tensor], p: Tensor, reg: Tensor, size: list[int], legacy: bool) -> dict[str, Tensor]:
    """Its whole loss, image by image.

    `legacy`: areas with "+1" pixels, anchors at the border dropped, probabilities clamped, images without a match
    skipped, and each image divided by its own number of matches.
    """
    anchors = given["anchors"]
    height, width = size
    kept = (anchors[:, :2] > 0).all(dim=1) & (anchors[:, 2:] < torch.tensor([width, height])).all(dim=1)
    kept = kept if legacy else torch.ones_like(kept)
    anchors, p, reg = anchors[kept], p[:, kept], reg[:, kept]
    found: list[tuple[Tensor, Tensor, int]] = []
    for image, annotations in enumerate(given["annotations"]):
        boxes = annotations[annotations[:, 4] >= 0]
        labels, target = torch.full((len(anchors),), BACKGROUND), anchors
        if len(boxes):
            largest, row = ious(anchors, boxes[:, :4], added=1.0 if legacy else 0.0).max(dim=1)
            labels = torch.where(largest < 0.4, BACKGROUND, IGNORED).where(largest < 0.5, boxes[row, 4].long())
            target = boxes[row, :4]
        positive = labels >= 0
        of_class = focal(p[image].clamp(1e-4, 1 - 1e-4) if legacy else p[image], labels)
        deltas = deltas_of(anchors[positive], target[positive]) * torch.tensor(RCNN)
        found.append((of_class, smooth_l1(reg[image, positive], deltas, 1 / 9) / 4, int(positive.sum())))
    if legacy:
        of_images = [(a / n, b / n) for a, b, n in found if n]
        sums = [sum(parts) / len(of_images) for parts in zip(*of_images, strict=True)]
    else:
        sums = [sum(part[i] for part in found) / max(1, sum(n for *_, n in found)) for i in (0, 1)]
    return {"loss_cls": torch.as_tensor(sums[0]), "loss_box": torch.as_tensor(sums[1])}


@pytest.mark.parametrize("case", ["mixed", "all_empty"])
def test_losses_and_gradients_equal_the_original_of_zgcr_without_its_faults(golden: Golden, case: str) -> None:
    """With its faults the oracle equals the recorded original, without them ours.

    Where no image has a match the original is nan, and ours is the loss of background.
    """
    recorded = golden("retinanet_zgcr/loss")[case]
    given, size = recorded["in"], recorded["args"]["image_hw"]
    if case == "mixed":
        p, reg = given["cls_prob"].requires_grad_(), given["reg"].requires_grad_()
        theirs = of_zgcr(given, p, reg, size, legacy=True)
        torch.testing.assert_close(theirs["loss_cls"], recorded["out"]["cls_loss"], rtol=1e-4, atol=0)
        torch.testing.assert_close(theirs["loss_box"], recorded["out"]["reg_loss"], rtol=1e-4, atol=0)
        of_class, of_box = torch.autograd.grad(total(theirs), (p, reg))
        torch.testing.assert_close(of_class, recorded["out"]["grad_cls"], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(of_box, recorded["out"]["grad_reg"], rtol=1e-3, atol=1e-6)
    else:
        assert recorded["out"]["cls_loss"].isnan()

    logits = given["cls_prob"].detach().logit(1e-5).requires_grad_()
    reg = given["reg"].detach().requires_grad_()
    outputs = outputs_on(given["anchors"], logits, reg)
    padding = given["annotations"][..., 4] < 0
    boxes = given["annotations"][..., :4].masked_fill(padding[..., None], 0.0)
    ours = RetinaNetLoss(allow_low_quality=False)(outputs, boxes, given["annotations"][..., 4].long())
    without = of_zgcr(given, logits.sigmoid(), reg, size, legacy=False)
    torch.testing.assert_close(ours, without, rtol=1e-4, atol=1e-6)
    of_class, of_box = gradients(ours, outputs)
    torch.testing.assert_close(of_class, torch.autograd.grad(without["loss_cls"], logits)[0], rtol=1e-3, atol=1e-5)
    if case == "mixed":
        torch.testing.assert_close(of_box, torch.autograd.grad(without["loss_box"], reg)[0], rtol=1e-3, atol=1e-6)
    else:
        assert of_box.abs().max() == 0


@pytest.mark.parametrize("case", ["random_float32", "empty_image_float32", "tiny_forced_float32"])
def test_losses_and_gradients_of_recorded_targets_equal_the_original_of_xytpai(
    golden: Golden, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its smooth L1 has beta 1 and unit weights. It fails in `no_positive_in_batch`, which holds no arrays; that ours
    is finite is tested in test_retinanet_loss.
    """
    recorded = golden("retinanet_xyt/focal_loss_detection")[case]
    given, out = recorded["in"], recorded["out"]
    labels = given["targets_cls"] - 1  # ignored, background, classes: -2, -1, 0 ...
    anchors = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(labels.shape[1], 4)
    boxes = boxes_of(anchors, given["targets_reg"])
    with_targets(monkeypatch, labels, boxes.where(labels[..., None] >= 0, anchors))
    outputs = outputs_on(anchors, given["feature_cls"].requires_grad_(), given["feature_reg"].requires_grad_())
    losses = RetinaNetLoss(box_weights=ONES, smooth_l1_beta=1.0, box_loss_weight=1.0)(outputs, *NO_TRUTH)
    torch.testing.assert_close(losses["loss_cls"], out["loss_cls_only"], rtol=1e-4, atol=0)
    torch.testing.assert_close(total(losses), out["loss"], rtol=1e-4, atol=0)
    ten_times = losses["loss_cls"] + 10 * losses["loss_box"]
    torch.testing.assert_close(ten_times, out["loss_factor_reg_10"], rtol=1e-4, atol=0)
    of_class, of_box = gradients(losses, outputs)
    torch.testing.assert_close(of_class.sum(dim=-1), out["grad_cls_sum_per_anchor"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(of_box, out["grad_reg"], rtol=1e-3, atol=1e-6)
