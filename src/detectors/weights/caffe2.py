"""Caffe2's blobs: ImageNet trunks of MSRA and FAIR, and Detectron's Faster R-CNN.

Conventions: BGR from 0 to 255; a batch norm is one scale and one shift (s, b), into which eps, mean and variance went;
background is the first column, and its box means nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from detectors.weights.pixels import CAFFE_BGR, bgr_255, first_filters_in_rgb
from detectors.weights.renaming import Mapped, Reason, Rule, rename

_REASONS: Sequence[Reason] = (
    (r".+_momentum", "the solver's"),
    (r"weight_order|lr|iter(ation)?|model_iter", "the solver's"),
    (r"(fc1000|pred)_[wb]", "the classifier of ImageNet"),
)
_ZEROS = r"(conv1|res\d_\d+_branch(1|2[abc]))_b"
_WHY_ZEROS = "a bias of zeros, which a convolution before a norm has no use for"
_PART = {"w": "weight", "b": "bias", "s": "weight"}


def _stem(match: re.Match[str]) -> str:
    return f"backbone.bn1.{_PART[match[1]]}"


def _named(name: str, ours: str) -> Rule:
    return rf"{name}_([wb])", lambda match: f"{ours}.{_PART[match[1]]}"


def _layer(match: re.Match[str]) -> str:
    stage, block, branch, norm, part, weight = match.groups()
    place = f"backbone.layer{int(stage) - 1}.{block}."
    kind = _PART[part or weight]
    if branch == "1":
        return f"{place}downsample.{1 if norm else 0}.{kind}"
    return f"{place}{'bn' if norm else 'conv'}{'abc'.index(branch[1]) + 1}.{kind}"


_TRUNK: list[Rule] = [
    (r"conv1_w", "backbone.conv1.weight"),
    (r"res_conv1_bn_([sb])", _stem),
    (r"conv1_gn_([sb])", _stem),
    (r"res(\d)_(\d+)_branch(1|2[abc])(?:(_bn|_gn)_([sb])|_(w))", _layer),
]


def _inner(match: re.Match[str]) -> str:
    return f"pyramid.lateral.{int(match[1]) - 2}.{_PART[match[2]]}"


def _output(match: re.Match[str]) -> str:
    return f"pyramid.output.{int(match[1]) - 2}.{_PART[match[2]]}"


_PYRAMID: list[Rule] = [
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?_([wb])", _inner),
    (r"fpn_res(\d)_\d+_sum_([wb])", _output),
    _named("conv_rpn_fpn2", "rpn.conv"),
    _named("rpn_cls_logits_fpn2", "rpn.logits"),
    _named("rpn_bbox_pred_fpn2", "rpn.deltas"),
    _named("fc6", "head.1"),
    _named("fc7", "head.3"),
]
_ONE_MAP: list[Rule] = [
    _named("conv_rpn", "rpn.conv"),
    _named("rpn_cls_logits", "rpn.logits"),
    _named("rpn_bbox_pred", "rpn.deltas"),
]
_PREDICTORS: list[Rule] = [_named("cls_score", "logits"), _named("bbox_pred", "deltas")]


def trunk(blobs: Mapping[str, Tensor]) -> Mapped:
    """A ResNet or ResNeXt trained on ImageNet, by the names that a detector of ours has (`backbone.conv1.weight`)."""
    return _mapped(blobs, _TRUNK)


def faster_rcnn_fpn(blobs: Mapping[str, Tensor]) -> Mapped:
    """Detectron's Faster R-CNN over P2 to P6."""
    return _mapped(blobs, [*_TRUNK, *_PYRAMID, *_PREDICTORS])


def faster_rcnn_c4(blobs: Mapping[str, Tensor]) -> Mapped:
    """Detectron's Faster R-CNN over C4, whose head is C5."""
    return _mapped(blobs, [*_TRUNK, *_ONE_MAP, *_PREDICTORS])


def blobs_of(content: object) -> dict[str, Tensor]:
    """The blobs of a pickle: the file itself of a trunk, its entry `blobs` of a detector.

    ValueError for detectron2's own copies of the trunks, whose batch norms are not folded.
    """
    whole = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    found: object = whole.get("blobs", whole)
    blobs = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if not blobs:
        raise ValueError("it holds no blobs by name")
    if any(str(name).endswith("_bn_gamma") for name in blobs):
        raise ValueError(
            "it is detectron2's copy of a trunk, whose batch norms (_bn_gamma, _bn_running_var) are not folded; fetch "
            "the one of Detectron's catalogue, see docs/zoo.md"
        )
    strays = [name for name, value in blobs.items() if not isinstance(value, Tensor)]
    if strays:
        raise ValueError(f"{len(strays)} of its entries are no arrays, such as {strays[0]!r}")
    return blobs


def _mapped(blobs: Mapping[str, Tensor], rules: Sequence[Rule]) -> Mapped:
    zeros = {name: value for name, value in blobs.items() if re.fullmatch(_ZEROS, name)}
    if used := [name for name, value in zeros.items() if value.any()]:
        raise ValueError(f"{used[0]} is not zero: this convolution has a bias, and there is none here")
    mapped = rename({name: value for name, value in blobs.items() if name not in zeros}, rules, _REASONS)
    left_out = mapped.left_out | dict.fromkeys(zeros, _WHY_ZEROS)
    statistics: dict[str, Tensor] = {}
    if not any("_gn_" in name for name in blobs):
        for name, value in mapped.state.items():
            if re.search(r"\.(bn\d|downsample\.1)\.weight$", name):
                norm = name.removesuffix("weight")
                statistics |= {
                    f"{norm}running_mean": torch.zeros_like(value),
                    f"{norm}running_var": torch.ones_like(value),
                }
    turned = first_filters_in_rgb(mapped.state) | bgr_255(CAFFE_BGR)
    return Mapped(mapped.state, left_out).change(statistics | turned)
