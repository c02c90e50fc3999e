"""Pascal VOC, and any folder with its layout."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from datamodules import layouts
from datamodules.base import DetectionDataModule
from datamodules.corrections import moved
from datamodules.endings import PICTURES
from datamodules.errors import DataError
from datamodules.findings import Exif, Findings
from datamodules.index import AnnotationIndex, cached
from datamodules.layouts.layout import typed
from datamodules.nearest import nearest
from datamodules.records import ImageRecord, Records, fingerprint
from datamodules.voc_lists import find_splits, list_stems

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_voc(listed: Sequence[tuple[Path, list[str]]], exif: Exif = "auto") -> Records:
    """Reads the XML of every listed image; classes are the names found, in alphabetical order."""
    records = Records(_inclusive, "box (xmin, ymin, xmax, ymax)", "object", exif=exif, form="x1, y1, x2, y2")
    add = records.findings.add
    trees: list[tuple[ImageRecord, Element]] = []
    absent: list[Path] = []
    pictures: list[ImageRecord] = []
    in_folders = any("/" in stem for _, stems in listed for stem in stems)  # whose files may have one name
    for folder, stems in listed:
        images = _pictures(folder / "JPEGImages", stems)
        for stem in stems:
            file = folder / "Annotations" / f"{stem}.xml"
            image_id = stem if in_folders else None
            try:
                tree = _parse(file)
            except (FileNotFoundError, NotADirectoryError):
                absent.append(file)
                names = sorted(images.get(stem, ()), key=lambda name: not name.lower().endswith(".jpg"))
                pictures += [ImageRecord(str(folder / "JPEGImages" / name), str(file), image_id) for name in names[:1]]
                add("an image of the split has no annotation file", f"{file}", "write one")
                continue
            except DefusedXmlException as error:
                add("the annotation file is not sound XML", f"{file} (it defines an entity, {error}: refused)")
                continue
            except (OSError, ParseError, ValueError, LookupError) as error:
                add("the annotation file is not sound XML", f"{file} ({error})")
                continue
            if tree.tag != "annotation":
                add("the annotation file holds something else", f"{file} (<{tree.tag}> instead of <annotation>)")
                continue
            if len(images.get(stem, ())) != 1:  # whatever will be there next time
                home = folder / "JPEGImages" / os.path.dirname(stem)
                records.findings.depends_on[str(home)] = fingerprint([home])
            name = _picture(stem, images, file, tree, records.findings)
            if name is None:
                continue
            path = folder / "JPEGImages" / name
            trees.append((ImageRecord(str(path), str(file), image_id, _size(tree), str(file.parent)), tree))
    if absent and len(absent) == sum(len(stems) for _, stems in listed):
        return _without_annotations(records, absent, pictures)
    names = {_name(entry) for _, tree in trees for entry in tree.iter("object")} - {""}
    records.class_names = sorted(names)
    records.category_ids = list(range(1, len(names) + 1))
    label_of = {name: label for label, name in enumerate(records.class_names)}
    rows = records.add_images(image for image, _ in trees)
    for row, (image, tree) in zip(rows, trees, strict=True):
        if row >= 0:
            _add_objects(records, row, image.source, tree, label_of)
    return records


def _pictures(folder: Path, stems: Sequence[str]) -> dict[str, list[str]]:
    """Lists the names of image files by their stem, in the folders that the stems name."""
    images: dict[str, list[str]] = {}
    for below in sorted({os.path.dirname(stem) for stem in stems if "\0" not in stem}):
        for path in sorted((folder / below).glob("*")):
            if path.suffix.lower() in PICTURES:
                images.setdefault(os.path.join(below, path.stem), []).append(os.path.join(below, path.name))
    return images


def _without_annotations(records: Records, absent: list[Path], pictures: list[ImageRecord]) -> Records:
    """Lists the images of a split without any annotation file, as test sets are; DataError unless each is there."""
    root = absent[0].parent
    while root.name != "Annotations" and root != root.parent:  # stems may have folders
        root = root.parent
    near, command = nearest([str(file) for file in absent[:1]], root.parent), ""
    if near:
        command = f"\n{near}{moved(near, root.parent)}"
    elif ending := _common_ending(absent):
        lists = shlex.quote(str(root.parent / "ImageSets" / "Main"))
        correct = f"sed -i.bak 's/[.]{ending[1:]}$//' {lists}/*.txt"
        command = f"\ntheir names end in {ending}, as those of images do; so\n  {correct}"
    why = (
        f"none of the {len(absent)} annotation files of the split exists; the first would be {absent[0]}. Check "
        f"data.root, and that the lists in ImageSets name files without their suffix{command}"
    )
    if len(pictures) < len(absent):
        raise DataError(why)
    found = records.findings
    found.problems.clear()
    found.counts.clear()
    records.add_images(pictures)
    found.filled.clear()  # a size is not lacking where there are no annotations
    found.unlabelled = why
    return records


def _common_ending(absent: Sequence[Path]) -> str:
    """The ending of a picture that the stems in all names of annotation files have; empty where they have none."""
    endings = {os.path.splitext(file.stem)[1] for file in absent}
    return ending if len(endings) == 1 and (ending := endings.pop()).lower() in PICTURES else ""


def _picture(stem: str, images: Mapping[str, list[str]], file: Path, tree: Element, found: Findings) -> str | None:
    """Chooses the image file of an annotation file: that of its stem, as the devkit does; of several the one that
    `<filename>` names, else the .jpg. None where that does not choose one."""
    below = os.path.dirname(stem)
    stated = os.path.join(below, re.split(r"[/\\]", (tree.findtext("filename") or "").strip())[-1])
    names = images.get(stem, [f"{stem}.jpg"])
    jpgs = [name for name in names if name == f"{stem}.jpg"] or [
        name for name in names if name.lower().endswith(".jpg")
    ]
    named = [name for name in names if name == stated] or [name for name in names if name.lower() == stated.lower()]
    chosen = named or jpgs or names
    if len(chosen) > 1:
        several = f"{file} ({', '.join(names)}; <filename> is {stated!r})"
        found.add("an image has several files", several, "remove all but one, or name the right one in <filename>")
        return None
    if len(names) > 1 and not named:
        found.note("an image has several files, of which the .jpg is taken", f"{file} ({', '.join(names)})")
    other = os.path.join(below, Path(stated).stem)
    if stem not in (stated, other) and other in images:
        where = f"{file} (<filename> is {stated!r}, {chosen[0]!r} is taken)"
        found.note("<filename> names another picture than the one of the XML's own name, which is taken", where)
    return chosen[0]


def _parse(file: Path) -> Element:
    """Parses an XML file in any encoding and returns its root; refuses entities."""
    data = file.read_bytes()
    try:
        return ElementTree.fromstring(data)
    except DefusedXmlException:
        raise
    except (ValueError, LookupError):  # expat itself reads UTF-8, UTF-16 and what has one byte a character
        declared = _ENCODING.match(data)
        if declared is None:
            raise
        return ElementTree.fromstring(data.decode(declared[1].decode()))


_ENCODING = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")


def _inclusive(box: np.ndarray) -> list[float]:
    return np.add(box, [1, 1, 0, 0]).tolist()


def _size(tree: Element) -> tuple[int, int] | None:
    """Reads (height, width), whatever it is; None where the file has none."""
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or "")) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return height, width


def _name(entry: Element) -> str:
    return (entry.findtext("name") or "").strip()


def _add_objects(records: Records, row: int, file: str, tree: Element, label_of: dict[str, int]) -> None:
    add = records.findings.add
    for number, entry in enumerate(tree.iter("object"), 1):
        where = f"{file}: object {number}"
        texts = [entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(text or "") for text in texts)
        except ValueError:
            add("a bndbox is not four numbers", f"{where}, bndbox (xmin, ymin, xmax, ymax) {texts}")
            continue
        if not (name := _name(entry)):
            add("an object has no name", where)
            continue
        text = (entry.findtext("difficult") or "").strip()
        if (difficult := _DIFFICULT.get(text.lower())) is None:
            add("difficult is neither 0 nor 1", f"{where}, difficult {text!r}")
            continue
        # The devkit counts pixels from 1 and includes the last one.
        records.add_box(
            row, label_of[name], (x1 - 1, y1 - 1, x2, y2), annotation_id=number, difficult=difficult
        )  # fmt: skip


_DIFFICULT = {
    **dict.fromkeys(("", "0", "false", "no", "unspecified"), False),
    **dict.fromkeys(("1", "true", "yes"), True),
}


@dataclass(kw_only=True, eq=False, repr=False)
class VocDataModule(DetectionDataModule):
    """Splits of Pascal VOC, or of any folder with its layout."""

    metrics: ClassVar[tuple[Literal["coco", "voc", "classification"], ...]] = ("coco", "voc")

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
        root = Path(self.root).expanduser().absolute()
        with layouts.hint(root, "voc"):
            lists = find_splits(root, split)
        listed = [(file.parents[2], list_stems(file)) for file in lists]
        files = [folder / "Annotations" / f"{stem}.xml" for folder, stems in listed for stem in stems]
        sources = [*map(str, lists), f"exif={self.exif}"]
        return cached("voc", sources, [*lists, *files], lambda: read_voc(listed, self.exif), self.cache_dir)

    def sources(self, split: str) -> list[str]:
        return [str(file) for file in find_splits(Path(self.root).expanduser().absolute(), split)]

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        root = Path(self.root).expanduser().absolute()
        if (near := nearest(missing, root)) is None:
            return ""
        return f"\n{near}; images lie in JPEGImages, each under the stem of its annotation file{moved(near, root)}"

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        names = list(VOC_CLASSES if self.classes is None else self.classes)
        used = [index.class_names[label] for label in np.unique(index.labels)]  # not those of objects that were skipped
        others = [name for name in used if name not in names]
        from_voc = set(names) < set(VOC_CLASSES) and set(others) <= set(VOC_CLASSES)
        if others and self.other_classes == "raise" and not from_voc:
            first = int(np.flatnonzero(np.isin(index.labels, [index.class_names.index(name) for name in others]))[0])
            image = index.image_id(int(np.searchsorted(index.offsets, first, side="right")) - 1)
            where = f"{self.root} has objects of {others}; the first is object {index.annotation_ids[first]} of {image}"
            if len(others) == len(used):
                raise DataError(f"{where}, and none of data.classes={_few(names)}; set {typed({'classes': used})}")
            matches = [match for name in others for match in get_close_matches(name, names, n=1)]
            near = f" (nearest is {matches[0]})" if matches else ""
            raise DataError(
                f"{where}. data.classes={_few(names)} lacks them{near}; set {typed({'classes': [*names, *others]})}, "
                "or skip them with data.other_classes=drop"
            )
        return names, list(range(1, len(names) + 1))


def _few(names: Sequence[str]) -> str:
    return f"[{', '.join(names[:5])}, .. {len(names)} names]" if len(names) > 5 else f"[{', '.join(names)}]"
