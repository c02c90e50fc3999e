"""What the catalogue states of a published checkpoint. Imports nothing heavy."""

from dataclasses import dataclass

Settings = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One published checkpoint of a detector of COCO's 80 classes."""

    name: str
    url: str
    digest: str
    """Algorithm and the first digits of the file's digest, such as sha256:99b0c9b7; empty where none is published."""
    ap: float
    """Published AP on `split`, in percent."""
    source: str
    """Where the score was published."""
    names: str
    """How its tensors are named: a key of `boxwright.zoo.contents.NAMES`."""
    network: Settings
    decoding: Settings
    file: str
    """Path in torch's folder of downloads, below `checkpoints`."""
    split: str = "val2017"
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
