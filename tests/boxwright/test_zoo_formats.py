"""Files made in the formats of detectron2, fcos_core and Caffe2: every tensor goes where it belongs, and the arithmetic
of each convention is that of a small computation written for it here.

The published files themselves were not there when this was written; names and shapes are those of their sources.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_formats as formats
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from published_formats import Shapes
from tiers import slow_but
from torch import Tensor
from torchvision.ops import roi_align

from boxwright.build import with_trunk
from boxwright.checkpoints.building import build_module, expected_state
from boxwright.checkpoints.reading import CheckpointError, read_checkpoint
from boxwright.config import from_checkpoint
from boxwright.config.errors import ConfigError
from boxwright.zoo.catalogue import CATALOGUE, TRUNKS
from boxwright.zoo.contents import NAMES, config_of, with_counters
from detectors.anchors import Anchors
from detectors.backbones import ResNet
from detectors.roi_pooling import align_regions
from detectors.weights import caffe2, detectron2, fcos_core
from lit_modules.stored import without_weights

X101 = (101, 32, 8)
FILES: dict[str, tuple[Shapes, str]] = {
    "detectron2/retinanet_R_50_FPN_3x": (formats.detectron2("retinanet"), "detectron2"),
    "detectron2/retinanet_R_101_FPN_3x": (formats.detectron2("retinanet", 101), "detectron2"),
    "detectron2/faster_rcnn_R_50_FPN_3x": (formats.detectron2("fpn"), "detectron2"),
    "detectron2/faster_rcnn_R_101_FPN_3x": (formats.detectron2("fpn", 101), "detectron2"),
    "detectron2/faster_rcnn_X_101_32x8d_FPN_3x": (formats.detectron2("fpn", *X101), "detectron2"),
    "detectron2/faster_rcnn_R_50_C4_3x": (formats.detectron2("c4"), "detectron2"),
    "detectron2/faster_rcnn_R_101_C4_3x": (formats.detectron2("c4", 101), "detectron2"),
    "detectron2/faster_rcnn_R_50_DC5_3x": (formats.detectron2("dc5"), "detectron2"),
    "fcos/FCOS_R_50_FPN_1x": (formats.fcos_core(), "torch"),
    "fcos/FCOS_imprv_R_101_FPN_2x": (formats.fcos_core(101), "torch"),
    "fcos/FCOS_imprv_X_101_32x8d_FPN_2x": (formats.fcos_core(*X101), "torch"),
    "fcos/FCOS_imprv_X_101_64x4d_FPN_2x": (formats.fcos_core(101, 64, 4), "torch"),
    "fcos/FCOS_imprv_dcnv2_R_50_FPN_1x": (formats.fcos_core(moved=(3, 4, 5)), "torch"),
    "fcos/FCOS_imprv_dcnv2_X_101_32x8d_FPN_2x": (formats.fcos_core(*X101, moved=(4, 5)), "torch"),
    "fcos/FCOS_imprv_dcnv2_X_101_64x4d_FPN_2x": (formats.fcos_core(101, 64, 4, moved=(3, 4, 5)), "torch"),
    "fcos/FCOS_syncbn_bs32_MNV2_FPN_1x": (formats.fcos_mobilenet(), "torch"),
    "fcos/FCOS_syncbn_bs32_c128_MNV2_FPN_1x": (formats.fcos_mobilenet(128), "torch"),
    "caffe2/e2e_faster_rcnn_R-50-FPN_1x": (formats.caffe2("fpn"), "caffe2"),
    "caffe2/e2e_faster_rcnn_R-101-FPN_1x": (formats.caffe2("fpn", 101), "caffe2"),
    "caffe2/e2e_faster_rcnn_X-101-32x8d-FPN_1x": (formats.caffe2("fpn", *X101), "caffe2"),
    "caffe2/e2e_faster_rcnn_R-50-C4_1x": (formats.caffe2("c4"), "caffe2"),
}
FAST = ("fcos/FCOS_syncbn_bs32_c128_MNV2_FPN_1x", "caffe2/e2e_faster_rcnn_R-50-C4_1x")
MADE_UP = r"backbone\.pixel_(mean|std)|.*\.num_batches_tracked"


@pytest.mark.parametrize("name", slow_but(*FAST, of=FILES.keys()))
def test_every_tensor_of_a_file_is_taken_or_left_out_for_a_reason(name: str, tmp_path: Path) -> None:
    """Each has a number of its own, by which its place here is known."""
    shapes, form = FILES[name]
    arrays = formats.numbered(shapes)
    file = formats.write(tmp_path / f"file.{'pth' if form == 'torch' else 'pkl'}", arrays, form)
    contents = read_checkpoint(f"{name}={file}")
    assert contents["boxwright"]["config"]["name"] == name
    mapped = NAMES[CATALOGUE[name].names]({key: torch.from_numpy(array) for key, array in arrays.items()})
    values = {float(value) for key, tensor in mapped.state.items() if not re.fullmatch(MADE_UP, key)
              for value in tensor.flatten().unique()[:3]}  # fmt: skip
    statistics = {0.0, 1.0}
    taken = {float(array.flat[0]) for key, array in arrays.items() if key not in mapped.left_out}
    assert taken - statistics <= values <= taken | statistics
    assert all(mapped.left_out.values())
    expected = r".*(_momentum|cell_anchors\.\d|pixel_(mean|std)|^lr)$|(conv1|res\d_\d+_branch.*[12abc])_b"
    assert all(re.fullmatch(expected, key) for key in mapped.left_out)
    kept = {key.removeprefix("network."): value for key, value in contents["state_dict"].items()}
    assert all(torch.equal(kept[key], value) for key, value in mapped.state.items())


PLACES: dict[str, dict[str, str]] = {
    "detectron2/retinanet_R_50_FPN_3x": {
        "backbone.bn1.running_var": "backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.layer1.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.weight",
        "backbone.layer4.2.bn3.bias": "backbone.bottom_up.res5.2.conv3.norm.bias",
        "backbone.layer3.0.downsample.0.weight": "backbone.bottom_up.res4.0.shortcut.weight",
        "backbone.layer3.0.downsample.1.running_mean": "backbone.bottom_up.res4.0.shortcut.norm.running_mean",
        "pyramid.lateral.0.weight": "backbone.fpn_lateral3.weight",
        "pyramid.output.2.bias": "backbone.fpn_output5.bias",
        "pyramid.p7.weight": "backbone.top_block.p7.weight",
        "head.class_tower.4.weight": "head.cls_subnet.4.weight",
        "head.box_tower.6.bias": "head.bbox_subnet.6.bias",
        "head.logits.bias": "head.cls_score.bias",
        "head.deltas.bias": "head.bbox_pred.bias",
    },
    "detectron2/faster_rcnn_R_50_C4_3x": {
        "backbone.layer3.5.conv2.weight": "backbone.res4.5.conv2.weight",
        "backbone.layer4.0.conv2.weight": "roi_heads.res5.0.conv2.weight",
        "rpn.conv.weight": "proposal_generator.rpn_head.conv.weight",
        "rpn.logits.weight": "proposal_generator.rpn_head.objectness_logits.weight",
        "rpn.deltas.bias": "proposal_generator.rpn_head.anchor_deltas.bias",
        "logits.bias": "roi_heads.box_predictor.cls_score.bias",
    },
    "detectron2/faster_rcnn_R_50_FPN_3x": {
        "pyramid.lateral.0.weight": "backbone.fpn_lateral2.weight",
        "head.1.weight": "roi_heads.box_head.fc1.weight",
        "head.3.bias": "roi_heads.box_head.fc2.bias",
    },
    "fcos/FCOS_imprv_dcnv2_R_50_FPN_1x": {
        "backbone.layer2.1.conv2.offset.bias": "backbone.body.layer2.1.conv2.offset.bias",
        "backbone.layer2.1.conv2.conv.weight": "backbone.body.layer2.1.conv2.conv.weight",
        "backbone.bn1.bias": "backbone.body.stem.bn1.bias",
        "pyramid.lateral.0.bias": "backbone.fpn.fpn_inner2.bias",
        "pyramid.output.2.weight": "backbone.fpn.fpn_layer4.weight",
        "pyramid.p6.weight": "backbone.fpn.top_blocks.p6.weight",
        "head.class_tower.9.conv.weight": "rpn.head.cls_tower.9.conv.weight",
        "head.box_tower.10.weight": "rpn.head.bbox_tower.10.weight",
        "head.distances.bias": "rpn.head.bbox_pred.bias",
        "head.centerness.bias": "rpn.head.centerness.bias",
        "head.scales.3": "rpn.head.scales.3.scale",
    },
    "fcos/FCOS_syncbn_bs32_c128_MNV2_FPN_1x": {
        "backbone.features.1.conv.0.0.weight": "backbone.body.features.1.conv.0.weight",
        "backbone.features.1.conv.2.bias": "backbone.body.features.1.conv.4.bias",
        "backbone.features.17.conv.1.0.weight": "backbone.body.features.17.conv.3.weight",
        "backbone.features.17.conv.3.running_var": "backbone.body.features.17.conv.7.running_var",
        "backbone.features.0.1.weight": "backbone.body.features.0.1.weight",
    },
    "caffe2/e2e_faster_rcnn_R-50-FPN_1x": {
        "backbone.bn1.weight": "res_conv1_bn_s",
        "backbone.layer1.0.downsample.0.weight": "res2_0_branch1_w",
        "backbone.layer1.0.downsample.1.bias": "res2_0_branch1_bn_b",
        "backbone.layer4.2.conv3.weight": "res5_2_branch2c_w",
        "backbone.layer4.2.bn2.weight": "res5_2_branch2b_bn_s",
        "pyramid.lateral.3.weight": "fpn_inner_res5_2_sum_w",
        "pyramid.lateral.2.bias": "fpn_inner_res4_5_sum_lateral_b",
        "pyramid.output.0.weight": "fpn_res2_2_sum_w",
        "rpn.conv.bias": "conv_rpn_fpn2_b",
        "rpn.deltas.weight": "rpn_bbox_pred_fpn2_w",
        "head.1.weight": "fc6_w",
        "head.3.weight": "fc7_w",
        "logits.weight": "cls_score_w",
        "deltas.bias": "bbox_pred_b",
    },
}


@pytest.mark.parametrize("name", PLACES)
def test_tensors_lie_where_their_names_say(name: str) -> None:
    arrays = {key: torch.from_numpy(array) for key, array in formats.numbered(FILES[name][0]).items()}
    mapped = NAMES[CATALOGUE[name].names](arrays)
    for ours, theirs in PLACES[name].items():
        assert set(mapped.state[ours].flatten().tolist()) == {float(arrays[theirs].flatten()[0])}, ours


def test_an_unknown_tensor_and_another_kind_of_file_are_refused_by_name(tmp_path: Path) -> None:
    arrays = formats.numbered(formats.detectron2("c4"))
    name = "detectron2/faster_rcnn_R_50_C4_1x"
    file = formats.write(tmp_path / "a.pkl", arrays | {"roi_heads.mask_head.x": np.zeros(1, np.float32)}, "detectron2")
    with pytest.raises(CheckpointError, match=r"1 of its \d+ tensors are none of this model: roi_heads\.mask_head\.x"):
        read_checkpoint(f"{name}={file}")
    bias = formats.numbered(formats.caffe2("c4")) | {"conv1_b": np.ones(64, np.float32)}
    file = formats.write(tmp_path / "b.pkl", bias, "caffe2")
    with pytest.raises(CheckpointError, match="conv1_b is not zero"):
        read_checkpoint(f"caffe2/e2e_faster_rcnn_R-50-C4_1x={file}")
    file = formats.write(tmp_path / "c.pkl", {"res_conv1_bn_gamma": np.ones(64, np.float32)}, "trunk")
    with pytest.raises(CheckpointError, match="detectron2's copy of a trunk"):
        read_checkpoint(f"caffe2/e2e_faster_rcnn_R-50-C4_1x={file}")


@pytest.mark.parametrize("name", slow_but("detectron2/retinanet_R_50_FPN_1x", of=CATALOGUE.keys()))
def test_every_entry_has_a_config_that_builds(name: str) -> None:
    config = config_of(CATALOGUE[name])
    assert config["model"]["num_classes"] == 80
    assert len(expected_state(config["model"])) > 100


def test_no_two_entries_share_an_address_or_a_file() -> None:
    for values in ([entry.url for entry in CATALOGUE.values()], [entry.file for entry in CATALOGUE.values()]):
        assert len(set(values)) == len(CATALOGUE)


# The arithmetic of each convention

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


D2_MEAN, CAFFE_MEAN, ONES = (103.53, 116.28, 123.675), (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)
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


def test_counters_follow_the_network() -> None:
    mapped = fcos_core.fcos({k: torch.from_numpy(a) for k, a in formats.numbered(formats.fcos_mobilenet(128)).items()})
    expected = {"network.backbone.features.0.1.num_batches_tracked": torch.tensor(0)}
    assert with_counters(mapped, expected)["backbone.features.0.1.num_batches_tracked"] == 0


# Trunks, for model.backbone.weights

TRUNK_FILES: dict[str, tuple[Shapes, dict[str, Any]]] = {
    "MSRA/R-50": (formats.caffe2_trunk() | {"fc1000_w": (1000, 2048), "fc1000_b": (1000,)}, {}),
    "MSRA/R-101": (formats.caffe2_trunk(101), {"depth": 101}),
    "R-50-GN": (formats.caffe2_trunk(norms="gn") | {"pred_w": (1000, 2048)}, {"norm": "gn", "norm_eps": 1e-5}),
    "R-101-GN": (formats.caffe2_trunk(101, norms="gn"), {"depth": 101, "norm": "gn", "norm_eps": 1e-5}),
    "FAIR/20171220/X-101-32x8d": (formats.caffe2_trunk(*X101), {"depth": 101, "groups": 32, "width_per_group": 8}),
    "X-101-64x4d": (formats.caffe2_trunk(101, 64, 4), {"depth": 101, "groups": 64, "width_per_group": 4}),
}


@pytest.mark.parametrize("name", slow_but("MSRA/R-50", "R-50-GN", of=TRUNK_FILES.keys()))
def test_a_trunk_of_blobs_fills_a_backbone_with_its_pixels(name: str, tmp_path: Path) -> None:
    shapes, settings = TRUNK_FILES[name]
    file = formats.write(tmp_path / "trunk.pkl", formats.numbered(shapes), "trunk")
    backbone = ResNet(**{"depth": 50, "weights": file, "norm_eps": 0.0, "stride_in_1x1": "R-" in name} | settings)
    torch.testing.assert_close(backbone.pixel_mean * 255, torch.tensor(CAFFE_MEAN).flip(0))
    torch.testing.assert_close(backbone.pixel_std * 255, torch.ones(3))
    arrays = formats.numbered(shapes)
    assert float(backbone.state_dict()["layer4.2.conv3.weight"].mean()) == arrays["res5_2_branch2c_w"].flat[0]
    kind = "gn" if "GN" in name else "bn"
    assert (
        float(backbone.state_dict()["layer1.0.downsample.1.bias"].mean()) == arrays[f"res2_0_branch1_{kind}_b"].flat[0]
    )


def test_a_named_trunk_brings_its_settings_and_refuses_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["model.backbone.weights=MSRA/R-50", "model.backbone.frozen_stages=1"]
    added = from_checkpoint.start(given)[len(given) :]
    assert set(added) == {
        "model/backbone=resnet50", "model.backbone.norm=frozen_bn", "model.backbone.norm_eps=0.0",
        "model.backbone.stride_in_1x1=true",
    }  # fmt: skip
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    file = tmp_path / "checkpoints" / TRUNKS["MSRA/R-50"].file
    file.parent.mkdir(parents=True)
    file.touch()
    backbone = {"weights": "MSRA/R-50", "norm": "frozen_bn", "norm_eps": 0.0, "stride_in_1x1": True}
    assert with_trunk(OmegaConf.create({"backbone": backbone}))["backbone"]["weights"] == str(file)
    backbone["stride_in_1x1"] = False
    with pytest.raises(ConfigError, match=r"MSRA/R-50 needs model\.backbone\.stride_in_1x1=true"):
        with_trunk(OmegaConf.create({"backbone": backbone}))
