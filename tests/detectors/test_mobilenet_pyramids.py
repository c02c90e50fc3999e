"""Pyramids over MobileNets as published: torchvision's over two maps of stride 32, fcos_core's up to 320 channels."""

from typing import Any

import pytest
import torch
from faster_rcnn_cases import as_ours
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from detectors.anchors import Anchors
from detectors.backbones.mobilenet import MobileNetV2, MobileNetV3Large
from detectors.backbones.resnet import ResNet
from detectors.faster_rcnn import FasterRCNN
from detectors.fcos import FCOS
from detectors.pyramid import FeaturePyramid

ANCHORS = Anchors((32, 32, 64), ((32.0, 64.0, 128.0, 256.0, 512.0),) * 3, grid_offset=0.0, round_anchors=True)


def make(norm: Any) -> FasterRCNN:
    backbone = MobileNetV3Large(weights=None, norm=norm, norm_eps=1e-5, frozen_stages=0)
    return FasterRCNN(backbone, 90, ANCHORS, pyramid_strides=(32, 32), aligned=False).eval()


@torch.no_grad()
def test_torchvisions_detector_on_a_mobilenet_v3_is_a_pyramid_over_two_maps_of_stride_32() -> None:
    torch.manual_seed(0)
    theirs: Any = detection.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)  # pyright: ignore[reportArgumentType]
    with torch.device("meta"):
        ours = make("bn")
    named = {n.replace("backbone.", "backbone.features.", 1) if n[9:10].isdigit() else n: v
             for n, v in as_ours(theirs.state_dict()).items()}  # fmt: skip
    ours.load_state_dict(named | {f"backbone.pixel_{k}": torch.full((3,), 0.5) for k in ("mean", "std")}, assign=True)
    images = torch.randint(256, (1, 3, 128, 192), dtype=torch.uint8)
    sizes = torch.tensor([[128, 192]])
    outputs, x = ours(images, sizes), ours.backbone.normalize(images, sizes)
    maps = theirs.backbone(x)
    assert [tuple(m.shape[2:]) for m in outputs.maps] == [(4, 6), (4, 6), (2, 3)]
    for a, b in zip(outputs.maps, maps.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
    anchors = theirs.rpn.anchor_generator(ImageList(x, [(128, 192)]), list(maps.values()))
    by_size = outputs.anchors.view(-1, 15, 4).sort(dim=1).values  # the order within a cell is another
    assert torch.equal(by_size, anchors[0].view(-1, 15, 4).sort(dim=1).values)
    boxes = torch.tensor([[0.0, 0.0, 190.0, 120.0], [10.0, 20.0, 40.0, 70.0], [0.0, 0.0, 2000.0, 1500.0]])
    pooled = theirs.roi_heads.box_roi_pool(maps, [boxes], [(128, 192)])  # all of them from the first map
    image = torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(ours.pool_regions(outputs.maps, image, boxes), pooled, rtol=1e-4, atol=1e-5)


def test_its_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        network = FasterRCNN(make("frozen_bn").backbone, 90, ANCHORS, pyramid_strides=(32, 32))
    assert sum(parameter.numel() for parameter in network.parameters()) == 19_386_354


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ((32, 16), r"pyramid_strides=\[32, 16\]: expected rising strides"),
        ((32, 32, 32), r"expected rising strides, none more than twice"),
        ((16, 16, 32), r"of stride 16 this backbone has one map"),
        ((8, 64), r"maps of stride 4, 8, 16, 32, and none of 64"),
    ],
)
def test_strides_that_make_no_pyramid_are_refused(strides: tuple[int, ...], message: str) -> None:
    with torch.device("meta"):
        backbone = MobileNetV3Large(weights=None)
        with pytest.raises(ValueError, match=message):
            FeaturePyramid(backbone, 32, "pool", strides)


def test_a_backbone_with_one_map_of_a_stride_says_so() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"of stride 32 .* one map; .* mobilenet_v3_large"):
        FeaturePyramid(ResNet(18, weights=None), 32, "pool", (32, 32))


def test_fcos_cores_mobilenet_v2_ends_before_the_last_convolution() -> None:
    """Its pyramid is over features 6, 13 and 17, of 32, 96 and 320 channels."""
    with torch.device("meta"):
        backbone = MobileNetV2(weights=None, norm="bn", last_convolution=False)
        whole = MobileNetV2(weights=None, norm="bn")
        assert {n.split(".")[1] for n, _ in backbone.named_parameters()} == {str(i) for i in range(18)}
        assert set(backbone.state_dict()) == {n for n in whole.state_dict() if not n.startswith("features.18.")}
        maps = backbone(torch.zeros(1, 3, 64, 64))
        assert [m.shape[1] for m in maps] == [32, 96, 320]
        assert FCOS(backbone, 80).pyramid.lateral[2].weight.shape == (256, 320, 1, 1)
