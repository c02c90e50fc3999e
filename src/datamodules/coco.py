"""Any data set in COCO's instances format."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from datamodules import layouts
from datamodules.base import DetectionDataModule
from datamodules.errors import DataError, NoAnnotationsError
from datamodules.images import shown
from datamodules.index import AnnotationIndex, cached
from datamodules.layouts.layout import braced, typed
from datamodules.nearest import Near, nearest
from datamodules.records import Exif, ImageRecord, Records


def read_coco(parts: Sequence[tuple[str, str]], exif: Exif = "auto") -> Records:
    """Reads (JSON file, image folder) pairs as one data set.

    Labels follow the category ids in rising order; the categories of further files are matched by name.
    """
    records = Records(_xywh, "bbox", exif=exif, form="x, y, width, height")
    used: set[str] = set()
    for file, folder in parts:
        content = _load(file)
        spare = _spare(content)
        label_of = _add_categories(records, file, content["categories"], content["annotations"], spare)
        used |= {records.class_names[label] for category_id, label in label_of.items() if category_id not in spare}
        row_of = _add_images(records, file, folder, content["images"])
        _add_annotations(records, file, content["annotations"], label_of, row_of)
    records.spare = [name for name in records.class_names if name not in used]
    return records


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [round(number, 3) for number in (x1, y1, x2 - x1, y2 - y1)]


def _load(file: str) -> dict[str, Any]:
    data = b""
    try:
        data = Path(file).read_bytes()
        content = json.loads(data)
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = Path(file).parent
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        found = f"there are {', '.join(names)} in {folder}" if names else f"there is no JSON file in {folder}"
        missing = [parent for parent in folder.parents[::-1] if not parent.exists()] or [folder]
        if not missing[0].exists():
            near = get_close_matches(missing[0].name, [path.name for path in missing[0].parent.iterdir()], n=1)
            found = f"there is no folder {missing[0]}{f'; nearest is {near[0]}' if near else ''}"
        raise NoAnnotationsError(
            f"{file} does not exist; {found}. Check data.root, data.annotations and the "
            "split's name (data.train_split, data.val_split, data.test_split)"
        ) from error
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror}); check data.root and data.annotations") from error
    except RecursionError as error:
        raise DataError(f"{file} is nested too deeply for annotations; {_EXPECTED}") from error
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {_why_not(data, error)}") from error
    if not isinstance(content, dict):
        raise NoAnnotationsError(f"{file} has no list 'images', it is a {type(content).__name__} itself; {_EXPECTED}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise NoAnnotationsError(f"{file} has no list {key!r}, it has {_shown(list(content))}; {_EXPECTED}")
    return content


_EXPECTED = "expected COCO's instances format, a mapping with the lists images, annotations and categories"


def _why_not(data: bytes, error: ValueError) -> str:
    if not data:
        return "it is empty; copy it again"
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        return "it is compressed; unpack it"
    return f"{error}; it may be cut short, or not in UTF-8: copy it again, or save it as UTF-8"


def _spare(content: dict[str, Any]) -> set[Any]:
    """Finds the id of a category that is the supercategory of all others, and that no annotation has."""
    rows = [(_integer(_get(c, "id")), _get(c, "name"), _get(c, "supercategory")) for c in content["categories"]]
    candidates = {
        category_id
        for category_id, name, _ in rows
        if len(rows) > 1 and all(above == name for other_id, _, above in rows if other_id != category_id)
    }
    if candidates:
        candidates -= {_integer(_get(annotation, "category_id")) for annotation in content["annotations"]}
    return candidates if len(candidates) == 1 else set()


def _add_categories(
    records: Records, file: str, categories: list[Any], annotations: list[Any], spare: set[Any]
) -> dict[int, int]:
    """Adds the classes of a file; returns the label of each of its category ids. Those that are `spare` must not have a
    name of their own."""
    if not categories:
        ids = sorted({str(_get(annotation, "category_id")) for annotation in annotations})
        wanted = f" of its annotations, which are {_shown(ids)}" if ids else ""
        raise DataError(
            f"{file} names no class: its list 'categories' is empty; give an id and a name for each{wanted}"
        )
    pairs: list[tuple[int, str]] = []
    for category in categories:
        stated, name = (_get(category, key) for key in ("id", "name"))
        category_id = _integer(stated)
        if not _is_int64(category_id) or not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{file} has a category of id {_shown(stated)} and name {_shown(name)}; give each an integer id and a "
                "name"
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


def _add_images(records: Records, file: str, folder: str, images: list[Any]) -> dict[int | str, int]:
    """Adds the images of a file; returns the row of each image id, -1 for one that is skipped."""
    add = records.findings.add
    kept: dict[int | str, ImageRecord] = {}
    left_out: dict[int | str, int] = {}
    id_of: dict[str, int] = {}
    for image in images:
        stated, name = (_get(image, key) for key in ("id", "file_name"))
        image_id = _integer(stated)
        where = f"{file}: image {_shown(stated)}, file_name {_shown(name)}"
        if not _is_int64(image_id) or not isinstance(name, str) or not name:
            add("an image needs an integer `id` and a `file_name`", where)
            if (key := stated if isinstance(stated, str) else image_id) is not None:
                left_out[key] = -1
            continue
        path = os.path.join(folder, name)
        if image_id in kept:
            add("an image id is used twice", f"{where} and {shown(kept[image_id].path)}")
            if path != kept[image_id].path:  # whose annotations are they?
                left_out[image_id] = -1
        elif path in id_of:
            add("an image file is listed under two ids", f"{where} and image {id_of[path]}")
            left_out[image_id] = -1
        else:
            width, height = (_integer(image.get(key)) for key in ("width", "height"))
            size = None if height is None or width is None else (height, width)
            kept[image_id] = ImageRecord(path, file, image_id, size)
            id_of[path] = image_id
    for image_id in left_out:
        kept.pop(image_id, None)
    return {**dict(zip(kept, records.add_images(kept.values()), strict=True)), **left_out}


def _add_annotations(
    records: Records, file: str, annotations: list[Any],
    label_of: Mapping[Any, int], row_of: Mapping[Any, int],
) -> None:  # fmt: skip
    filled = records.findings.filled
    seen: set[int] = set()
    for number, entry in enumerate(annotations, 1):
        annotation: dict[str, Any] = entry if isinstance(entry, dict) else {}
        stated, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        annotation_id = stated if type(stated) is int else _integer(stated)
        image_id = image if type(image) in (int, str) else _integer(image)
        box, crowd = annotation.get("bbox"), annotation.get("iscrowd")
        row, label = row_of.get(image_id), label_of.get(category if type(category) is int else _integer(category))
        xywh = _four_numbers(box)
        if row is not None and row < 0:
            continue  # its image is a problem already
        if row is None:
            rule = "an annotation belongs to an image that the file does not list"
        elif label is None:
            rule = "an annotation has a category that the file does not list"
        elif annotation_id in seen:
            rule = "an annotation id is used twice"
        elif xywh is None:
            rule = "a bbox is not four numbers (x, y, width, height)"
        elif not all(map(isfinite, xywh)):
            rule = "the box holds a number that is not finite"
        elif crowd not in (0, 1, None):
            rule = "iscrowd is neither 0 nor 1"
        else:
            if not _is_int64(annotation_id):
                filled["integer id"] += 1
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
        )


def _get(entry: object, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _integer(value: object) -> int | None:
    """Reads an integer; JSON has one kind of number, so 7.0 is 7. None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _is_int64(value: int | None) -> TypeGuard[int]:
    return value is not None and -(2**63) <= value < 2**63


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
        sources = [*(name for part in parts for name in part), f"exif={self.exif}"]
        with layouts.hint(root, "coco"):
            return cached("coco", sources, files, lambda: read_coco(parts, self.exif), self.cache_dir)

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        root = Path(self.root).expanduser().absolute()
        near = nearest(missing, root)
        return "" if near is None else f"\n{near}; {self._remedy(near, root, split)}"

    def _remedy(self, near: Near, root: Path, split: str) -> str:
        """An override where the images' folder is all that differs."""
        for name in split.split("+"):
            _, below, file_name = near.missing.partition(f"{root / self.images.format(split=name)}{os.sep}")
            if below and near.found.endswith(f"{os.sep}{file_name}"):
                folder = os.path.relpath(near.found.removesuffix(file_name), root)
                return f"set {typed({'images': braced(folder, name)})}"
        return "correct file_name in the annotations, or rename the files"

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        known = dict(zip(index.class_names, index.category_ids, strict=True))
        names = list(known) if self.classes is None else list(self.classes)
        if self.classes is None and len(names) != self.num_classes:  # where they are counted, they are meant
            names = [name for name in names if name not in index.spare]
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise DataError(
                    f"data.classes names {name!r}, which the annotations do not have"
                    + (f"; did you mean {near[0]!r}?" if near else f"; they have {list(known)}")
                )
        return names, [known[name] for name in names]
