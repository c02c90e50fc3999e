"""What the catalogue states of a published checkpoint. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Settings = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One published checkpoint of a detector."""

    name: str
    url: str
    digest: str
    """Algorithm and the first digits of the file's digest, such as sha256:99b0c9b7; empty where none is published."""
    figures: Mapping[str, float]
    """Published metrics on `split`, in percent, by the names of `evaluation.truth`."""
    source: str
    """Where they were published."""
    names: str
    """How its tensors are named: a key of `boxwright.zoo.contents.NAMES`."""
    network: Settings
    decoding: Settings
    file: str
    """Path in torch's folder of downloads, below `checkpoints`."""
    split: str = "val2017"
    data: Literal["coco_val2017", "voc_2007_test"] = "coco_val2017"
    """The same as a choice of `expect.data`."""
    classes: Literal["coco", "voc", "object"] = "coco"
    """COCO's 80 classes, VOC's 20, or one for an object of any of COCO's."""
    licence: str = ""


@dataclass(frozen=True)
class Trunk:
    """A published backbone trained on ImageNet."""

    name: str
    url: str
    digest: str
    network: Settings
    file: str
    licence: str
