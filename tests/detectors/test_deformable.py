"""Deformable convolution v2: against a loop over its samples, in a ResNet, and in the towers of FCOS."""

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from detectors.backbones.resnet import ResNet
from detectors.deformable import DeformableConvolution
from detectors.fcos import FCOS
from lit_modules.flops import counter


def sample(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value of a (C, h, w) image; zero outside, also for the neighbours that lie outside."""
    total = torch.zeros(len(image), dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def by_hand(layer: DeformableConvolution, x: Tensor) -> Tensor:
    """Equation 1 of arXiv 1811.11168, cell by cell, for one image."""
    conv, moved = layer.conv, layer.offset(x)[0]
    (stride, _), (padding, _), (dilation, _) = (
        cast(tuple[int, int], conv.stride), cast(tuple[int, int], conv.padding), cast(tuple[int, int], conv.dilation),
    )  # fmt: skip
    out = torch.zeros(conv.out_channels, *moved.shape[1:], dtype=x.dtype)
    inner, outer = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for tap in range(9):
                dy, dx, m = moved[2 * tap, i, j], moved[2 * tap + 1, i, j], moved[18 + tap, i, j]
                y = i * stride - padding + tap // 3 * dilation + dy.item()
                values = sample(x[0], y, j * stride - padding + tap % 3 * dilation + dx.item()) / (1 + (-m).exp())
                for g in range(conv.groups):
                    part = slice(g * outer, (g + 1) * outer)
                    kernel = conv.weight[part, :, tap // 3, tap % 3]
                    out[part, i, j] += kernel @ values[g * inner : (g + 1) * inner]
    return out[None] + (0 if conv.bias is None else conv.bias[:, None, None])


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2, "bias": False}],
    ids=["plain", "stride", "dilation", "groups"],
)
@torch.no_grad()
def test_samples_lie_where_the_offsets_say(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = DeformableConvolution(nn.Conv2d(4, 6, 3, **({"padding": 1} | options))).double()
    nn.init.normal_(layer.offset.weight, std=0.5)
    nn.init.normal_(cast(Tensor, layer.offset.bias))
    x = torch.randn(1, 4, 6, 7).double()
    torch.testing.assert_close(layer(x), by_hand(layer, x))


@torch.no_grad()
def test_at_first_it_is_half_the_convolution() -> None:
    convolution = nn.Conv2d(4, 6, 3, padding=1, stride=2).double()
    x = torch.randn(2, 4, 8, 8).double()
    products = convolution(x) - cast(Tensor, convolution.bias)[:, None, None]
    bias = cast(Tensor, convolution.bias)[:, None, None]
    torch.testing.assert_close(DeformableConvolution(convolution).double()(x), products / 2 + bias)


def test_under_autocast_on_a_cpu_it_is_computed_in_float32() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), DeformableConvolution(nn.Conv2d(8, 8, 3, padding=1)))
    x = torch.randn(1, 3, 8, 8)
    whole = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), whole, rtol=0.05, atol=0.05)
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_flops_are_those_of_the_convolution_and_of_the_offsets() -> None:
    with torch.device("meta"):
        layer, x = DeformableConvolution(nn.Conv2d(8, 16, 3, padding=1, groups=2)), torch.zeros(1, 8, 10, 10)
        with counter() as counted:
            layer(x)
    assert counted.get_total_flops() == 2 * 100 * 9 * (8 * 27 + 4 * 16)


# In a ResNet


def tensors(of: nn.Module) -> set[str]:
    return {name for name, _ in of.named_parameters()}


@pytest.mark.parametrize("stages", [(3, 4, 5), (5,)])
def test_the_second_convolution_of_each_block_of_the_stages_is_deformable(stages: tuple[int, ...]) -> None:
    with torch.device("meta"):
        deformable = ResNet(50, weights=None, deformable_stages=stages)
        plain = ResNet(50, weights=None)
    expected = {
        f"layer{stage - 1}.{i}.conv2.{part}"
        for stage in stages
        for i in range((3, 4, 6, 3)[stage - 2])
        for part in ("conv.weight", "offset.weight", "offset.bias")
    }
    assert tensors(deformable) - tensors(plain) == expected
    assert dict(deformable.named_parameters())["layer4.1.conv2.offset.weight"].shape == (27, 512, 3, 3)


@pytest.mark.parametrize("stages", [(1, 3), (6,)])
def test_stages_that_do_not_exist_are_named(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"deformable_stages=\[\d.*\]: expected some of 2, 3, 4 and 5"):
        ResNet(18, weights=None, deformable_stages=stages)


def test_weights_of_an_ordinary_network_fill_a_deformable_one(tmp_path: Path) -> None:
    theirs = models.resnext50_32x4d(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "plain.pth")
    options: dict[str, Any] = {"groups": 32, "width_per_group": 4, "deformable_stages": [4, 5]}
    ours = ResNet(50, weights=tmp_path / "plain.pth", **options)
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():
        renamed = name.replace("conv2.weight", "conv2.conv.weight") if name.startswith(("layer3", "layer4")) else name
        assert name.startswith("fc.") or name.endswith("num_batches_tracked") or torch.equal(state[renamed], value)
    assert all(not v.any() for n, v in state.items() if ".offset." in n)

    nn.init.ones_(ours.layer4[0].conv2.offset.bias)
    torch.save(ours.state_dict(), tmp_path / "deformable.pth")
    again = ResNet(50, weights=tmp_path / "deformable.pth", **options)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in ours.state_dict().items())

    lacking = {n: v for n, v in ours.state_dict().items() if n != "layer4.0.conv2.offset.bias"}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match=r"1 of \d+ tensors are not in the file: layer4\.0\.conv2\.offset\.bias"):
        ResNet(50, weights=tmp_path / "lacking.pth", **options)


def test_dilation_and_deformation_go_together() -> None:
    backbone = ResNet(18, weights=None, norm="gn", frozen_stages=0, dilated_c5=True, deformable_stages=(5,))
    (c5,) = backbone(torch.randn(1, 3, 64, 64), (16,))
    assert c5.shape == (1, 512, 4, 4)
    assert backbone.layer4[0].conv2.offset.dilation == (2, 2)
    c5.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    assert backbone.layer4[1].conv2.offset.weight.grad.abs().sum() > 0


# In FCOS


def test_the_last_convolution_of_each_tower_is_deformable() -> None:
    """Names are those of fcos_core's towers: `cls_tower.9.{offset,conv}`."""
    with torch.device("meta"):
        plain, deformable = (
            FCOS(ResNet(18, weights=None), 3, pyramid_channels=32, deformable_towers=deforms).head
            for deforms in (False, True)
        )
    towers = ("class_tower", "box_tower")
    kinds = [(of, kind) for of in ("conv", "offset") for kind in ("weight", "bias")]
    assert tensors(deformable) - tensors(plain) == {f"{t}.9.{of}.{kind}" for t in towers for of, kind in kinds}
    assert tensors(plain) - tensors(deformable) == {f"{t}.9.{kind}" for t in towers for kind in ("weight", "bias")}


def test_offsets_of_the_towers_begin_at_zero_and_learn() -> None:
    network = FCOS(
        ResNet(18, weights=None, norm="gn", frozen_stages=0), 3, pyramid_channels=32, num_convs=2,
        deformable_towers=True,
    )  # fmt: skip
    offsets = {n: p for n, p in network.named_parameters() if ".offset." in n}
    assert len(offsets) == 4
    assert not any(p.any() for p in offsets.values())
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    outputs = network(images, torch.tensor([[64, 64]]))
    (outputs.logits.square().mean() + outputs.distances.mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in offsets.values())


def test_towers_without_convolutions_cannot_deform() -> None:
    with pytest.raises(ValueError, match=r"deformable_towers=true with num_convs=0"):
        FCOS(ResNet(18, weights=None), 3, num_convs=0, deformable_towers=True)
