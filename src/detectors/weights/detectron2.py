"""detectron2's RetinaNet, Faster R-CNN and RPN: names of their tensors, their order of anchors, their background.

Conventions: labels in the order of COCO's numbers; BGR from 0 to 255; anchors of a cell by size, then by ratio (ours:
by ratio, then by size); background is the last column, and has no box.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detectors.weights.pixels import DETECTRON2_BGR, RESNEXT_BGR, bgr_255, first_filters_in_rgb
from detectors.weights.renaming import COUNTER, Mapped, Reason, Rule, rename

_REASONS: Sequence[Reason] = (
    COUNTER,
    (r"pixel_(mean|std)", "the scale of pixels, which is that of the model's name"),
    (r"(proposal_generator\.)?anchor_generator\.cell_anchors\.\d+", "anchors, which are made of the config"),
)


class _Stage:
    """The name here of a tensor of a block."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(self, match: re.Match[str]) -> str:
        parts = match.groupdict()
        return f"backbone.layer{int(parts['stage']) - 1}.{parts['block']}.{self.layer.format(**parts)}"


def _trunk(prefix: str) -> list[Rule]:
    """Names of a ResNet's tensors, whose stages are res2 to res5 there and layer1 to layer4 here."""
    place = r"(?P<stage>[2-5])\.(?P<block>\d+)\."

    return [
        (rf"{prefix}stem\.conv1\.weight", "backbone.conv1.weight"),
        (rf"{prefix}stem\.conv1\.norm\.(\w+)", r"backbone.bn1.\1"),
        (rf"{prefix}res{place}conv(?P<n>\d)\.weight", _Stage("conv{n}.weight")),
        (rf"{prefix}res{place}conv(?P<n>\d)\.norm\.(?P<part>\w+)", _Stage("bn{n}.{part}")),
        (rf"{prefix}res{place}shortcut\.weight", _Stage("downsample.0.weight")),
        (rf"{prefix}res{place}shortcut\.norm\.(?P<part>\w+)", _Stage("downsample.1.{part}")),
    ]


def _pyramid(first: int) -> list[Rule]:
    def level(match: re.Match[str]) -> str:
        return f"pyramid.{match[1]}.{int(match[2]) - first}.{match[3]}"

    return [(r"backbone\.fpn_(lateral|output)(\d)\.(weight|bias)", level)]


def retinanet(state: Mapping[str, Tensor], sizes: int = 3, ratios: int = 3) -> Mapped:
    """A RetinaNet over P3 to P7, with `sizes` x `ratios` anchors a cell."""
    rules: list[Rule] = [
        *_trunk(r"backbone\.bottom_up\."),
        *_pyramid(3),
        (r"backbone\.top_block\.(p6|p7)\.(\w+)", r"pyramid.\1.\2"),
        (r"head\.cls_subnet\.(\d+\.\w+)", r"head.class_tower.\1"),
        (r"head\.bbox_subnet\.(\d+\.\w+)", r"head.box_tower.\1"),
        (r"head\.cls_score\.(\w+)", r"head.logits.\1"),
        (r"head\.bbox_pred\.(\w+)", r"head.deltas.\1"),
    ]
    mapped = rename(state, rules, _REASONS)
    changed = by_ratio(mapped, ("head.logits", "head.deltas"), sizes, ratios)
    return _with_pixels(mapped.change(changed))


def faster_rcnn_fpn(state: Mapping[str, Tensor]) -> Mapped:
    """A Faster R-CNN over P2 to P6, with a size of anchors a level."""
    rules: list[Rule] = [*_trunk(r"backbone\.bottom_up\."), *_pyramid(2), *_HEADS]
    return _with_pixels(_background_first(rename(state, rules, _REASONS)))


def faster_rcnn_c4(state: Mapping[str, Tensor], sizes: int = 5, ratios: int = 3) -> Mapped:
    """A Faster R-CNN over C4, whose head is C5."""
    rules: list[Rule] = [*_trunk(r"(?:backbone|roi_heads)\."), *_HEADS]
    return _over_one_map(rename(state, rules, _REASONS), sizes, ratios)


def faster_rcnn_dc5(state: Mapping[str, Tensor], sizes: int = 5, ratios: int = 3) -> Mapped:
    """A Faster R-CNN over a dilated C5."""
    return faster_rcnn_c4(state, sizes, ratios)


def rpn_fpn(state: Mapping[str, Tensor]) -> Mapped:
    """A proposal network over P2 to P6, with a size of anchors a level."""
    return _with_pixels(rename(state, [*_trunk(r"backbone\.bottom_up\."), *_pyramid(2), *_PROPOSALS], _REASONS))


def rpn_c4(state: Mapping[str, Tensor], sizes: int = 5, ratios: int = 3) -> Mapped:
    """A proposal network over C4."""
    mapped = rename(state, [*_trunk(r"backbone\."), *_PROPOSALS], _REASONS)
    return _with_pixels(mapped.change(by_ratio(mapped, ("rpn.logits", "rpn.deltas"), sizes, ratios)))


def resnext(mapped: Mapped) -> Mapped:
    """The same with the pixels of detectron2's ResNeXt."""
    return mapped.change(bgr_255(DETECTRON2_BGR, RESNEXT_BGR))


_PROPOSALS: list[Rule] = [
    (r"proposal_generator\.rpn_head\.conv\.(\w+)", r"rpn.conv.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", r"rpn.logits.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", r"rpn.deltas.\1"),
]
_HEADS: list[Rule] = [
    *_PROPOSALS,
    (r"roi_heads\.box_head\.fc1\.(\w+)", r"head.1.\1"),
    (r"roi_heads\.box_head\.fc2\.(\w+)", r"head.3.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"deltas.\1"),
]


def _over_one_map(mapped: Mapped, sizes: int, ratios: int) -> Mapped:
    mapped = mapped.change(by_ratio(mapped, ("rpn.logits", "rpn.deltas"), sizes, ratios))
    return _with_pixels(_background_first(mapped))


def by_ratio(mapped: Mapped, layers: Sequence[str], sizes: int, ratios: int) -> dict[str, Tensor]:
    """Channels of a head whose anchors come by size and then by ratio, in our order."""
    changed: dict[str, Tensor] = {}
    for layer in layers:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            value = _present(mapped, name)
            if len(value) % (sizes * ratios):
                raise ValueError(f"{name} has {len(value)} rows, expected a multiple of {sizes * ratios} anchors")
            rows = value.view(sizes, ratios, -1, *value.shape[1:]).transpose(0, 1)
            changed[name] = rows.reshape(value.shape).contiguous()
    return changed


def _background_first(mapped: Mapped) -> Mapped:
    """Background before the classes, with a box of zeros, which is never used."""
    changed: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        logits, deltas = _present(mapped, f"logits.{part}"), _present(mapped, f"deltas.{part}")
        if len(deltas) != 4 * (len(logits) - 1):
            raise ValueError(f"it has boxes of {len(deltas)} numbers and {len(logits)} columns of classes")
        changed[f"logits.{part}"] = torch.cat((logits[-1:], logits[:-1]))
        changed[f"deltas.{part}"] = torch.cat((torch.zeros_like(deltas[:4]), deltas))
    return mapped.change(changed)


def _present(mapped: Mapped, name: str) -> Tensor:
    if name not in mapped.state:
        raise ValueError(f"it lacks the tensor that is {name} here")
    return mapped.state[name]


def _with_pixels(mapped: Mapped) -> Mapped:
    return mapped.change(first_filters_in_rgb(mapped.state) | bgr_255(DETECTRON2_BGR))
