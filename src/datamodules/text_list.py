"""Text lists: a line has the path of an image, then four numbers and a class for each box, `a.jpg 1 2 30 40 cat ...`.

Separated by blanks or commas, in one line for each image or in one for each box: so write the RetinaNet of xytpai
(`ymin xmin ymax xmax`), keras-retinanet's CSV and the lists of keras-yolo3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Literal

from datamodules import layouts
from datamodules.base import DetectionDataModule
from datamodules.errors import DataError, NoAnnotationsError
from datamodules.findings import Exif
from datamodules.images import shown
from datamodules.index import AnnotationIndex, cached
from datamodules.nearest import nearest
from datamodules.records import ImageRecord, Records
from datamodules.text_lines import is_integer, split_line

Order = Literal["x1 y1 x2 y2", "y1 x1 y2 x2"]


@dataclass(frozen=True)
class _Box:
    where: str
    corners: tuple[float, float, float, float]
    name: str


def read_lists(
    lists: Sequence[Path], images: Path, order: Order = "x1 y1 x2 y2", names: Sequence[str] | None = None,
    first_class: int = 0, exif: Exif = "auto",
) -> Records:  # fmt: skip
    """Reads all lists as one. Classes that are numbers count `names` from `first_class`; without `names` they are the
    names themselves, as other words are."""
    flipped = order == "y1 x1 y2 x2"
    records = Records(
        lambda box: (box[[1, 0, 3, 2]] if flipped else box).tolist(), f"box ({order})", "box", exif=exif,
        form="x1, y1, x2, y2",
    )  # fmt: skip
    boxes: dict[Path, list[_Box]] = {}
    sources: dict[Path, Path] = {}
    for file in lists:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            where = f"{file}: line {number}, {shown(line.strip())[:100]}"
            name, words = split_line(line)
            if name is None:
                records.findings.add("a line does not begin with the path of an image", where)
                continue
            path = images / name
            sources.setdefault(path, file)
            of_image = boxes.setdefault(path, [])
            if len(words) % 5:
                records.findings.add("after the path there are not four numbers and a class for each box", where)
                continue
            for at in range(0, len(words), 5):
                box = _box(words[at : at + 4], where, flipped)
                if box is None:
                    records.findings.add(
                        f"a box is not four numbers ({order})", f"{where}: {' '.join(words[at : at + 5])}"
                    )
                    continue
                of_image.append(_Box(where, box, words[at + 4]))
    named = _labels(records, [box for of_image in boxes.values() for box in of_image], names, first_class)
    several = len({path.stem for path in boxes}) < len(boxes)
    rows = records.add_images(
        ImageRecord(str(path), str(file), str(path.relative_to(images).with_suffix("")) if several else None)
        for path, file in sources.items()
    )
    records.findings.filled.clear()  # a size is not lacking in a format that has none
    for row, of_image in zip(rows, boxes.values(), strict=True):
        for number, box in enumerate(of_image, 1):
            if row >= 0 and box.name in named:
                records.add_box(row, named[box.name], box.corners, annotation_id=number)
            elif row >= 0:
                legal = f"{first_class} to {first_class + len(names or ()) - 1}"
                records.findings.add(f"a class is not a number from {legal}", f"{box.where}: class {box.name}")
    return records


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 ({error}); save it as UTF-8") from error


def _box(words: Sequence[str], where: str, flipped: bool) -> tuple[float, float, float, float] | None:
    try:
        a, b, c, d = map(float, words)
    except ValueError:
        return None
    if not all(map(isfinite, (a, b, c, d))):
        return None
    return (b, a, d, c) if flipped else (a, b, c, d)


def _labels(records: Records, boxes: Sequence[_Box], names: Sequence[str] | None, first: int) -> dict[str, int]:
    """Sets the classes; returns the label of each word that stands for one."""
    words = {box.name for box in boxes}
    numbered = bool(words) and all(is_integer(word) for word in words)
    if numbered and names is not None:
        records.class_names, records.category_ids = list(names), [first + label for label in range(len(names))]
        return {word: int(word) - first for word in words if 0 <= int(word) - first < len(names)}
    records.class_names = sorted(words, key=lambda word: (int(word), word) if numbered else (0, word))
    records.category_ids = list(map(int, records.class_names)) if numbered else list(range(1, len(words) + 1))
    return {word: label for label, word in enumerate(records.class_names)}


@dataclass(kw_only=True, eq=False, repr=False)
class TextListDataModule(DetectionDataModule):
    """Splits in text files with a line for each image, or for each box."""

    root: str
    lists: str = "{split}.txt"
    """Where the list of a split is, from `root`."""
    images: str = "."
    """What the paths in the lists start from, from `root`."""
    order: Order = "x1 y1 x2 y2"
    first_class: int = 0
    """The number of the first of `classes`, where the lists have numbers."""
    train_split: str = "train"
    val_split: str = "val"
    test_split: str | None = "val"
    num_classes: int = 80

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (orders := ("x1 y1 x2 y2", "y1 x1 y2 x2")):
            raise ValueError(f"data.order={self.order!r}: expected {' or '.join(map(repr, orders))}")

    def open_index(self, split: str) -> AnnotationIndex:
        root = Path(self.root).expanduser().absolute()
        files = [root / self.lists.format(split=name) for name in split.split("+")]
        names = None if self.classes is None else list(self.classes)
        sources = [*map(str, files), self.images, self.order, f"{names} {self.first_class}", f"exif={self.exif}"]
        read = partial(read_lists, files, root / self.images, self.order, names, self.first_class, self.exif)
        with layouts.hint(root, "text_list"):
            if absent := next((file for file in files if not file.is_file()), None):
                there = ", ".join(sorted(path.name for path in absent.parent.glob(f"*{absent.suffix}"))) or "none"
                remedy = "Check data.root, data.lists and the split's name"
                raise NoAnnotationsError(f"{absent} does not exist; lists in {absent.parent}: {there}. {remedy}")
            return cached("text_list", sources, files, read, self.cache_dir)

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        near = nearest(missing, Path(self.root).expanduser().absolute())
        return "" if near is None else f"\n{near}; set data.images to the folder that the paths start from"

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        known = dict(zip(index.class_names, index.category_ids, strict=True))
        names = list(known if self.classes is None else self.classes)
        if not set(names) & set(known):
            raise DataError(f"data.classes={names} has none of the classes of the lists, {list(known)}")
        free = max(known.values()) + 1
        return names, [known.get(name, free + label) for label, name in enumerate(names)]

    def other_categories(self, index: AnnotationIndex) -> dict[int, str]:
        known = zip(index.category_ids, index.class_names, strict=True)
        return {number: name for number, name in known if name not in self.class_names}
