"""Reads COCO's instances format: a JSON file with lists of images, annotations and categories."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from datamodules.coco_decoded import Annotations, add_arrays
from datamodules.coco_load import NO_CLASS, load, no_list
from datamodules.errors import DataError
from datamodules.findings import CORRECT, Exif
from datamodules.ids import KINDS, Id, image_id, integer, is_int64, kind_of, refuse_one_sided
from datamodules.images import shown
from datamodules.records import ImageRecord, Records
from evaluation.wording import first_few

_LISTED = 10  # category ids in a message


def read_coco(parts: Sequence[tuple[str, str]], exif: Exif = "auto") -> Records:
    """Reads (JSON file, image folder) pairs as one data set.

    Labels follow the category ids in rising order; the categories of further files are matched by name.
    """
    records = Records(_xywh, "bbox", exif=exif, form="x, y, width, height")
    used: set[str] = set()
    unlabelled: dict[str, str] = {}
    for file, folder in parts:
        content = load(file)
        if why := _without_annotations(file, content):
            unlabelled[file] = why
        annotations, categories = (content.get(key) or [] for key in ("annotations", "categories"))
        spare = _spare(categories, annotations)
        label_of = _add_categories(records, file, categories, annotations, spare) if categories or not why else {}
        used |= {records.class_names[label] for category_id, label in label_of.items() if category_id not in spare}
        row_of = _add_images(records, file, folder, content["images"])
        refuse_one_sided(file, "images", (i for i in row_of if row_of[i] >= 0), _named(annotations, "image_id"))
        refuse_one_sided(file, "categories", label_of, _named(annotations, "category_id"))
        if isinstance(annotations, Annotations):
            add_arrays(records, annotations, label_of, row_of)
        else:
            _add_annotations(records, file, annotations, label_of, row_of)
    if with_them := [file for file, _ in parts if unlabelled and file not in unlabelled]:
        raise DataError(f"{next(iter(unlabelled.values()))}; {with_them[0]} has annotations: score it by itself")
    records.findings.unlabelled = next(iter(unlabelled.values()), "")
    records.spare = [name for name in records.class_names if name not in used]
    return records


def _without_annotations(file: str, content: dict[str, Any]) -> str:
    """Says what a file lacks that lists images alone, as those of test sets do; empty where it has annotations."""
    if content.get("annotations"):
        return ""
    for key in ("annotations", "categories"):
        if content.get(key) is None:
            return f"{file} {no_list(content, key)}"
    return "" if content["categories"] else f"{file} {NO_CLASS}"


def _named(annotations: list[Any] | Annotations, key: str) -> Iterable[object]:
    """What annotations name their image or category by, a float without a fraction as an integer."""
    if isinstance(annotations, Annotations):
        return np.unique(annotations.image_ids if key == "image_id" else annotations.category_ids).tolist()
    return (stated if isinstance(stated := _get(entry, key), str) else integer(stated) for entry in annotations)


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [round(number, 3) for number in (x1, y1, x2 - x1, y2 - y1)]


def _spare(categories: list[Any], annotations: list[Any] | Annotations) -> set[Any]:
    """Finds the id of a category that is the supercategory of all others, and that no annotation has."""
    rows = [(integer(_get(c, "id")), _get(c, "name"), _get(c, "supercategory")) for c in categories]
    candidates = {
        category_id
        for category_id, name, _ in rows
        if len(rows) > 1 and all(above == name for other_id, _, above in rows if other_id != category_id)
    }
    if candidates:
        candidates -= set(_named(annotations, "category_id"))
    return candidates if len(candidates) == 1 else set()


def _add_categories(
    records: Records, file: str, categories: list[Any], annotations: list[Any] | Annotations, spare: set[Any]
) -> dict[int, int]:
    """Adds the classes of a file; returns the label of each of its category ids. Those that are `spare` must not have a
    name of their own."""
    if not categories:
        ids = {_shown(category_id) for category_id in _named(annotations, "category_id")}
        listed = ", ".join(sorted(ids, key=lambda text: (len(text), text))[:_LISTED])
        wanted = f" of its annotations, which are {listed}{', ...' * (len(ids) > _LISTED)}" if ids else ""
        raise DataError(f"{file} {NO_CLASS}{wanted}")
    pairs: list[tuple[int, str]] = []
    for category in categories:
        stated, name = (_get(category, key) for key in ("id", "name"))
        category_id = integer(stated)
        if not is_int64(category_id) or not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{file} has a category of id {_shown(stated)} and name {_shown(name)}; give each an integer id and a "
                f"name{', an id in quotes is text' if isinstance(stated, str) else ''}"
            )
        pairs.append((category_id, name))
    names = Counter(name for _, name in pairs)
    for category_id, name in [pair for pair in pairs if pair[0] in spare and names[pair[1]] > 1]:
        pairs.remove((category_id, name))
        records.findings.notes.append(
            f"{file}: category {category_id}, {name!r}, is passed over: it is the supercategory of the others, one of "
            "which has its name, and no annotation has it"
        )
    for key, values in zip(("id", "name"), zip(*pairs, strict=True), strict=False):
        doubled = sorted(value for value, count in Counter(values).items() if count > 1)
        if doubled:
            raise DataError(f"{file} has several categories of {key} {_shown(doubled)}; make each unique")
    for category_id, name in sorted(pairs):
        if name not in records.class_names:
            if category_id in records.category_ids:  # taken by another name in an earlier file
                category_id = max(records.category_ids) + 1
            records.class_names.append(name)
            records.category_ids.append(category_id)
    return {category_id: records.class_names.index(name) for category_id, name in pairs}


def _add_images(records: Records, file: str, folder: str, images: list[Any]) -> dict[Id, int]:
    """Adds the images of a file; returns the row of each image id, -1 for one that is skipped."""
    add = records.findings.add
    kept: dict[Id, ImageRecord] = {}
    left_out: dict[Id, int] = {}
    id_of: dict[str, Id] = {}
    kind = _kind_of_ids(records, file, images)
    for image in images:
        stated, name = (_get(image, key) for key in ("id", "file_name"))
        number = image_id(stated)
        where = f"{file}: image {_shown(stated)}, file_name {_shown(name)}"
        if number is None or not isinstance(name, str) or not name or not isinstance(number, kind):
            add(_NO_IMAGE if number is None or isinstance(number, kind) else _OTHER_ID[kind], where)
            if (key := stated if isinstance(stated, str) else integer(stated)) is not None:
                left_out[key] = -1
            continue
        path = os.path.join(folder, name)
        if number in kept:
            add("an image id is used twice", f"{where} and {shown(kept[number].path)}")
            if path != kept[number].path:  # whose annotations are they?
                left_out[number] = -1
        elif path in id_of:
            add("an image file is listed under two ids", f"{where} and image {_shown(id_of[path])}")
            left_out[number] = -1
        else:
            width, height = (integer(image.get(key)) for key in ("width", "height"))
            size = None if height is None or width is None else (height, width)
            kept[number] = ImageRecord(path, file, number, size)
            id_of[path] = number
    for number in left_out:
        kept.pop(number, None)
    return {**dict(zip(kept, records.add_images(kept.values()), strict=True)), **left_out}


_NO_IMAGE = "an image needs an `id`, an integer or a text, and a `file_name`"
_OTHER_ID: dict[type, str] = {
    int: "an image has a text as `id`, where others have an integer",
    str: "an image has an integer as `id`, where others have a text",
}


def _kind_of_ids(records: Records, file: str, images: list[Any]) -> type[Id]:
    """What the image ids of a file are, integers or texts; DataError where an earlier file has others."""
    kind = kind_of(image_id(_get(image, "id")) for image in images)
    for first in records.images[:1]:
        if images and not isinstance(first.image_id, kind):
            raise DataError(
                f"{file} has other image ids than {first.source}, of which the first is {_shown(first.image_id)}: "
                "texts and integers can't be joined"
            )
    return kind


def _add_annotations(
    records: Records, file: str, annotations: list[Any],
    label_of: Mapping[Any, int], row_of: Mapping[Any, int],
) -> None:  # fmt: skip
    filled = records.findings.filled
    kind, listed = kind_of(row_of), first_few(row_of)
    seen: set[int] = set()
    for number, entry in enumerate(annotations, 1):
        annotation: dict[str, Any] = entry if isinstance(entry, dict) else {}
        stated, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        annotation_id = stated if type(stated) is int else integer(stated)
        key = image if type(image) in (int, str) else integer(image)
        box, crowd = annotation.get("bbox"), annotation.get("iscrowd")
        row, label = row_of.get(key), label_of.get(category if type(category) is int else integer(category))
        xywh, remedy = _four_numbers(box), CORRECT
        if row is not None and row < 0:
            continue  # its image is a problem already
        if row is None:
            rule = "an annotation belongs to an image that the file does not list"
            remedy = f"its images are {listed}; {remedy}"
            if type(key) in KINDS and type(key) is not kind:
                rule += f", whose ids are {KINDS[kind]}"
        elif label is None:
            rule = "an annotation has a category that the file does not list"
            remedy = f"its categories are {first_few(label_of)}; {remedy}"
            if isinstance(category, str):
                rule += f", whose ids are {KINDS[int]}"
        elif annotation_id in seen and not isinstance(stated, float):
            rule = "an annotation id is used twice"
        elif xywh is None:
            rule = "a bbox is not four numbers (x, y, width, height)"
        elif not all(map(isfinite, xywh)):
            rule = "the box holds a number that is not finite"
        elif crowd not in (0, 1, None):
            rule = "iscrowd is neither 0 nor 1"
        else:
            if not is_int64(annotation_id):
                filled["integer id"] += 1
                annotation_id = number
            elif annotation_id in seen:  # lost its last digits, as in COCO's own minival of 2014
                records.findings.note(_DOUBLED, f"{file}: id {_shown(stated)}, annotation {number} of the file")
                annotation_id = number
            else:
                seen.add(annotation_id)
            area: Any = annotation.get("area")
            if type(area) not in (int, float) or not 0 <= area < 2**63:
                filled["area"] += 1
                area = float("nan")
            if crowd is None:
                filled["iscrowd"] += 1
            if "segmentation" not in annotation:
                filled["segmentation"] += 1
            x, y, width, height = xywh
            records.add_box(
                row, label, (x, y, x + width, y + height), annotation_id=annotation_id,
                area=area, crowd=bool(crowd),
            )  # fmt: skip
            continue
        records.findings.add(
            rule,
            f"{file}: annotation {number if stated is None else _shown(stated)} of image {_shown(image)}, category "
            f"{_shown(category)}, bbox {_shown(box)}" + (f", iscrowd {_shown(crowd)}" if "iscrowd" in rule else ""),
            remedy,
        )


_DOUBLED = "an annotation has the id of another one, both are floats and both count"


def _get(entry: object, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _four_numbers(box: object) -> tuple[float, float, float, float] | None:
    if not isinstance(box, list) or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        return None
    try:
        return float(box[0]), float(box[1]), float(box[2]), float(box[3])
    except OverflowError:  # an integer beyond every float
        return None


_NUMBERS = {int, float}


def _shown(value: object) -> str:
    """Formats a value for a message: on one line, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
