"""Annotations of a COCO file as flat arrays, decoded without making a Python object of each number.

Only of files in which nothing is odd: all else goes the way of `coco_json`, which names what is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from datamodules.ids import is_int64
from datamodules.records import Records

_LARGEST_AREA = 2.0**63


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | None = None
    segmentation: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Content(msgspec.Struct):
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[_Annotation]


@dataclass(frozen=True)
class Annotations:
    """M annotations, each with an image and a category of its file, and with an id of its own."""

    ids: np.ndarray
    """int64 (M,)."""
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    """float64 (M, 4): x, y, width, height, finite."""
    areas: np.ndarray
    """float64 (M,): NaN where none is stated."""
    crowd: np.ndarray
    absent: dict[str, np.ndarray]
    """bool (M,): which lack a key, by its name."""

    def __len__(self) -> int:
        return len(self.ids)


class Decoded(NamedTuple):
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: Annotations


def decoded(data: bytes) -> Decoded | None:
    """Decodes a JSON file; None where an entry is not as COCO's own files have it."""
    try:
        content = msgspec.json.decode(data, type=_Content)
        annotations = _arrays(content.annotations)
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeDecodeError):
        return None
    if not len(annotations) or not _fit(annotations, content):
        return None
    return Decoded(content.images, content.categories, annotations)


def _arrays(entries: list[_Annotation]) -> Annotations:
    number = len(entries)
    stated = np.fromiter((np.nan if one.area is None else one.area for one in entries), np.float64, number)
    areas = np.where((stated >= 0) & (stated < _LARGEST_AREA), stated, np.nan)
    crowd = np.fromiter((one.iscrowd or 0 for one in entries), np.int64, number)
    no_crowd = np.fromiter((one.iscrowd is None for one in entries), np.bool_, number)
    no_mask = np.fromiter((one.segmentation is msgspec.UNSET for one in entries), np.bool_, number)
    return Annotations(
        np.fromiter((one.id for one in entries), np.int64, number),
        np.fromiter((one.image_id for one in entries), np.int64, number),
        np.fromiter((one.category_id for one in entries), np.int64, number),
        np.fromiter((side for one in entries for side in one.bbox), np.float64, 4 * number).reshape(-1, 4),
        areas, crowd,
        {"area": np.isnan(areas), "iscrowd": no_crowd, "segmentation": no_mask},
    )  # fmt: skip


def _fit(annotations: Annotations, content: _Content) -> bool:
    """Whether ids are unique and known, boxes finite, and crowds 0 or 1."""
    if len(np.unique(annotations.ids)) < len(annotations) or not np.isfinite(annotations.boxes).all():
        return False
    if not np.isin(annotations.crowd, (0, 1)).all():
        return False
    for listed, used in ((content.images, annotations.image_ids), (content.categories, annotations.category_ids)):
        ids: list[Any] = [entry.get("id") for entry in listed]
        if not all(type(one) is int and is_int64(one) for one in ids) or not np.isin(np.unique(used), ids).all():
            return False
    return True


def add_arrays(
    records: Records, annotations: Annotations, label_of: Mapping[int, int], row_of: Mapping[Any, int]
) -> None:
    """Adds annotations to the images and classes of their file: the row of each image id, -1 where it is skipped."""
    rows = _looked_up(annotations.image_ids, row_of)
    kept = rows >= 0  # the image of the others is a problem already
    x, y, width, height = annotations.boxes[kept].T
    counts = {key: int(np.count_nonzero(absent & kept)) for key, absent in annotations.absent.items()}
    records.findings.filled.update({key: count for key, count in counts.items() if count})
    records.add_boxes(
        rows[kept], _looked_up(annotations.category_ids[kept], label_of),
        np.stack([x, y, x + width, y + height], axis=1), annotations.ids[kept], annotations.areas[kept],
        annotations.crowd[kept],
    )  # fmt: skip


def _looked_up(keys: np.ndarray, table: Mapping[Any, int]) -> np.ndarray:
    known = np.array(sorted(table), np.int64)
    return np.array([table[key] for key in known.tolist()], np.int64)[np.searchsorted(known, keys)]
