"""Pascal VOC, and any folder with its layout."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from datamodules.base import DetectionDataModule
from datamodules.index import AnnotationIndex, cached
from datamodules.records import ImageRecord, Records

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_splits(root: Path, split: str) -> list[Path]:
    """The list file of each part of a split such as `2007_trainval+2012_trainval`.

    `07_trainval` may stand for `2007_trainval`, and `07` alone too. In a folder that holds ImageSets itself,
    a name that exists there comes before a year.
    """
    files: list[Path] = []
    for part in split.split("+"):
        file = root / "ImageSets" / "Main" / f"{part}.txt"
        if not file.exists() and (year := re.fullmatch(r"(?:20)?(\d\d)(?:_(.+))?", part)):
            file = root / f"VOC20{year[1]}" / "ImageSets" / "Main" / f"{year[2] or 'trainval'}.txt"
        if not file.exists():
            raise ValueError(f"VOC split {part!r}: {file} does not exist; there are {_existing_splits(root)}")
        files.append(file)
    return files


def _existing_splits(root: Path) -> str:
    names = sorted(path.stem for path in root.glob("ImageSets/Main/*.txt"))
    for path in sorted(root.glob("VOC20[0-9][0-9]/ImageSets/Main/*.txt")):
        if "_" not in path.stem:  # the devkit has a list for each class as well
            names.append(f"{path.parts[-4][3:]}_{path.stem}")
    return ", ".join(names) or f"none at all under {root}: check data.root"


def list_stems(file: Path) -> list[str]:
    """Image stems of a split; more may stand behind one, as in the devkit's lists of a class."""
    return list(dict.fromkeys(line.split()[0] for line in file.read_text().splitlines() if line.strip()))


def read_voc(listed: Sequence[tuple[Path, list[str]]]) -> Records:
    """Reads the XML of every listed image; classes are the names found, in alphabetical order."""
    records = Records(_inclusive, "box (xmin, ymin, xmax, ymax)")
    trees: list[tuple[ImageRecord, Element]] = []
    for folder, stems in listed:
        pictures = [path for path in folder.glob("JPEGImages/*") if path.suffix.lower() in _IMAGE_SUFFIXES]
        images = {path.stem: path.name for path in pictures}
        for stem in stems:
            file = folder / "Annotations" / f"{stem}.xml"
            try:
                tree: Any = ElementTree.parse(file).getroot()
            except FileNotFoundError:
                records.findings.add("an image of the split has no annotation file", f"{file}", "write one")
                continue
            except (ParseError, DefusedXmlException, ValueError) as error:
                records.findings.add("the annotation file is not sound XML", f"{file} ({error})")
                continue
            path = folder / "JPEGImages" / images.get(stem, f"{stem}.jpg")
            trees.append((ImageRecord(str(path), str(file), size=_size(tree)), tree))
    names = {_name(entry) for _, tree in trees for entry in tree.iter("object")}
    records.class_names = sorted(names)
    records.category_ids = list(range(1, len(names) + 1))
    label_of = {name: label for label, name in enumerate(records.class_names)}
    rows = records.add_images(image for image, _ in trees)
    for row, (image, tree) in zip(rows, trees, strict=True):
        if row >= 0:
            _add_objects(records, row, image.source, tree, label_of)
    return records


def _inclusive(box: np.ndarray) -> list[float]:
    return np.add(box, [1, 1, 0, 0]).tolist()


def _size(tree: Element) -> tuple[int, int] | None:
    """(height, width), or None where the file does not say, or says 0."""
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _name(entry: Element) -> str:
    return (entry.findtext("name") or "").strip()


def _add_objects(records: Records, row: int, file: str, tree: Element, label_of: dict[str, int]) -> None:
    for number, entry in enumerate(tree.iter("object"), 1):
        texts = [entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(text or "") for text in texts)
        except ValueError:
            records.findings.add("a bndbox is not four numbers", f"{file}: object {number}, bndbox {texts}")
            continue
        # The devkit counts pixels from 1 and includes the last one.
        records.add_box(
            row, label_of[_name(entry)], (x1 - 1, y1 - 1, x2, y2), annotation_id=number,
            difficult=(entry.findtext("difficult") or "0").strip() == "1",
        )  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class VocDataModule(DetectionDataModule):
    """Splits of Pascal VOC, or of any folder with its layout."""

    voc_metric: ClassVar[bool] = True

    root: str
    """Holds VOC2007 and its like, or ImageSets, Annotations and JPEGImages themselves."""
    train_split: str = "2007_trainval+2012_trainval"
    val_split: str = "2007_test"
    test_split: str | None = "2007_test"
    classes: Sequence[str] | None = VOC_CLASSES
    """In the order of their labels."""
    other_classes: Literal["raise", "drop"] = "raise"
    use_difficult: bool = False
    num_classes: int = 20

    def open_index(self, split: str) -> AnnotationIndex:
        lists = find_splits(Path(self.root).expanduser().absolute(), split)
        listed = [(file.parents[2], list_stems(file)) for file in lists]
        files = [folder / "Annotations" / f"{stem}.xml" for folder, stems in listed for stem in stems]
        sources = [str(file) for file in lists]
        return cached("voc", sources, [*lists, *files], lambda: read_voc(listed), self.cache_dir)

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        names = list(VOC_CLASSES if self.classes is None else self.classes)
        others = [name for name in index.class_names if name not in names]
        from_voc = set(names) < set(VOC_CLASSES) and set(others) <= set(VOC_CLASSES)
        if others and self.other_classes == "raise" and not from_voc:
            raise ValueError(
                f"{self.root} has objects of {others}, which data.classes={names} lacks; add them, or leave "
                "them out with data.other_classes=drop"
            )
        return names, list(range(1, len(names) + 1))
