"""The catalogue of published checkpoints, by name. Imports nothing heavy: names are checked before torch is."""

import re

from boxwright.zoo.entry import Entry, Trunk
from boxwright.zoo.sources import caffe2, detectron2, fcos_core, torchvision

CATALOGUE: dict[str, Entry] = {
    entry.name: entry for entry in (*torchvision.ENTRIES, *detectron2.ENTRIES, *fcos_core.ENTRIES, *caffe2.ENTRIES)
}
"""Detectors, wherever a checkpoint is taken."""
SOURCES = tuple(dict.fromkeys(name.partition("/")[0] for name in CATALOGUE))
"""First parts of the names."""
TRUNKS: dict[str, Trunk] = {trunk.name: trunk for trunk in caffe2.TRUNKS}
"""Backbones trained on ImageNet, for model.backbone.weights."""


def out_of_scope(name: str) -> str:
    """Says why a model of the same catalogues is none here: masks, keypoints, or another kind of detector; empty where
    nothing is known of it."""
    last = name.rpartition("/")[2].lower()
    if re.search(r"mask_?rcnn|keypoint|panoptic|densepose|lvis|cityscapes", last):
        return "it finds masks or keypoints, which are out of scope here"
    if re.search(r"^(e2e_)?(ssd|ssdlite|yolo|detr|cascade)", last):
        return "it is a detector of another kind than FCOS, RetinaNet and Faster R-CNN"
    if re.match(r"(e2e_)?(rpn|fast)_", last):
        return "it is a part of Faster R-CNN; there are whole models, and detectron2's two proposal networks"
    return ""
