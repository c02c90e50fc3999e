"""Losses and detections compared with chenyuntc's recorded Faster R-CNN, whose boxes are (y1, x1, y2, x2)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from faster_rcnn_cases import proposals_of, rpn_outputs_on
from retinanet_cases import ONES, RCNN, yxhw, yxyx
from torch import Tensor

from detectors.boxes import deltas_to_boxes
from detectors.faster_rcnn import RegionDecoder, RegionLoss, RegionOutputs, RegionSamples
from detectors.losses import BACKGROUND, IGNORED
from detectors.rpn import AnchorSamples, RPNLoss

Golden = Callable[[str], dict[str, Any]]


def anchor_samples(labels: Tensor, anchors: Tensor, deltas: Tensor) -> AnchorSamples:
    """All anchors as samples, with the original's labels (-1: ignored, 0: background) and deltas."""
    labels = torch.where(labels >= 0, labels.long() - 1, IGNORED)
    boxes = torch.where(labels[:, None] >= 0, deltas_to_boxes(anchors, yxhw(deltas), ONES), anchors)
    return AnchorSamples(torch.arange(len(labels))[None], labels[None], boxes[None])


@pytest.mark.parametrize("case", ["rpn_sigma3", "no_positive"])
def test_the_box_loss_of_anchors_equals_the_original(golden: Golden, case: str) -> None:
    """Its sigma corresponds to our 1 / sqrt(beta)."""
    recorded = golden("frcnn/losses")
    assert set(recorded) == {"rpn_sigma3", "no_positive", "four_losses_a"}
    given, out = recorded[case]["in"], recorded[case]["out"]
    anchors = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(len(given["gt_label"]), 4)
    samples = anchor_samples(given["gt_label"], anchors, given["gt_loc"])
    predicted = given["pred_loc"].clone().requires_grad_()
    outputs = rpn_outputs_on(anchors, torch.zeros(1, len(anchors)), yxhw(predicted)[None])
    loss = RPNLoss(smooth_l1_beta=1 / recorded[case]["args"]["sigma"] ** 2)(outputs, samples)["loss_rpn_loc"]
    torch.testing.assert_close(loss, out["loss"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, predicted)
    torch.testing.assert_close(gradient, out.get("grad", torch.zeros_like(gradient)), rtol=1e-4, atol=1e-6)


def test_all_four_losses_and_their_gradients_equal_the_original(golden: Golden) -> None:
    """Its RPN has a logit for background too: the difference of its two logits is our one, so that the gradient of its
    object logit is ours and that of its background logit is the negative.
    """
    recorded = golden("frcnn/losses")["four_losses_a"]
    given, args, out = recorded["in"], recorded["args"], recorded["out"]
    names = ("rpn_loc", "rpn_score", "roi_cls_loc", "roi_score")
    leaves = {name: given[name].clone().requires_grad_() for name in names}
    anchors, score = yxyx(given["anchor"]), leaves["rpn_score"]
    proposing = RPNLoss(smooth_l1_beta=1 / args["rpn_sigma"] ** 2)(
        rpn_outputs_on(anchors, (score[:, 1] - score[:, 0])[None], yxhw(leaves["rpn_loc"])[None]),
        anchor_samples(given["gt_rpn_label"], anchors, given["gt_rpn_loc"]),
    )
    regions, labels = yxyx(given["sample_roi"]), given["gt_roi_label"].long() - 1
    boxes = torch.where(labels[:, None] >= 0, deltas_to_boxes(regions, yxhw(given["gt_roi_loc"]), RCNN), regions)
    deltas = yxhw(leaves["roi_cls_loc"].view(len(regions), -1, 4))
    refining = RegionLoss(smooth_l1_beta=1 / args["roi_sigma"] ** 2)(
        RegionOutputs(leaves["roi_score"][None], deltas[None]),
        RegionSamples(regions[None], labels[None], boxes[None]),
    )
    ours = proposing | refining
    for name, value in ours.items():  # our loss_rpn_cls is its rpn_cls_loss
        torch.testing.assert_close(value, out[f"{name.removeprefix('loss_')}_loss"], rtol=1e-4, atol=0)
    total = torch.stack(list(ours.values())).sum()
    torch.testing.assert_close(total, out["total_loss"], rtol=1e-4, atol=0)
    total.backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, out[f"grad_{name}"], rtol=1e-4, atol=1e-6)
        assert leaf.grad.abs().max() > 0
    assert (labels == BACKGROUND).any()


def test_detections_equal_the_original(golden: Golden) -> None:
    """It divides proposals by the image's scale and clips in the original image, as is done by hand here; it has no
    maximum number, which these cases do not reach. It keeps boxes that clipping left without area.
    """
    recorded = golden("frcnn/predict")
    assert set(recorded) == {"basic"}
    given, args, out = (recorded["basic"][name] for name in ("in", "args", "out"))
    decoder = RegionDecoder(score_threshold=args["score_thresh"], nms_threshold=args["nms_thresh"], max_detections=100)
    deltas = yxhw(given["roi_cls_loc"].view(len(given["roi"]), args["n_class_incl_bg"], 4))
    proposals = proposals_of(yxyx(given["roi"]) / args["scale"])
    size = torch.tensor([args["original_size_hw"]])
    detections = decoder(RegionOutputs(given["roi_score"][None], deltas[None]), proposals, size)

    full = (out["bbox"][:, 2:] > out["bbox"][:, :2]).all(dim=1)
    order = out["score"].argsort(descending=True)
    order = order[full[order]]
    n = len(order)
    assert 50 < n < 100
    torch.testing.assert_close(detections.scores[0, :n], out["score"][order], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(yxyx(detections.boxes[0, :n]), out["bbox"][order], rtol=1e-5, atol=1e-3)
    assert torch.equal(detections.labels[0, :n], out["label"][order].long())
    assert (detections.labels[0, n:] == -1).all()
