"""The content of annotation files: the sound part as flat arrays, the rest as problems in words."""

import hashlib
import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.box_forms import Form, doubt
from datamodules.findings import Exif, Findings
from datamodules.headers import Header, read_header
from datamodules.images import shown
from evaluation.wording import counted

SEVERAL = "a file holds several pictures (an animation, pages), of which the first is taken"
LOOKED_AT = 1000
"""Image files of a split whose header is read, evenly spaced over it; all of a smaller one."""

_FEW = 5  # names in a message
_LARGE = 32**2  # square pixels, from which on COCO calls an object medium
_NO_PART = 1e-3  # of its box, which hardly an object covers alone
_FEW_AREAS = 0.01  # of a file's annotations may have any area


@dataclass
class ImageRecord:
    """An image as its annotation file describes it."""

    path: str
    source: str
    """The annotation file."""
    image_id: int | str | None = None
    size: tuple[int, int] | None = None
    """(height, width); None, or one that no image has: to be read from the image."""
    part: str = ""
    """The file or folder of annotations that messages on many of them name; `source` unless given."""

    def __post_init__(self) -> None:
        self.part = self.part or self.source


def fingerprint(files: Iterable[str | Path]) -> str:
    """Returns a digest that changes when one of the files does: its size, time of change or inode."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            stat = os.stat(file)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            line = f"{file} missing\n"
        else:
            line = f"{file} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()


def _can_exist(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _turn(header: Header, annotated: tuple[int, int] | None) -> Literal["turned", "stored", "either"]:
    turned, stored = header.size(True) == annotated, header.size(False) == annotated
    return "either" if turned == stored else "turned" if turned else "stored"


class Records:
    """Collects images and boxes from one or several annotation files, then checks them all at once."""

    def __init__(
        self, as_stated: Callable[[np.ndarray], list[float]], box_format: str, entry: str = "annotation",
        exif: Exif = "auto", looked_at: int = LOOKED_AT, form: Form | None = None,
    ) -> None:  # fmt: skip
        """Takes what messages need: `as_stated` turns one of our boxes back into the numbers of the file, whose name
        for them is `box_format`, and for what they belong to `entry`. `exif` decides sizes that are filled in, and
        `looked_at` is how many files are opened. `form` is what the numbers are expected to be; None where nobody wrote
        them."""
        self.as_stated, self.box_format, self.entry = as_stated, box_format, entry
        self.exif, self.looked_at = exif, looked_at
        self.form: Form | None = form
        self.images: list[ImageRecord] = []
        self.class_names: list[str] = []
        self.category_ids: list[int] = []
        self.spare: list[str] = []
        """Of `class_names`, those that only group the others: no annotation has them."""
        self.findings = Findings()
        self._rows, self._labels, self._annotation_ids = array("q"), array("q"), array("q")
        self._boxes, self._areas = array("d"), array("d")
        self._crowd, self._difficult = bytearray(), bytearray()

    def add_images(self, images: Iterable[ImageRecord]) -> list[int]:
        """Adds images; returns the row of each, or -1 for one whose size cannot be found out. Whether its file
        exists is asked at each set-up, see `AnnotationIndex.missing`."""
        images, rows = list(images), list[int]()
        self._look_at(images)
        turned = (self.findings.exif if self.exif == "auto" else self.exif) == "apply"
        unusable: dict[str, list[str]] = {}
        for image in images:
            rows.append(-1)
            if not _can_exist(image.path):
                self.findings.add("no file can have this name", f"{image.source}: {shown(image.path)}")
                continue
            stated = image.size
            if stated is None or not 0 < min(stated) <= max(stated) < 2**31:
                self.findings.depends_on[image.path] = fingerprint([image.path])
                try:
                    image.size = read_header(image.path).size(turned)
                except (OSError, ValueError) as error:
                    rule = "no usable size is annotated and the file is not a readable image"
                    why = getattr(error, "strerror", None) or "no image"  # Pillow's has the name of a stream
                    self.findings.add(rule, f"{image.source}: {shown(image.path)} ({why})", "restore it")
                    continue
                self.findings.filled["image size"] += 1
                if stated is not None:
                    name = f"{stated[1]} x {stated[0]} of {shown(os.path.basename(image.path))}"
                    unusable.setdefault(image.part, []).append(name)
            rows[-1] = len(self.images)
            self.images.append(image)
        for part, names in unusable.items():
            more = f", ... {len(names) - _FEW} more" if len(names) > _FEW else ""
            self.findings.notes.append(
                f"{part}: {counted(len(names), 'image size')} that no image has, {', '.join(names[:_FEW])}{more}; "
                "taken from the image files instead"
            )
        return rows

    def _look_at(self, images: Sequence[ImageRecord]) -> None:
        """Notes what the headers of some files tell of all."""
        found = self.findings
        for place in np.unique(np.linspace(0, len(images) - 1, min(self.looked_at, len(images))).round().astype(int)):
            image = images[place]
            try:
                with warnings.catch_warnings():  # Pillow's, of damaged headers
                    warnings.simplefilter("ignore")
                    header = read_header(image.path)
            except (OSError, ValueError):  # is there a sound one another time?
                header = None
            if header is None or header.orientation != 1 or header.several:
                found.depends_on[image.path] = fingerprint([image.path])
            if header is not None and header.orientation != 1 and self.exif == "auto":
                found.turns[_turn(header, image.size)] += 1
            if header is not None and header.several:
                found.note(SEVERAL, shown(image.path))

    def add_box(
        self, row: int, label: int, box: tuple[float, float, float, float], *, annotation_id: int,
        area: float = float("nan"), crowd: bool = False, difficult: bool = False,
    ) -> None:  # fmt: skip
        """Adds a box, xyxy; an `area` that is NaN becomes that of the box."""
        self._rows.append(row)
        self._labels.append(label)
        self._boxes.extend(box)
        self._areas.append(area)
        self._crowd.append(crowd)
        self._difficult.append(difficult)
        self._annotation_ids.append(annotation_id)

    def add_boxes(
        self, rows: np.ndarray, labels: np.ndarray, boxes: np.ndarray, annotation_ids: np.ndarray, areas: np.ndarray,
        crowd: np.ndarray,
    ) -> None:  # fmt: skip
        """Adds M boxes at once, none of them difficult; see `add_box`."""
        for kept, values, dtype in (
            (self._rows, rows, np.int64), (self._labels, labels, np.int64), (self._boxes, boxes, np.float64),
            (self._areas, areas, np.float64), (self._annotation_ids, annotation_ids, np.int64),
        ):  # fmt: skip
            kept.frombytes(np.ascontiguousarray(values, dtype).tobytes())
        self._crowd += crowd.astype(np.uint8).tobytes()
        self._difficult += bytes(len(rows))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the boxes that keep every rule, grouped by image; adds those that break one to the findings."""
        rows = np.array(self._rows, np.int64)
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        sizes = np.array([image.size for image in self.images], np.int32).reshape(-1, 2)
        sound = self._check(rows, boxes, sizes)
        self._doubt(rows, boxes, sizes, sound)
        order = np.flatnonzero(sound)
        order = order[np.argsort(rows[order], kind="stable")]

        boxes = boxes[order]
        areas = np.array(self._areas, np.float64)[order]
        of_box = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        paths = [os.fsencode(image.path) for image in self.images]
        result = {
            "sizes": sizes,
            "path_bytes": np.frombuffer(b"".join(paths), np.uint8),
            "path_offsets": np.cumsum([0, *map(len, paths)], dtype=np.int64),
            "offsets": np.searchsorted(rows[order], np.arange(len(self.images) + 1)).astype(np.int64),
            "boxes": boxes,
            "labels": np.array(self._labels, np.int32)[order],
            "areas": np.where(np.isnan(areas), of_box, areas),
            "crowd": np.frombuffer(bytes(self._crowd), np.bool_)[order],
            "difficult": np.frombuffer(bytes(self._difficult), np.bool_)[order],
            "annotation_ids": np.array(self._annotation_ids, np.int64)[order],
        }
        ids = [image.image_id for image in self.images]
        if any(image_id is not None for image_id in ids):
            result["ids"] = np.array(ids, np.str_ if isinstance(ids[0], str) else np.int64)
        return result

    def meta(self) -> dict[str, Any]:
        """Returns the rest in plain Python; complete only after `arrays`."""
        return {
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "spare": self.spare,
            "findings": vars(self.findings),
        }

    def _doubt(self, rows: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, sound: np.ndarray) -> None:
        """Adds to the findings what the boxes and areas of a whole file tell of it."""
        if self.form is None:
            return
        stated, areas = boxes.copy(), np.array(self._areas, np.float64)
        if self.form == "x, y, width, height":
            with np.errstate(invalid="ignore"):
                stated[:, 2:] -= stated[:, :2]
        names = {name: number for number, name in enumerate(dict.fromkeys(image.part for image in self.images))}
        parts = np.array([names[image.part] for image in self.images], np.int64)[rows]
        for name, number in names.items():
            here = parts == number
            if found := doubt(stated[here], sizes[rows[here]], self.form, rows[here]):
                (self.findings.refused if found.is_certain else self.findings.doubts).append(f"{name}: {found.text}")
            self._doubt_areas(name, boxes[here & sound], areas[here & sound])

    def _doubt_areas(self, name: str, boxes: np.ndarray, areas: np.ndarray) -> None:
        of_box = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        large = (of_box >= _LARGE) & ~np.isnan(areas)
        tiny = large & ((areas <= 1) | (areas < _NO_PART * of_box))
        over = large & (areas > 2 * of_box)
        for odd, what in ((tiny, "next to nothing, such as 0 or 1,"), (over, "over twice the box's")):
            count, number = np.count_nonzero(odd), np.count_nonzero(large)
            if count and count >= _FEW_AREAS * number:
                self.findings.notes.append(
                    f"{name}: `area` is {what} for {count} of the {counted(number, 'box', 'boxes')} of 32 x 32 pixels "
                    "or more. AP_small, AP_medium and AP_large go by the stated area; without the key, by the box's"
                )

    def _check(self, rows: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = boxes.T
        height, width = sizes[rows].T if len(rows) else np.zeros((2, 0))
        # A box without area that lies on the border is legal, as it is elsewhere: training drops it.
        outside = ((x1 < 0) & (x2 <= 0)) | ((y1 < 0) & (y2 <= 0))
        outside |= ((x2 > width) & (x1 >= width)) | ((y2 > height) & (y1 >= height))
        sound = np.ones(len(boxes), bool)
        for rule, broken in (
            ("the box holds a number that is not finite", ~np.isfinite(boxes).all(axis=1)),
            ("the box has a negative width or height", (x2 < x1) | (y2 < y1)),
            ("the box lies outside the image", outside),
        ):
            for i in np.flatnonzero(sound & broken):
                image = self.images[rows[i]]
                name = shown(os.path.basename(image.path))
                self.findings.add(
                    rule,
                    f"{image.source}: {self.entry} {self._annotation_ids[i]} of "
                    f"{name if image.image_id is None else f'image {image.image_id!r}, {name}'} "
                    f"({width[i]} x {height[i]}), {self.box_format} {self.as_stated(boxes[i])}",
                )
            sound &= ~broken
        return sound
