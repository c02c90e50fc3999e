"""Variants of the ResNet: ResNeXt, strides in the 1x1 convolution, Caffe's pixels, dilated C5, eps of the norms."""

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from composing import composed
from tiers import slow_but
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import Bottleneck

from detectors.anchors import FASTER_RCNN_VGG16
from detectors.backbones.norms import NORMS, FrozenBatchNorm
from detectors.backbones.resnet import PUBLISHED, ResNet
from detectors.classifier import Classifier
from detectors.faster_rcnn import FasterRCNN
from detectors.pyramid import FeaturePyramid
from lit_modules.optimizers import sgd
from lit_modules.rpn import RPNModule
from lit_modules.schedules import constant

STRIDES = (4, 8, 16, 32)


def small(depth: int = 50, **options: Any) -> ResNet:
    options = {"weights": None, "frozen_stages": 0} | options
    return ResNet(depth, **options)  # pyright: ignore[reportArgumentType]


def randomize(network: nn.Module) -> None:
    """Statistics and scales as after a little training, so that maps stay within bounds."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm):
            for tensor, low, high in (
                (layer.weight, 0.3, 0.6),
                (layer.bias, -0.2, 0.2),
                (cast(Tensor, layer.running_mean), -0.2, 0.2),
                (cast(Tensor, layer.running_var), 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)


def torchvision_maps(network: models.ResNet, x: Tensor) -> list[Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return [x := layer(x) for layer in (network.layer1, network.layer2, network.layer3, network.layer4)]


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())


@pytest.mark.parametrize(
    ("build", "options"),
    slow_but(
        "50-32x4d",
        of={
            "152": (models.resnet152, {"depth": 152}),
            "50-32x4d": (models.resnext50_32x4d, {"depth": 50, "groups": 32, "width_per_group": 4}),
            "101-32x8d": (models.resnext101_32x8d, {"depth": 101, "groups": 32, "width_per_group": 8}),
            "101-64x4d": (models.resnext101_64x4d, {"depth": 101, "groups": 64, "width_per_group": 4}),
        },
    ),
)
@torch.no_grad()
def test_maps_equal_torchvisions_and_imagenet_is_its_file(
    build: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    theirs = build(weights=None)
    randomize(theirs)
    asked: list[str] = []

    def download(self: models.WeightsEnum, **_: object) -> OrderedDict[str, Tensor]:
        asked.append(f"{type(self).__name__}.{self.name}")
        return OrderedDict(theirs.state_dict())

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", download)
    monkeypatch.setattr("detectors.weights.loading.unreachable", lambda url: "")
    ours = small(**options, weights="imagenet").eval().double()
    x = torch.randn(1, 3, 64, 64).double()
    assert_close(ours(x, STRIDES), torchvision_maps(theirs.eval().double(), x))
    assert [tuple(m.shape[1:]) for m in ours(x, STRIDES)] == [(c, 64 // s, 64 // s) for s, c in ours.channels.items()]
    (weights,) = asked
    assert weights.lower() == f"{build.__name__}_weights.imagenet1k_v1"


@pytest.mark.parametrize("options", [{"depth": 50, "groups": 32, "width_per_group": 8}, {"stride_in_1x1": True}])
def test_imagenet_weights_that_nobody_published_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"weights=imagenet: torchvision publishes none for depth=50 groups="):
        small(**options, weights="imagenet")


@pytest.mark.parametrize(
    "options", [{"groups": 32}, {"width_per_group": 4}, {"stride_in_1x1": True}], ids=lambda o: next(iter(o))
)
def test_what_needs_1x1_convolutions_is_refused_without_them(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"depth=18 has no 1x1 convolutions"):
        small(18, **options)


def test_every_published_network_has_a_config() -> None:
    names = {
        (50, 32, 4): "resnext50", (101, 32, 8): "resnext101_32x8d", (101, 64, 4): "resnext101_64x4d",
    }  # fmt: skip
    for depth, groups, width in PUBLISHED:
        name = names.get((depth, groups, width), f"resnet{depth}")
        backbone = composed("model=fcos", f"model/backbone={name}").model.backbone
        assert (backbone.depth, backbone.groups, backbone.width_per_group) == (depth, groups, width)


# Names and shapes of fcos_core and of Caffe2's files, see docs/backbones.md


def test_a_resnet_of_group_norms_has_the_tensors_of_the_published_files() -> None:
    """R-50-GN: 32 groups everywhere, scale and shift behind each convolution, no biases of convolutions."""
    with torch.device("meta"):
        network = small(50, norm="gn")
    norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
    assert len(norms) == 53
    assert {norm.num_groups for norm in norms} == {32}
    blobs = {"conv1_w", "conv1_gn_s", "conv1_gn_b"}
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        for i in range(blocks):
            for part in ("branch2a", "branch2b", "branch2c", *(["branch1"] if i == 0 else [])):
                blobs |= {f"res{stage}_{i}_{part}_{end}" for end in ("w", "gn_s", "gn_b")}
    names = {name for name, _ in network.named_parameters()}
    assert {caffe2_name(name) for name in names} == blobs
    assert len(names) == len(blobs)


def caffe2_name(name: str) -> str:
    *path, layer, kind = name.split(".")
    if layer in ("conv1", "bn1") and not path:
        return {"weight": "conv1_w"}[kind] if layer == "conv1" else f"conv1_gn_{kind.replace('weight', 's')[0]}"
    shortcut = "downsample" in path
    path = [part for part in path if part != "downsample"]
    part = "branch1" if shortcut else f"branch2{'abc'[int(layer[-1]) - 1]}"
    is_norm = layer == "1" if shortcut else layer.startswith("bn")
    end = f"gn_{'s' if kind == 'weight' else 'b'}" if is_norm else "w"
    return f"res{int(path[0][-1]) + 1}_{path[1]}_{part}_{end}"


@torch.no_grad()
def test_the_stride_can_lie_in_the_first_convolution() -> None:
    """The first block of C3, computed by hand: every second row and column goes into the 1x1 convolutions."""
    backbone = small(stride_in_1x1=True).eval().double()
    randomize(backbone)
    block = copy.deepcopy(cast(Bottleneck, backbone.layer2[0]))
    x = torch.randn(1, 256, 12, 16).double()

    def norm(x: Tensor, layer: nn.Module) -> Tensor:
        assert isinstance(layer, FrozenBatchNorm)
        args = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        return F.batch_norm(x, *args, training=False, eps=1e-5)

    assert isinstance(block.downsample, nn.Sequential)
    half = x[:, :, ::2, ::2]
    y = norm(F.conv2d(half, block.conv1.weight), block.bn1).relu()
    y = norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2).relu()
    y = norm(F.conv2d(y, block.conv3.weight), block.bn3)
    shortcut = norm(F.conv2d(half, cast(Tensor, block.downsample[0].weight)), block.downsample[1])
    torch.testing.assert_close(backbone.layer2[0](x), (y + shortcut).relu())
    assert [m.shape[-1] for m in backbone(torch.randn(1, 3, 64, 64).double(), STRIDES)] == [16, 8, 4, 2]


def test_the_stride_moves_in_three_stages_and_nowhere_else() -> None:
    with torch.device("meta"):
        there, here = (
            {n: m.stride for n, m in small(stride_in_1x1=first).named_modules() if isinstance(m, nn.Conv2d)}
            for first in (True, False)
        )
    moved = {name: there[name] for name in there if there[name] != here[name]}
    assert moved == {f"layer{i}.0.conv1": (2, 2) for i in (2, 3, 4)} | {f"layer{i}.0.conv2": (1, 1) for i in (2, 3, 4)}


@torch.no_grad()
def test_files_for_bgr_are_turned_to_rgb_once(tmp_path: Path) -> None:
    theirs = models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "bgr.pth")
    ours = small(18, weights=tmp_path / "bgr.pth", caffe=True).eval()
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    mean = torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]  # B, G, R
    bgr = images.flip(1).float() - mean
    x = ours.normalize(images, torch.tensor([[64, 64]]))
    torch.testing.assert_close(ours.conv1(x), theirs.conv1(bgr), rtol=1e-4, atol=1e-3)
    torch.save(
        {"state_dict": {f"network.backbone.{n}": v for n, v in ours.state_dict().items()}}, tmp_path / "own.ckpt"
    )
    again = small(18, weights=tmp_path / "own.ckpt", caffe=True)
    assert torch.equal(again.conv1.weight, ours.conv1.weight)
    assert torch.equal(again.pixel_mean, ours.pixel_mean)
    with pytest.raises(ValueError, match=r"caffe=true with model.backbone.weights=imagenet"):
        small(18, weights="imagenet", caffe=True)


# Dilated C5


@torch.no_grad()
def test_a_dilated_c5_is_torchvisions_but_for_the_first_block() -> None:
    """torchvision's first block keeps the dilation of the stage before; detectron2's has that of its own stage."""
    torch.manual_seed(0)
    theirs = models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    randomize(theirs)
    ours = small(dilated_c5=True, norm="bn")
    ours.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 96).double()
    ours, theirs = ours.eval().double(), theirs.eval().double()
    first = cast(Any, theirs.layer4[0]).conv2
    assert first.dilation == (1, 1)
    assert not torch.allclose(ours(x, (16,))[0], torchvision_maps(theirs, x)[-1])
    first.dilation = first.padding = (2, 2)
    c2, c3, _, c5 = torchvision_maps(theirs, x)
    assert_close(ours(x, (4, 8, 16)), [c2, c3, c5])
    assert c5.shape == (1, 2048, 4, 6)
    assert ours.channels == {4: 256, 8: 512, 16: 2048}


@pytest.mark.parametrize("depth", [18, 50])
def test_a_dilated_c5_freezes_by_stride(depth: int) -> None:
    with torch.device("meta"):
        backbone = small(depth, dilated_c5=True, frozen_stages=3, norm="bn")
        frozen = {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
        assert frozen == {"conv1", "bn1", "layer1", "layer2"}
        assert all(not p.requires_grad for p in small(depth, dilated_c5=True, frozen_stages=4).parameters())
        with pytest.raises(ValueError, match=r"frozen_stages=5: expected 0 .* to 4"):
            small(depth, dilated_c5=True, frozen_stages=5)


def test_a_dilated_c5_in_place_of_a_pyramid() -> None:
    backbone = small(18, dilated_c5=True)
    with pytest.raises(ValueError, match=r"maps of stride 4, 8, 16, and none of 32, .*dilated_c5=false, or take"):
        FeaturePyramid(backbone)
    detector = FasterRCNN(backbone, 3, FASTER_RCNN_VGG16, pyramid_channels=None, head_channels=24)
    images, sizes = torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96]])
    maps = detector(images, sizes).maps
    assert [tuple(x.shape) for x in maps] == [(1, 512, 4, 6)]
    assert detector.refine(maps, torch.tensor([[[0.0, 0.0, 32.0, 32.0]] * 5])).logits.shape == (1, 5, 4)
    assert cast(Any, detector.head)[1].weight.shape == (24, 512 * 7 * 7)  # box_head.fc1 of detectron2's DC5
    assert Classifier(backbone, 7)(images, sizes).shape == (1, 7)
    module = RPNModule(backbone, 1, sgd, constant, pyramid_channels=None, anchor_sizes=(64.0,))  # pyright: ignore[reportArgumentType]
    assert all(p.requires_grad for p in module.parameters())


# eps


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_takes_the_eps_of_the_weights(norm: Any) -> None:
    with torch.device("meta"):
        kinds = (nn.GroupNorm, nn.modules.batchnorm._BatchNorm, FrozenBatchNorm)
        for eps, expected in (({}, 1e-5), ({"norm_eps": 0.0}, 0.0), ({"norm_eps": 0.001}, 0.001)):
            found = [m.eps for m in small(18, norm=norm, **eps).modules() if isinstance(m, kinds)]
            assert len(found) == 20
            assert set(found) == {expected}
    with pytest.raises(ValueError, match=r"norm_eps=-1\.0: expected 0 or a small number"):
        small(18, norm=norm, norm_eps=-1.0)


@torch.no_grad()
def test_an_eps_of_zero_survives_folding() -> None:
    """Weights of a Caffe2 file: scale and shift, mean 0, variance 1, no eps. Small variances tell 0 from 1e-5."""
    backbone = small(18, norm_eps=0.0).eval().double()
    convolution, norm = backbone.layer1[0].conv1, backbone.layer1[0].bn1
    assert norm.folded
    norm.running_var.fill_(1e-5)
    x = torch.randn(1, 64, 8, 8).double()
    plain = F.conv2d(x, convolution.weight, padding=1)
    torch.testing.assert_close(norm(convolution(x)), plain / 1e-5**0.5)
