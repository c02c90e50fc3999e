"""Any data set in COCO's instances format."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DetectionDataModule
from datamodules.index import AnnotationIndex, cached
from datamodules.records import ImageRecord, Records


def read_coco(parts: Sequence[tuple[str, str]]) -> Records:
    """Reads (JSON file, image folder) pairs as one data set.

    Labels follow the category ids in rising order; the categories of further files are matched by name.
    """
    records = Records(_xywh, "bbox")
    for file, folder in parts:
        content = _load(file)
        label_of = _add_categories(records, file, content["categories"])
        row_of = _add_images(records, file, folder, content["images"])
        _add_annotations(records, file, content["annotations"], label_of, row_of)
    return records


def _xywh(box: np.ndarray) -> list[float]:
    return np.round([box[0], box[1], box[2] - box[0], box[3] - box[1]], 3).tolist()


def _load(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            content = json.load(stream)
    except FileNotFoundError as error:
        folder = Path(file).parent
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        found = f"there are {', '.join(names)}" if names else "there is no JSON file"
        raise ValueError(
            f"{file} does not exist; {found} in {folder}. Check data.root, data.annotations and the name of the split"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); it may be cut short: copy it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file} has no list {key!r}; expected COCO's instances format")
    return content


def _add_categories(records: Records, file: str, categories: list[dict[str, Any]]) -> dict[int, int]:
    """Label of each category id of this file."""
    categories = sorted(categories, key=lambda category: category["id"])
    for key in ("id", "name"):
        values = [category[key] for category in categories]
        doubled = sorted({value for value in values if values.count(value) > 1})
        if doubled:
            raise ValueError(f"{file} has several categories of {key} {doubled}; make each unique")
    for category in categories:
        if category["name"] not in records.class_names:
            number = int(category["id"])
            if number in records.category_ids:  # taken by another name in an earlier file
                number = max(records.category_ids) + 1
            records.class_names.append(category["name"])
            records.category_ids.append(number)
    return {category["id"]: records.class_names.index(category["name"]) for category in categories}


def _add_images(records: Records, file: str, folder: str, images: list[dict[str, Any]]) -> dict[int, int]:
    """Row of each image id of this file, -1 where the image had to be left out."""
    kept: dict[int, ImageRecord] = {}
    for image in images:
        image_id, name = image.get("id"), image.get("file_name")
        if not isinstance(image_id, int) or not isinstance(name, str):
            records.findings.add(
                "an image needs an integer `id` and a `file_name`", f"{file}: image {image_id}, {name}"
            )
        elif image_id in kept:
            records.findings.add("an image id is used twice", f"{file}: image {image_id} ({name})")
        else:
            width, height = image.get("width"), image.get("height")
            size = (height, width) if isinstance(width, int) and isinstance(height, int) else None
            size = size if size and min(size) > 0 else None
            kept[image_id] = ImageRecord(os.path.join(folder, name), file, image_id, size)
    return dict(zip(kept, records.add_images(kept.values()), strict=True))


def _add_annotations(
    records: Records, file: str, annotations: list[dict[str, Any]],
    label_of: dict[int, int], row_of: dict[int, int],
) -> None:  # fmt: skip
    add, filled = records.findings.add, records.findings.filled
    seen: set[int] = set()
    for number, annotation in enumerate(annotations, 1):
        annotation_id = annotation.get("id")
        if not isinstance(annotation_id, int):
            filled["id"] += 1
            annotation_id = number
        image_id, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
        row, label = row_of.get(image_id), label_of.get(category)  # pyright: ignore[reportArgumentType]
        where = f"{file}: annotation {annotation_id} of image {image_id}, category {category}, bbox {box}"
        if row is None:
            add("an annotation belongs to an image that the file does not list", where)
        elif row < 0:
            continue  # its image is a problem already
        elif label is None:
            add("an annotation has a category that the file does not list", where)
        elif annotation_id in seen:
            add("an annotation id is used twice", where)
        elif (xywh := _four_numbers(box)) is None:
            add("a bbox is not four numbers (x, y, width, height)", where)
        else:
            seen.add(annotation_id)
            area, crowd = annotation.get("area"), annotation.get("iscrowd")
            area = area if isinstance(area, int | float) else float("nan")
            filled["area"] += area != area
            filled["iscrowd"] += crowd is None
            filled["segmentation"] += "segmentation" not in annotation
            x, y, width, height = xywh
            records.add_box(
                row, label, (x, y, x + width, y + height), annotation_id=annotation_id,
                area=area, crowd=bool(crowd),
            )  # fmt: skip
    for key in [key for key, count in filled.items() if not count]:
        del filled[key]


def _four_numbers(box: object) -> tuple[float, float, float, float] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    try:
        return float(box[0]), float(box[1]), float(box[2]), float(box[3])
    except (TypeError, ValueError):
        return None


@dataclass(kw_only=True, eq=False, repr=False)
class CocoDataModule(DetectionDataModule):
    """Splits of COCO, or of any data set with its instances format."""

    root: str
    annotations: str = "annotations/instances_{split}.json"
    """Where the JSON of a split is, from `root`."""
    images: str = "{split}"
    """Where its images are, from `root`."""
    train_split: str = "train2017"
    val_split: str = "val2017"
    test_split: str | None = "val2017"
    num_classes: int = 80

    def open_index(self, split: str) -> AnnotationIndex:
        root = Path(self.root).expanduser().absolute()
        parts = [
            (str(root / self.annotations.format(split=name)), str(root / self.images.format(split=name)))
            for name in split.split("+")
        ]
        files = [file for file, _ in parts]
        sources = [name for part in parts for name in part]
        return cached("coco", sources, files, lambda: read_coco(parts), self.cache_dir)

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        known = dict(zip(index.class_names, index.category_ids, strict=True))
        names = list(known) if self.classes is None else list(self.classes)
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise ValueError(
                    f"data.classes names {name!r}, which the annotations do not have"
                    + (f"; did you mean {near[0]!r}?" if near else f"; they have {list(known)}")
                )
        return names, [known[name] for name in names]
