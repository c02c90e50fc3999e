"""Parity with torchvision's Faster R-CNN over a pyramid.

Its grid has no offset, its anchors are rounded and its RoIAlign is half a cell off; where a canvas is not a multiple of
64 it spreads the coarse anchors over the canvas (`canvas // cells`), so that there our decoder and losses are given its
anchors. It drops proposals with a side under 0.001 pixels and detections with one under 0.01, ours drop those without
area. Both sample at random, with different random numbers: its losses are given our samples.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from faster_rcnn_cases import random_boxes
from fcos_cases import pad_truth
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers

from detectors.anchors import FASTER_RCNN_FPN
from detectors.backbones.resnet import ResNet
from detectors.faster_rcnn import FasterRCNN, RegionDecoder, RegionLoss, RegionOutputs, RegionSampler
from detectors.losses import BACKGROUND
from detectors.rpn import AnchorSampler, Proposals, RPNDecoder, RPNLoss, RPNOutputs, assign_rpn
from detectors.weights import torchvision

NUM_CLASSES = 90
ANCHORS = replace(FASTER_RCNN_FPN, grid_offset=0.0, round_anchors=True)


class Pair(NamedTuple):
    theirs: Any  # Any, since torch types its parts as tensors or modules
    ours: FasterRCNN


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.manual_seed(0)
    theirs: Any = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
    theirs.eval()
    spread = {"rpn.head.cls_logits": 0.1, "rpn.head.bbox_pred": 0.03, "cls_score": 0.1, "box_predictor.bbox_pred": 0.1}
    for name, value in theirs.state_dict().items():
        if name.endswith("running_var"):
            value.fill_(1.5)  # keeps activations of random residual blocks at a constant scale
        if name.endswith(("rpn.head.conv.0.0.weight", "fc6.weight", "fc7.weight")):
            nn.init.kaiming_normal_(value)
        for part, std in spread.items():
            if name.endswith(f"{part}.weight"):
                nn.init.normal_(value, std=std)
    theirs.roi_heads.detections_per_img = 5000
    with torch.device("meta"):
        ours = FasterRCNN(ResNet(50, weights=None, norm="bn"), NUM_CLASSES, ANCHORS, aligned=False).eval()
    state = {"backbone.pixel_mean": torch.tensor([0.5] * 3), "backbone.pixel_std": torch.tensor([0.25] * 3)}
    ours.load_state_dict(torchvision.faster_rcnn(theirs.state_dict()).state | state, assign=True)
    return Pair(theirs, ours)


def test_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        network = FasterRCNN(ResNet(50, weights=None, norm="frozen_bn", frozen_stages=0), NUM_CLASSES, FASTER_RCNN_FPN)
    assert sum(parameter.numel() for parameter in network.parameters()) == 41_755_286


CANVASES = [(128, 128), (128, 192), (96, 160)]
on_every_canvas = pytest.mark.parametrize("canvas", CANVASES)


class Seen(NamedTuple):
    outputs: RPNOutputs
    """Our outputs, with torchvision's anchors where its grid differs from ours."""
    maps: dict[str, Tensor]
    logits: Tensor
    deltas: Tensor
    anchors: list[Tensor]
    sizes: Tensor
    proposals: Proposals
    regions: RegionOutputs
    theirs: tuple[Tensor, Tensor]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [(int(height), int(width)) for height, width in self.sizes]


@pytest.fixture(scope="module")
def seen(pair: Pair) -> dict[tuple[int, int], Seen]:
    """Outputs of both for two images, by canvas."""
    return {canvas: _seen(pair, *canvas) for canvas in CANVASES}


@torch.no_grad()
def _seen(pair: Pair, height: int, width: int) -> Seen:
    theirs, ours = pair
    images = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height - 20, width - 30]])
    outputs = ours(images, sizes)
    x = ours.backbone.normalize(images, sizes)
    maps = theirs.backbone(x)
    anchors = theirs.rpn.anchor_generator(ImageList(x, [(height, width)] * 2), list(maps.values()))
    assert torch.equal(outputs.anchors, anchors[0]) == (height % 64 == width % 64 == 0)
    logits, deltas = concat_box_prediction_layers(*theirs.rpn.head(list(maps.values())))
    outputs = replace(outputs, anchors=anchors[0])
    proposals = RPNDecoder(max_proposals=150)(outputs, sizes)
    pooled = theirs.roi_heads.box_roi_pool(maps, list(proposals.boxes), [(height, width), (height - 20, width - 30)])
    of_regions = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
    regions = ours.refine(outputs.maps, proposals.boxes)
    return Seen(outputs, maps, logits, deltas, anchors, sizes, proposals, regions, of_regions)


@on_every_canvas
def test_raw_outputs_of_the_proposal_network_equal(seen: dict[tuple[int, int], Seen], canvas: tuple[int, int]) -> None:
    case = seen[canvas]
    for ours, theirs in zip(case.outputs.maps, case.maps.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in ((case.outputs.logits, case.logits), (case.outputs.deltas, case.deltas)):
        torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-4, atol=1e-4)
        assert 0.3 < ours.std() < 3


def apart(logits: Tensor) -> Tensor:
    """Logits in the same order, but at least 1e-5 apart after the sigmoid.

    The sigmoid rounds differently from processor to processor and by place in a vector; torchvision ranks by the
    sigmoid, ours by the logit.
    """
    flat = logits.flatten()
    return torch.linspace(-4, 4, len(flat))[flat.argsort(stable=True).argsort()].view_as(logits)


@on_every_canvas
@pytest.mark.parametrize("training", [True, False])
def test_proposals_equal(
    pair: Pair, seen: dict[tuple[int, int], Seen], canvas: tuple[int, int], training: bool
) -> None:
    case, rpn = seen[canvas], pair.theirs.rpn
    rpn.training = training  # this module alone, to choose between its two presets
    boxes = rpn.box_coder.decode(case.deltas, case.anchors).view(2, -1, 4)
    logits = apart(case.logits)
    expected = rpn.filter_proposals(boxes, logits, case.shapes, list(case.outputs.level_sizes))
    most = 2000 if training else 1000
    outputs = replace(case.outputs, logits=logits.view(2, -1), deltas=case.deltas.view(2, -1, 4))
    ours = RPNDecoder(candidates_per_level=most, max_proposals=most, min_size=rpn.min_size)(outputs, case.sizes)
    for image, (boxes, scores) in enumerate(zip(*expected, strict=True)):
        n = len(boxes)
        assert 100 < n <= most
        torch.testing.assert_close(ours.scores[image, :n], scores, rtol=1e-6, atol=0)
        torch.testing.assert_close(ours.boxes[image, :n], boxes, rtol=1e-5, atol=1e-4)
        assert (ours.labels[image] >= 0).sum() == n


@on_every_canvas
def test_raw_outputs_of_regions_equal(seen: dict[tuple[int, int], Seen], canvas: tuple[int, int]) -> None:
    case = seen[canvas]
    for ours, theirs in zip((case.regions.logits, case.regions.deltas), case.theirs, strict=True):
        torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-4, atol=1e-4)
        assert 0.3 < ours.std() < 3


@on_every_canvas
def test_detections_equal(pair: Pair, seen: dict[tuple[int, int], Seen], canvas: tuple[int, int]) -> None:
    case, heads = seen[canvas], pair.theirs.roi_heads
    logits, deltas = case.theirs  # both decode these, since rounding changes the order of equal scores
    expected = heads.postprocess_detections(logits, deltas, list(case.proposals.boxes), case.shapes)
    decode = RegionDecoder(
        score_threshold=heads.score_thresh, nms_threshold=heads.nms_thresh, max_detections=heads.detections_per_img
    )
    outputs = RegionOutputs(logits.view_as(case.regions.logits), deltas.view_as(case.regions.deltas))
    ours = decode(outputs, case.proposals, case.sizes)
    for image, (boxes, scores, labels) in enumerate(zip(*expected, strict=True)):
        kept = (ours.boxes[image, :, 2:] - ours.boxes[image, :, :2] >= 0.01).all(dim=1)
        assert kept.sum() == len(boxes) > 100
        torch.testing.assert_close(ours.scores[image][kept], scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.boxes[image][kept], boxes, rtol=1e-5, atol=1e-4)
        assert torch.equal(ours.labels[image][kept] + 1, labels)


def truth(*counts: int) -> tuple[list[dict[str, Tensor]], Tensor, Tensor]:
    """Boxes of each image in torchvision's form, whose labels begin at 1, and in ours."""
    targets: list[dict[str, Tensor]] = []
    for image, count in enumerate(counts):
        labels = torch.randint(1, NUM_CLASSES + 1, (count,), generator=torch.Generator().manual_seed(image))
        targets.append({"boxes": random_boxes(count, 96.0, seed=image), "labels": labels})
    return targets, *pad_truth([x["boxes"] for x in targets], [x["labels"] for x in targets])


on_truths = pytest.mark.parametrize("counts", [(0, 0), (5, 0), (1, 7)])


@on_every_canvas
@on_truths
def test_losses_of_the_proposal_network_equal_on_the_same_samples(
    pair: Pair, seen: dict[tuple[int, int], Seen], canvas: tuple[int, int], counts: tuple[int, int]
) -> None:
    case, rpn = seen[canvas], pair.theirs.rpn
    targets, boxes, labels = truth(*counts)
    assigned, matched = rpn.assign_targets_to_anchors(case.anchors, targets)
    ours, _ = assign_rpn(case.outputs.anchors, boxes, labels, case.sizes)
    assert torch.equal(torch.where(ours >= 0, 1, ours - BACKGROUND), torch.stack(assigned))

    leaves = [case.outputs.logits.clone().requires_grad_(), case.outputs.deltas.clone().requires_grad_()]
    outputs, loss = replace(case.outputs, logits=leaves[0], deltas=leaves[1]), RPNLoss()
    samples = AnchorSampler()(outputs, boxes, labels, case.sizes, [3, 4])
    drawn = [torch.zeros_like(ours, dtype=torch.bool) for _ in range(2)]
    for mask, chosen in zip(drawn, (samples.labels >= 0, samples.labels == BACKGROUND), strict=True):
        mask.scatter_(1, samples.rows, chosen)
    rpn.fg_bg_sampler = lambda _: tuple(list(mask) for mask in drawn)
    encoded = rpn.box_coder.encode(matched, case.anchors)
    expected = rpn.compute_loss(leaves[0].reshape(-1, 1), leaves[1].reshape(-1, 4), assigned, encoded)
    assert_equal_with_gradients(list(loss(outputs, samples).values()), list(expected), leaves)
    assert (expected[1] > 0) == (sum(counts) > 0)


@on_every_canvas
@on_truths
def test_losses_of_regions_equal_on_the_same_samples(
    pair: Pair, seen: dict[tuple[int, int], Seen], canvas: tuple[int, int], counts: tuple[int, int]
) -> None:
    case, heads = seen[canvas], pair.theirs.roi_heads
    targets, boxes, labels = truth(*counts)
    samples = RegionSampler(num_samples=64)(case.proposals, boxes, labels, [3, 4])
    given = [x["boxes"] for x in targets], [x["labels"] for x in targets]
    _, assigned = heads.assign_targets_to_proposals(list(samples.regions), *given)
    assert torch.equal(samples.labels - BACKGROUND, torch.stack(assigned))

    generator = torch.Generator().manual_seed(0)
    shape = (2, 64, NUM_CLASSES + 1)
    leaves = [torch.randn(*shape, generator=generator), torch.randn(*shape, 4, generator=generator)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    encoded = heads.box_coder.encode(list(samples.boxes), list(samples.regions))
    expected = fastrcnn_loss(leaves[0].flatten(0, 1), leaves[1].flatten(2).flatten(0, 1), assigned, encoded)
    ours = RegionLoss(smooth_l1_beta=1 / 9)(RegionOutputs(leaves[0], leaves[1]), samples)
    assert_equal_with_gradients(list(ours.values()), list(expected), leaves)
    assert (expected[1] > 0) == (sum(counts) > 0)


def assert_equal_with_gradients(ours: list[Tensor], theirs: list[Tensor], leaves: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for leaf in leaves:
            gradients = (
                torch.autograd.grad(x, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for x in (a, b)
            )
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
