"""Conventions of detectron2, fcos_core and Caffe2: each gives the numbers of a small computation written here."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import published_formats as formats
import pytest
import torch
import torch.nn.functional as F
from published_formats import CAFFE_MEAN, Shapes
from tiers import slow_but
from torch import Tensor
from torchvision.ops import roi_align

from boxwright.checkpoints.building import build_module
from boxwright.zoo.catalogue import CATALOGUE
from boxwright.zoo.contents import config_of
from detectors.anchors import Anchors
from detectors.backbones import ResNet
from detectors.roi_pooling import align_regions
from detectors.weights import caffe2, detectron2, fcos_core
from lit_modules.stored import without_weights

X101 = (101, 32, 8)
SMALL_IMAGE = (3, 64, 96)
Norm = Callable[[Tensor, str], Tensor]


def random_trunk(shapes: Shapes, prefix: str, seed: int = 0) -> dict[str, Tensor]:
    """The stem and the first two stages, with statistics of batch norm that span five decades."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if not name.startswith(prefix) and prefix:
            continue
        value = torch.randn(shape, generator=generator)
        if len(shape) == 4:
            value *= (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif name.endswith("running_var"):
            value = 10 ** (value.clamp(-2, 2) - 3)
        elif name.endswith(("running_mean", ".bias", "bn_b")):
            value *= 0.1
        elif len(shape) == 1:
            value = 0.5 + 0.1 * value
        state[name] = value
    for name in [name for name in state if name.endswith("running_var")]:  # keeps activations at a constant scale
        state[name.replace("running_var", "weight")] *= state[name].sqrt()
    return state


def normed(state: dict[str, Tensor], eps: float) -> Norm:
    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (state[f"{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        column = (-1, 1, 1)
        return (x - mean.view(column)) / (var + eps).sqrt().view(column) * weight.view(column) + bias.view(column)

    return norm


def trunk_in_bgr(
    image: Tensor, state: dict[str, Tensor], names: Callable[[int, int, str], tuple[str, str]], norm: Norm,
    mean: tuple[float, ...], std: tuple[float, ...], in_1x1: bool,
) -> Tensor:  # fmt: skip
    """C3 of a ResNet from its file: BGR from 0 to 255, `names` gives a convolution and its norm."""
    bgr = image.flip(0).float()
    x = ((bgr - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]
    convolution, of_norm = names(0, 0, "1")
    x = F.max_pool2d(norm(F.conv2d(x, state[convolution], stride=2, padding=3), of_norm).relu(), 3, 2, 1)
    for stage, blocks in ((2, 3), (3, 4)):
        for block in range(blocks):
            stride = 2 if stage == 3 and block == 0 else 1
            strides = {"1": stride if in_1x1 else 1, "2": 1 if in_1x1 else stride, "3": 1, "s": stride}

            def apply(y: Tensor, which: str, stage: int = stage, block: int = block, strides: Any = strides) -> Tensor:
                convolution, of_norm = names(stage, block, which)
                filters = state[convolution]
                groups = y.shape[1] // filters.shape[1]
                padding = 1 if which == "2" else 0
                return norm(F.conv2d(y, filters, None, strides[which], padding, groups=groups), of_norm)

            y = apply(apply(apply(x, "1").relu(), "2").relu(), "3")
            x = (y + (apply(x, "s") if block == 0 else x)).relu()
    return x


def detectron2_names(stage: int, block: int, which: str) -> tuple[str, str]:
    place = f"res{stage}.{block}.{'shortcut' if which == 's' else f'conv{which}'}" if stage else "stem.conv1"
    return f"backbone.bottom_up.{place}.weight", f"backbone.bottom_up.{place}.norm"


def fcos_names(stage: int, block: int, which: str) -> tuple[str, str]:
    if not stage:
        return "backbone.body.stem.conv1.weight", "backbone.body.stem.bn1"
    place = f"backbone.body.layer{stage - 1}.{block}."
    return (f"{place}downsample.0.weight", f"{place}downsample.1") if which == "s" else (
        f"{place}conv{which}.weight", f"{place}bn{which}")  # fmt: skip


def caffe2_names(stage: int, block: int, which: str) -> tuple[str, str]:
    if not stage:
        return "conv1_w", "res_conv1"
    place = f"res{stage}_{block}_branch{'1' if which == 's' else '2' + 'abc'[int(which) - 1]}"
    return f"{place}_w", place


D2_MEAN, ONES = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "detectron2": (
        formats.detectron2("fpn"), detectron2.faster_rcnn_fpn, detectron2_names, 1e-5, D2_MEAN, ONES, (50, 1, 64),
    ),
    "detectron2 X101": (
        formats.detectron2("fpn", *X101), lambda state: detectron2.resnext(detectron2.faster_rcnn_fpn(state)),
        detectron2_names, 1e-5, D2_MEAN, (57.375, 57.12, 58.395), X101,
    ),
    "fcos_core": (formats.fcos_core(), fcos_core.fcos, fcos_names, 0.0, CAFFE_MEAN, ONES, (50, 1, 64)),
    "caffe2": (formats.caffe2_trunk(), caffe2.trunk, caffe2_names, 0.0, CAFFE_MEAN, ONES, (50, 1, 64)),
}  # fmt: skip


@pytest.mark.parametrize("source", slow_but("detectron2", "fcos_core", "caffe2", of=ARITHMETIC.keys()))
def test_a_trunk_computes_what_its_authors_computes_in_bgr_with_its_eps_and_strides(source: str) -> None:
    shapes, mapping, names, eps, mean, std, (depth, groups, width) = ARITHMETIC[source]
    in_1x1 = groups == 1
    state = random_trunk(shapes, "")
    if source == "caffe2":
        state = {name: torch.zeros_like(value) if re.fullmatch(r"(conv1|res\d.*[12abc])_b", name) else value
                 for name, value in state.items()}  # fmt: skip

        def norm(x: Tensor, name: str) -> Tensor:
            return x * state[f"{name}_bn_s"].view(-1, 1, 1) + state[f"{name}_bn_b"].view(-1, 1, 1)
    else:
        norm = normed(state, eps)
    image = torch.randint(256, SMALL_IMAGE, generator=torch.manual_seed(1), dtype=torch.uint8)
    expected = trunk_in_bgr(image, state, names, norm, mean, std, in_1x1)
    backbone = ResNet(depth, None, "frozen_bn", 0, groups, width, norm_eps=eps, stride_in_1x1=in_1x1).eval()
    ours = {k.removeprefix("backbone."): v for k, v in mapping(state).state.items() if k.startswith("backbone.")}
    backbone.load_state_dict(ours)
    with torch.no_grad():
        (found,) = backbone(backbone.normalize(image[None], torch.tensor([SMALL_IMAGE[1:]])), (8,))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    other = ResNet(depth, None, "frozen_bn", 0, groups, width, norm_eps=1e-5 - eps, stride_in_1x1=in_1x1).eval()
    if source != "caffe2":  # whose variance is 1
        other.load_state_dict(ours)
        with torch.no_grad():
            (wrong,) = other(other.normalize(image[None], torch.tensor([SMALL_IMAGE[1:]])), (8,))
        assert (wrong - expected).abs().max() > 5e-3 * expected.abs().max()


def test_channels_of_detectron2s_anchors_go_to_our_anchors_of_the_same_shape() -> None:
    """Its anchors come by size, then by ratio: width = sqrt(area / ratio), height = ratio x width."""
    arrays = {key: torch.from_numpy(array) for key, array in formats.numbered(formats.detectron2("retinanet")).items()}
    arrays["head.cls_score.bias"] = torch.arange(720.0)
    arrays["head.bbox_pred.bias"] = torch.arange(36.0)
    mapped = detectron2.retinanet(arrays)
    theirs = [
        ((s * s / r) ** 0.5, (s * s / r) ** 0.5 * r)
        for s in (32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3))
        for r in (0.5, 1, 2)
    ]
    config = without_weights(config_of(CATALOGUE["detectron2/retinanet_R_50_FPN_1x"])["model"])
    anchors = build_module(config).network.anchors
    for place, shape in enumerate(anchors.shapes(0).tolist()):
        (same,) = [i for i, other in enumerate(theirs) if np.allclose(shape, other, atol=1e-3)]
        assert mapped.state["head.logits.bias"][80 * place : 80 * place + 80].tolist() == list(
            range(80 * same, 80 * same + 80)
        )
        assert mapped.state["head.deltas.bias"][4 * place : 4 * place + 4].tolist() == list(
            range(4 * same, 4 * same + 4)
        )
    assert anchors.grid((128, 128))[:9].view(9, 2, 2).mean(dim=1).abs().max() < 1e-3  # centred at 0


def test_detectrons_anchors_are_rounded_on_the_cell() -> None:
    """Those that its source prints, of stride 16 and sizes 128, 256 and 512: x1 = -83, x2 = 100 is 184 pixels wide."""
    anchors = Anchors((16,), ((128.0, 256.0, 512.0),), round_anchors="cell")
    printed = [(-83, -39, 100, 56), (-175, -87, 192, 104), (-359, -183, 376, 200), (-55, -55, 72, 72),
               (-119, -119, 136, 136), (-247, -247, 264, 264), (-35, -79, 52, 96), (-79, -167, 96, 184),
               (-167, -343, 184, 360)]  # fmt: skip
    assert anchors.shapes(0).tolist() == [[x2 - x1 + 1, y2 - y1 + 1] for x1, y1, x2, y2 in printed]
    # and they lie there: its pixels begin at 1, and its last one is within the box
    assert anchors.grid((16, 16)).tolist() == [[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in printed]


def test_background_goes_first_and_its_box_is_never_used() -> None:
    arrays = {key: torch.from_numpy(array) for key, array in formats.numbered(formats.detectron2("c4")).items()}
    generator = torch.manual_seed(0)
    weight, boxes = torch.randn(81, 2048, generator=generator), torch.randn(320, 2048, generator=generator)
    arrays |= {"roi_heads.box_predictor.cls_score.weight": weight, "roi_heads.box_predictor.bbox_pred.weight": boxes}
    mapped = detectron2.faster_rcnn_c4(arrays)
    x = torch.randn(2048, generator=generator)
    ours, theirs = (mapped.state["logits.weight"] @ x).softmax(0), (weight @ x).softmax(0)
    torch.testing.assert_close(ours[1:], theirs[:80])
    torch.testing.assert_close(ours[0], theirs[80])
    assert torch.equal(mapped.state["deltas.weight"].view(81, 4, -1)[1:], boxes.view(80, 4, -1))


@pytest.mark.parametrize(("aligned", "samples"), [(True, 0), (False, 2), (False, 0), (True, 2)])
def test_regions_of_a_ramp_are_pooled_to_the_places_of_their_bins(aligned: bool, samples: int) -> None:
    """A cell's value is that of its centre (aligned), or of its corner; on a ramp the mean of a bin is its middle."""
    ramp = torch.arange(40.0).expand(1, 1, 40, 40)
    box = torch.tensor([[64.0, 64.0, 400.0, 288.0]])
    pooled = align_regions([ramp], (16,), torch.zeros(1, dtype=torch.int64), box, 7, aligned, samples)
    middle = (64 + (torch.arange(7) + 0.5) * 48) / 16 - (0.5 if aligned else 0)
    torch.testing.assert_close(pooled[0, 0], middle.expand(7, 7), rtol=0, atol=1e-4)
    kernel = roi_align(ramp, torch.cat((torch.zeros(1, 1), box), 1), 7, 1 / 16, samples, aligned)
    torch.testing.assert_close(pooled, kernel, rtol=0, atol=1e-4)
