"""Parity with torchvision's RetinaNet, first version and second, where the two agree.

Its grid has no offset, its anchors are rounded and their sizes cut to integers; where a canvas is not a multiple
of 128 it spreads the coarse anchors over the canvas (`canvas // cells`), so that there our decoder and loss are given
its anchors. It keeps boxes that clipping left empty, hundreds here. Its losses are means of each image's loss, so that
these are compared for single images. The second version has no biases before its GroupNorms; ours are zero.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from retinanet_cases import ONES
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from detectors.anchors import RETINANET, Anchors
from detectors.backbones.norms import Norm
from detectors.backbones.resnet import ResNet
from detectors.retinanet import RetinaNet, RetinaNetDecoder, RetinaNetLoss, RetinaNetOutputs
from detectors.weights import torchvision

NUM_CLASSES = 91
ANCHORS = Anchors(
    RETINANET.strides,
    tuple(tuple(float(int(size)) for size in sizes) for sizes in RETINANET.sizes),
    grid_offset=0.0,
    round_anchors=True,
)
OURS: dict[str, dict[str, Any]] = {"v1": {"p6_from": "p5"}, "v2": {"p6_from": "c5", "head_norm": "gn"}}
BUILD: dict[str, Callable[..., detection.RetinaNet]] = {
    "v1": detection.retinanet_resnet50_fpn,
    "v2": detection.retinanet_resnet50_fpn_v2,
}


class Pair(NamedTuple):
    theirs: detection.RetinaNet
    ours: RetinaNet
    version: str


@pytest.fixture(scope="module", params=["v1", "v2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    theirs = BUILD[request.param](weights=None, weights_backbone=None, num_classes=NUM_CLASSES).eval()
    for name, value in theirs.state_dict().items():
        if name.endswith("running_var"):
            value.fill_(4.0)  # keeps activations of random residual blocks at a constant scale
        if name.endswith(("cls_logits.weight", "bbox_reg.weight")):
            nn.init.normal_(value, std={"v1": 1.0, "v2": 0.06}[request.param])  # only one has norms in its towers
        if request.param == "v1" and ".conv." in name and name.endswith("weight"):
            nn.init.kaiming_normal_(value)
    theirs.detections_per_img = 5000
    ours = RetinaNet(ResNet(50, weights=None, norm="bn"), NUM_CLASSES, ANCHORS, **OURS[request.param]).eval()
    absent, unknown = ours.load_state_dict(torchvision.retinanet(theirs.state_dict()).state, strict=False)
    assert not unknown
    assert set(absent) == {"backbone.pixel_mean", "backbone.pixel_std"}
    return Pair(theirs, ours, request.param)


CANVASES = [(128, 128), (128, 256), (96, 160)]
on_every_canvas = pytest.mark.parametrize("canvas", CANVASES)


class Seen(NamedTuple):
    outputs: RetinaNetOutputs
    """Our outputs, with torchvision's anchors where its grid differs from ours."""
    raw: dict[str, Tensor]
    anchors: list[Tensor]
    sizes: Tensor


@pytest.fixture(scope="module")
def seen(pair: Pair) -> dict[tuple[int, int], Seen]:
    """Outputs of both for two images, by canvas."""
    return {canvas: _seen(pair, *canvas) for canvas in CANVASES}


@torch.no_grad()
def _seen(pair: Pair, height: int, width: int) -> Seen:
    images = torch.randint(256, (2, 3, height, width), generator=torch.manual_seed(2), dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height - 20, width - 30]])
    outputs = pair.ours(images, sizes)
    x = pair.ours.backbone.normalize(images, sizes)
    maps = list(pair.theirs.backbone(x).values())
    anchors = pair.theirs.anchor_generator(ImageList(x, [(height, width)] * 2), maps)
    assert torch.equal(outputs.anchors, anchors[0]) == (height % 128 == width % 128 == 0)
    return Seen(replace(outputs, anchors=anchors[0]), pair.theirs.head(maps), anchors, sizes)


@pytest.mark.parametrize(
    ("version", "norm", "published"),
    [("v1", "frozen_bn", 34_014_999), ("v2", "bn", 38_198_935 + 2 * 4 * 256)],  # the biases of 2 towers of 4 layers
)
def test_parameters_are_as_many_as_published(version: str, norm: Norm, published: int) -> None:
    with torch.device("meta"):
        network = RetinaNet(ResNet(50, weights=None, norm=norm), NUM_CLASSES, RETINANET, **OURS[version])
    assert sum(parameter.numel() for parameter in network.parameters()) == published


@on_every_canvas
def test_raw_outputs_equal(seen: dict[tuple[int, int], Seen], canvas: tuple[int, int]) -> None:
    outputs, raw, _, _ = seen[canvas]
    torch.testing.assert_close(outputs.logits, raw["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.deltas, raw["bbox_regression"], rtol=1e-4, atol=1e-4)
    assert outputs.logits.std() > 0.1
    assert outputs.deltas.std() > 0.1


@on_every_canvas
def test_detections_equal(pair: Pair, seen: dict[tuple[int, int], Seen], canvas: tuple[int, int]) -> None:
    outputs, raw, anchors, sizes = seen[canvas]
    theirs, levels = pair.theirs, outputs.level_sizes
    expected = theirs.postprocess_detections(
        {key: list(value.split(levels, dim=1)) for key, value in raw.items()},
        [list(a.split(levels)) for a in anchors],
        [(int(height), int(width)) for height, width in sizes],
    )
    decode = RetinaNetDecoder(
        box_weights=ONES,
        score_threshold=theirs.score_thresh,
        nms_threshold=theirs.nms_thresh,
        candidates_per_level=theirs.topk_candidates,
        max_detections=5000,
    )
    detections = decode(outputs, sizes)
    for image, result in enumerate(expected):
        full = (result["boxes"][:, 2:] > result["boxes"][:, :2]).all(dim=1)
        kept = detections.labels[image] >= 0
        assert full.sum() == kept.sum() > 100
        assert (~full).sum() > 100
        torch.testing.assert_close(detections.scores[image][kept], result["scores"][full], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(detections.boxes[image][kept], result["boxes"][full], rtol=1e-5, atol=1e-4)
        assert torch.equal(detections.labels[image][kept], result["labels"][full])


@on_every_canvas
@pytest.mark.parametrize("num_boxes", [0, 1, 6])
def test_losses_of_an_image_equal(
    pair: Pair, seen: dict[tuple[int, int], Seen], canvas: tuple[int, int], num_boxes: int
) -> None:
    """The first version has an L1 loss of the deltas, the second a GIoU loss; both match as ours does by default."""
    generator = torch.Generator().manual_seed(num_boxes)
    corner = torch.rand(num_boxes, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + torch.rand(num_boxes, 2, generator=generator) * 60 + 5), dim=1)
    labels = torch.randint(NUM_CLASSES, (num_boxes,), generator=generator)
    raw = {key: value[:1].clone().requires_grad_() for key, value in seen[canvas].raw.items()}
    expected = pair.theirs.compute_loss([{"boxes": boxes, "labels": labels}], raw, seen[canvas].anchors[:1])
    loss = RetinaNetLoss(box_weights=ONES, box_loss={"v1": "l1", "v2": "giou"}[pair.version], box_loss_weight=1.0)
    outputs = replace(seen[canvas].outputs, logits=raw["cls_logits"], deltas=raw["bbox_regression"])
    ours = loss(outputs, boxes[None], labels[None])
    for name, other in {"loss_cls": "classification", "loss_box": "bbox_regression"}.items():
        torch.testing.assert_close(ours[name], expected[other], rtol=1e-4, atol=1e-5)
        for leaf in raw.values():
            a, b = (
                torch.autograd.grad(x, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for x in (ours[name], expected[other])
            )
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert (ours["loss_box"] > 0) == (num_boxes > 0)
