"""torchvision's detectors: names of their tensors, and their 91 columns of classes.

Read in torchvision 0.29, models/detection. Older files name some tensors otherwise; both forms are taken.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.weights.renaming import Mapped, Rule, rename

COLUMNS = 91
"""A column for each number from 0 to 90 that COCO might have given a category."""
UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers that COCO gave none; 0 is the background of Faster R-CNN."""
USED = tuple(number for number in range(COLUMNS) if number not in UNUSED)
"""COCO's 80 numbers of categories, in the order of our labels."""
PIXELS = {
    "backbone.pixel_mean": torch.tensor((0.485, 0.456, 0.406)),
    "backbone.pixel_std": torch.tensor((0.229, 0.224, 0.225)),
}
"""Of RGB from 0 to 1."""

_TRUNK: list[Rule] = [
    (r"backbone\.body\.(\d+\..+)", r"backbone.features.\1"),  # a MobileNet's
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"pyramid.lateral.\1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"pyramid.output.\1.\2"),
    (r"backbone\.fpn\.extra_blocks\.(p6|p7)\.(weight|bias)", r"pyramid.\1.\2"),
]
_FCOS: list[Rule] = [
    *_TRUNK,
    (r"head\.classification_head\.conv\.(\d+\.\w+)", r"head.class_tower.\1"),
    (r"head\.classification_head\.cls_logits\.(\w+)", r"head.logits.\1"),
    (r"head\.regression_head\.conv\.(\d+\.\w+)", r"head.box_tower.\1"),
    (r"head\.regression_head\.bbox_reg\.(\w+)", r"head.distances.\1"),
    (r"head\.regression_head\.bbox_ctrness\.(\w+)", r"head.centerness.\1"),
]
_RETINANET: list[Rule] = [
    *_TRUNK,
    (r"head\.classification_head\.cls_logits\.(\w+)", r"head.logits.\1"),
    (r"head\.regression_head\.bbox_reg\.(\w+)", r"head.deltas.\1"),
]


def _head(match: re.Match[str]) -> str:
    return f"head.{3 * int(match[1]) + int(match[2])}.{match[3]}"


_FASTER_RCNN: list[Rule] = [
    *_TRUNK,
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(\w+)", r"pyramid.lateral_norm.\1.\2"),  # of the second version
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(\w+)", r"pyramid.output_norm.\1.\2"),
    (r"rpn\.head\.conv\.1\.0\.(weight|bias)", r"rpn.more.0.\1"),
    (r"roi_heads\.box_head\.([0-3])\.([01])\.(\w+)", _head),
    (r"roi_heads\.box_head\.5\.(\w+)", r"head.13.\1"),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"rpn.conv.\1"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.logits.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(\w+)", r"head.1.\1"),
    (r"roi_heads\.box_head\.fc7\.(\w+)", r"head.3.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"deltas.\1"),
]


# Names alone, whatever the number of classes


def fcos(state: Mapping[str, Tensor]) -> Mapped:
    """Names of `fcos_resnet50_fpn`. It has no learnt scale of each level: ours are 1."""
    return rename(state, _FCOS).change({f"head.scales.{level}": torch.ones(()) for level in range(5)})


def retinanet(state: Mapping[str, Tensor]) -> Mapped:
    """Names of `retinanet_resnet50_fpn` and its second version, whose convolutions before a norm have no bias: ours
    are 0."""
    towers = ("classification", "regression")
    has_norm = any(f"head.{tower}_head.conv.0.1.weight" in state for tower in towers)

    def place(match: re.Match[str]) -> str:
        tower = "class_tower" if match[1] == "classification" else "box_tower"
        if match[3] is None:  # the older form, which counts each ReLU as a layer
            return f"head.{tower}.{match[2]}.{match[4]}"
        return f"head.{tower}.{int(match[2]) * (3 if has_norm else 2) + int(match[3])}.{match[4]}"

    tower: Rule = (r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)", place)
    mapped = rename(state, [*_RETINANET, tower])
    if not has_norm:
        return mapped
    convolutions = [name for name in mapped.state if re.fullmatch(r"head\.\w+_tower\.(0|3|6|9)\.weight", name)]
    return mapped.change(
        {
            f"{name.removesuffix('weight')}bias": mapped.state[name].new_zeros(len(mapped.state[name]))
            for name in convolutions
        }
    )


def faster_rcnn(state: Mapping[str, Tensor]) -> Mapped:
    """Names of `fasterrcnn_resnet50_fpn`, its second version, and `fasterrcnn_mobilenet_v3_large_fpn`."""
    return rename(state, _FASTER_RCNN)


# Whole networks of COCO's 80 classes


def coco_fcos(state: Mapping[str, Tensor]) -> Mapped:
    """An FCOS of 80 classes. The columns of numbers that COCO never used are left out: in a sigmoid none depends on
    another."""
    return _columns(fcos(state), ("head.logits",), USED).change(PIXELS)


def coco_retinanet(state: Mapping[str, Tensor]) -> Mapped:
    """A RetinaNet of 80 classes, as `coco_fcos`."""
    return _columns(retinanet(state), ("head.logits",), USED).change(PIXELS)


def coco_faster_rcnn(state: Mapping[str, Tensor]) -> Mapped:
    """A Faster R-CNN of 80 classes and 10 spare columns: without those the softmax would give other scores."""
    order = (0, *USED, *UNUSED[1:])
    return _columns(faster_rcnn(state), ("logits", "deltas"), order).change(PIXELS)


def _columns(mapped: Mapped, layers: tuple[str, ...], order: tuple[int, ...]) -> Mapped:
    """Takes columns of classes by their numbers. A layer has some columns an anchor, or some channels a column."""
    changed: dict[str, Tensor] = {}
    for layer in layers:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name not in mapped.state:
                raise ValueError(f"it lacks the tensor that is {name} here")
            value = mapped.state[name]
            if len(value) % COLUMNS:
                raise ValueError(f"{name} has {len(value)} rows, expected a multiple of {COLUMNS}")
            outer, inner = (1, len(value) // COLUMNS) if layer == "deltas" else (len(value) // COLUMNS, 1)
            rows = value.view(outer, COLUMNS, inner, *value.shape[1:])[:, list(order)]
            changed[name] = rows.reshape(-1, *value.shape[1:]).contiguous()
    return mapped.change(changed)
