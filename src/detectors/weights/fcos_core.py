"""FCOS of its authors (fcos_core): names of its tensors.

Conventions: labels in the order of COCO's numbers; BGR from 0 to 255, with Caffe's mean; frozen norms without an eps;
strides in the 1x1 convolutions of ResNet-50 and 101.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from detectors.weights.pixels import CAFFE_BGR, bgr_255, first_filters_in_rgb
from detectors.weights.renaming import Mapped, Rule, rename


def _level(match: re.Match[str]) -> str:
    kind = {"inner": "lateral", "layer": "output"}[match[1]]
    return f"pyramid.{kind}.{int(match[2]) - 2}.{match[3]}"


def _feature(match: re.Match[str]) -> str:
    """A layer of MobileNetV2, of which torchvision puts each convolution with a norm and a ReLU into a block."""
    feature, layer, part = match[1], int(match[2]), match[3]
    if feature == "1":  # has no expansion
        places = {0: "0.0", 1: "0.1", 3: "1", 4: "2"}
    else:
        places = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}
    return f"backbone.features.{feature}.conv.{places[layer]}.{part}"


_RULES: list[Rule] = [
    (r"backbone\.body\.features\.0\.([01])\.(\w+)", r"backbone.features.0.\1.\2"),
    (r"backbone\.body\.features\.(\d+)\.conv\.([013467])\.(\w+)", _feature),
    (r"backbone\.body\.stem\.(conv1\.\w+|bn1\.\w+)", r"backbone.\1"),
    (r"backbone\.body\.(layer\d\..+)", r"backbone.\1"),
    (r"backbone\.fpn\.fpn_(inner|layer)([2-4])\.(weight|bias)", _level),
    (r"backbone\.fpn\.top_blocks\.(p6|p7)\.(\w+)", r"pyramid.\1.\2"),
    (r"rpn\.head\.cls_tower\.(\d+\..+)", r"head.class_tower.\1"),
    (r"rpn\.head\.bbox_tower\.(\d+\..+)", r"head.box_tower.\1"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"head.logits.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"head.distances.\1"),
    (r"rpn\.head\.centerness\.(\w+)", r"head.centerness.\1"),
    (r"rpn\.head\.scales\.(\d)\.scale", r"head.scales.\1"),
]


def fcos(state: Mapping[str, Tensor]) -> Mapped:
    """An FCOS over P3 to P7; names may begin with `module.`, as DataParallel writes them."""
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    mapped = rename(plain, _RULES)
    scales = {name: value.reshape(()) for name, value in mapped.state.items() if name.startswith("head.scales.")}
    return mapped.change(scales | first_filters_in_rgb(mapped.state) | bgr_255(CAFFE_BGR))
