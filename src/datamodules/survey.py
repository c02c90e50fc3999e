"""A survey of a split before training on it: its boxes as training sees them, and its files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from datamodules.decoding import Decoding
from datamodules.findings import Findings
from datamodules.headers import has_several
from datamodules.images import decode, deep_range
from datamodules.index import AnnotationIndex
from evaluation.truth import Truth


@dataclass(frozen=True, eq=False)
class Survey:
    """A split with N images and M boxes of wanted classes, in the order of `truth`."""

    name: str
    truth: Truth
    paths: list[str]
    """Paths of the images."""
    boxes: np.ndarray
    """(M, 4), those of `truth` clipped to their images."""
    used: np.ndarray
    """bool (M,): training uses it."""
    others: Mapping[str, tuple[int, str]]
    """Classes in the annotations that are not in `data.classes`: how many boxes, and an image that has one."""
    findings: Findings
    missing: list[int]
    """Positions in `paths` of those that lead to no file."""
    notes: list[str]
    """Odd entries, and what was made of them."""
    without_box: str | None
    """Why no box trains, or is scored; None where one is."""
    explained: str
    """Where one of them lies instead; empty where it isn't known."""


class FileCheck(NamedTuple):
    """The result of decoding one image file."""

    row: int
    """Position in `Survey.paths`."""
    digest: bytes
    """Equal for files of equal content; empty where the image can't be read."""
    error: str | None
    deep: tuple[float, float] | None = None
    """The lowest and highest number of an image with more than 8 bits."""
    several: bool = False
    """It holds further pictures."""


@dataclass(frozen=True, eq=False)
class ImageFiles(Dataset[FileCheck]):
    """Reads each image file of a split in full."""

    index: AnnotationIndex
    rows: np.ndarray
    decoding: Decoding

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> FileCheck:
        number = int(self.rows[row])
        height, width = self.index.sizes[number].tolist()
        path = self.index.image_path(number)
        try:
            decode(path, (height, width), self.decoding)
            with open(path, "rb") as file:
                digest = hashlib.blake2b(file.read(), digest_size=16).digest()
            return FileCheck(row, digest, None, deep_range(path), has_several(path))
        except (OSError, ValueError) as error:
            return FileCheck(row, b"", f"image {self.index.image_id(number)!r}: {error}")


def other_classes(index: AnnotationIndex, rows: np.ndarray, class_map: np.ndarray) -> dict[str, tuple[int, str]]:
    """Counts the `Survey.others` of some rows of an index."""
    image_index = index.image_index()
    here = np.isin(image_index, rows)
    found: dict[str, tuple[int, str]] = {}
    for label in np.flatnonzero(class_map < 0).tolist():
        boxes = np.flatnonzero(here & (index.labels == label))
        if len(boxes):
            found[index.class_names[label]] = len(boxes), index.image_path(int(image_index[boxes[0]]))
    return found
