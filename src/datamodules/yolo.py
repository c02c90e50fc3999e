"""Ultralytics' YOLO layout: a `data.yaml`, images, and beside each a text file of labels in fractions of it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from datamodules import layouts
from datamodules.base import DetectionDataModule
from datamodules.endings import PICTURES
from datamodules.errors import DataError, NoAnnotationsError
from datamodules.findings import Exif
from datamodules.images import shown
from datamodules.index import AnnotationIndex, cached
from datamodules.nearest import nearest
from datamodules.records import ImageRecord, Records
from datamodules.yolo_description import Description, find_description, place_of, read_description

_OVER = 0.01  # of the image, by which rounding or a tool may go beyond its border


def list_images(sources: Sequence[Path]) -> list[Path]:
    """Lists the images of folders, with those below them, and of text files with a path a line; each once."""
    found: dict[Path, None] = {}
    for source in sources:
        paths = _listed(source) if source.is_file() else _below(source)
        found |= dict.fromkeys(path for path in paths if path.suffix.lower() in PICTURES)
    return list(found)


def _below(folder: Path) -> list[Path]:
    return sorted(Path(home) / name for home, _, names in os.walk(folder, followlinks=True) for name in names)


def _listed(file: Path) -> Iterator[Path]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 ({error}); save it as UTF-8, an image's path a line") from error
    for line in filter(None, map(str.strip, lines)):
        yield place_of(line, file)


def label_file(image: Path) -> Path:
    """Returns where an image's labels lie: in `labels` in place of the last `images` of its path, else beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_yolo(images: Sequence[Path], names: Sequence[str], exif: Exif = "auto") -> Records:
    """Reads the labels of images: a line is `class x y w h`, or `class` and a polygon whose box is taken, in fractions.

    Classes have the numbers of `names`. An image without a file of labels has no object.
    """
    records = Records(lambda box: box.tolist(), "box (x1, y1, x2, y2)", "line", exif=exif)
    records.class_names, records.category_ids = list(names), list(range(len(names)))
    files = [label_file(image) for image in images]
    if images and not any(file.is_file() for file in files):
        near = nearest([str(files[0])], images[0].parents[min(3, len(images[0].parents) - 1)])
        raise NoAnnotationsError(
            f"none of the {len(files)} files of labels exists; the first would be {files[0]}. Labels lie in a folder "
            f"`labels` beside `images`, each under the stem of its image{f'{chr(10)}{near}' if near else ''}"
        )
    ids = _ids(images)
    rows = records.add_images(
        ImageRecord(str(image), str(file), image_id, part=str(file.parent))
        for image, file, image_id in zip(images, files, ids, strict=True)
    )
    records.findings.filled.clear()  # a size is not lacking in a format that has none
    for row, file in zip(rows, files, strict=True):
        if row >= 0:
            _add_labels(records, row, file)
    return records


def _ids(images: Sequence[Path]) -> list[str | None]:
    """Leaves the stems as ids where each is there once; else gives paths from the folder that all have in common."""
    if len({image.stem for image in images}) == len(images):
        return [None] * len(images)
    start = os.path.commonpath([image.parent for image in images])
    return [os.path.relpath(image.with_suffix(""), start) for image in images]


def _add_labels(records: Records, row: int, file: Path) -> None:
    add = records.findings.add
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        add("the file of labels can't be read as text", f"{file} ({error})")
        return
    height, width = records.images[row].size or (0, 0)
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.split()):
            continue
        where = f"{file}: line {number}, {shown(line.strip())[:100]}"
        if (line := " ".join(words)) in seen:
            records.findings.note("a line of labels is there twice, and is taken once", where)
            continue
        seen.add(line)
        try:
            label, *numbers = map(float, words)
        except ValueError:
            add("a line of labels is not numbers", where)
            continue
        if len(numbers) < 4 or len(numbers) % 2:
            add("a line of labels is neither `class x y w h` nor a class and a polygon", where)
        elif label not in range(len(records.class_names)):
            add(f"a class is not a number from 0 to {len(records.class_names) - 1}, which `names` has", where)
        elif not all(map(isfinite, numbers)):
            add("the box holds a number that is not finite", where)
        elif not all(-_OVER <= value <= 1 + _OVER for value in numbers):
            add("a box is not in fractions of its image", where, "divide x and w by its width, y and h by its height")
        else:
            x1, y1, x2, y2 = _box(numbers)
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            records.add_box(row, int(label), box, annotation_id=number)


def _box(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    if len(numbers) == 4:
        x, y, w, h = numbers
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


@dataclass(kw_only=True, eq=False, repr=False)
class YoloDataModule(DetectionDataModule):
    """Splits of a `data.yaml`."""

    root: str
    """The YAML file, or its folder."""
    train_split: str = "train"
    val_split: str = "val"
    test_split: str | None = "val"
    num_classes: int = 80

    def _described(self) -> Description:
        return read_description(find_description(Path(self.root).expanduser().absolute()))

    def open_index(self, split: str) -> AnnotationIndex:
        with layouts.hint(Path(self.root).expanduser().absolute(), "yolo"):
            return self._index(split)

    def _index(self, split: str) -> AnnotationIndex:
        described = self._described()
        images = list_images([source for part in split.split("+") for source in described.sources(part)])
        if not images:
            raise NoAnnotationsError(f"{described.file}: there is no image in its {split!r}; check the paths in it")
        files = [described.file, *map(label_file, images)]
        sources = [str(described.file), split, f"exif={self.exif}"]
        return cached("yolo", sources, files, lambda: read_yolo(images, described.names, self.exif), self.cache_dir)

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        near = nearest(missing, self._described().file.parent)
        return "" if near is None else f"\n{near}; correct the list of images"

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        known = list(index.class_names)
        names = known if self.classes is None else list(self.classes)
        for name in names:
            if name not in known:
                raise DataError(f"data.classes names {name!r}, which {self._described().file} does not have: {known}")
        return names, [known.index(name) for name in names]

    def other_categories(self, index: AnnotationIndex) -> dict[int, str]:
        return {number: name for number, name in enumerate(index.class_names) if name not in self.class_names}
