"""A built-in data set: five shapes on textured backgrounds, as JPEG files and COCO JSON."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from datamodules.coco import CocoDataModule
from datamodules.errors import DataError
from datamodules.index import AnnotationIndex, locked

CLASSES = ("disc", "square", "triangle", "star", "cross")
_DRAWING = 1  # to be raised when the same parameters give other pictures
_MARKER = "shapes.json"
_SPLITS = ("train", "val")

# Shares of images (empty, with a crowd) and of objects (tiny, truncated).
_EMPTY, _CROWD, _TINY, _TRUNCATED = 0.1, 0.05, 0.1, 0.1
_HUES = (0, 30, 62, 108, 145)  # of 180, one for each class ...
_HUE_SPREAD = 20  # ... from which an object strays so far that neighbours meet
_MIN_VISIBLE = 0.8  # of an object's pixels, after all later ones are drawn
_CROWDED = -1  # owner of the pixels around a crowd, where nothing else may lie


def outline(label: int, random: np.random.Generator) -> np.ndarray:
    """Draws the corners (n, 2) of a shape of radius 1 around the origin."""
    if label == 0:
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        return np.stack([np.cos(turns), np.sin(turns) * random.uniform(0.8, 1)], axis=1)
    if label == 4:
        arm = random.uniform(0.28, 0.38)
        quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
        turn = np.array([[0, 1], [-1, 0]])
        return np.concatenate([quarter @ np.linalg.matrix_power(turn, i) for i in range(4)])
    corners = {1: 4, 2: 3, 3: 10}[label]
    turns = np.arange(corners) * 2 * np.pi / corners
    radii = np.where(np.arange(corners) % 2, 0.45, 1.0) if label == 3 else np.ones(corners)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii[:, None]


class _Object(NamedTuple):
    label: int
    patch: tuple[slice, slice]
    pixels: int
    """Before others cover it."""


class Picture:
    """One image in the making, with the number of the object that each pixel shows."""

    def __init__(self, size: int, split: int, random: np.random.Generator) -> None:
        self.size, self.random = size, random
        self.pixels = _background(size, split, random)
        self.owner = np.zeros((size, size), np.int16)
        self.objects: list[_Object] = []  # number n of `owner` is element n - 1

    def add(self, label: int, centre: np.ndarray, radius: float, angle: float) -> bool:
        """Draws an object unless it would hide too much of an earlier one."""
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = outline(label, self.random) @ turn * radius + centre
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, self.size)
        patch = (slice(low[1], high[1]), slice(low[0], high[0]))
        cover = np.zeros((high - low)[::-1].clip(0), np.uint8)
        if cover.size == 0:
            return False
        points = np.rint((corners - low) * 16).astype(np.int32)  # in sixteenths of a pixel
        cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, shift=4)
        solid = cover >= 128
        if not solid.any() or self._hides(solid, patch):
            return False
        self._paint(label, cover, patch)
        self.objects.append(_Object(label, patch, int(solid.sum())))
        self.owner[patch][solid] = len(self.objects)
        return True

    def _hides(self, solid: np.ndarray, patch: tuple[slice, slice]) -> bool:
        below = self.owner[patch][solid]
        if (below == _CROWDED).any():
            return True
        for number in np.unique(below[below > 0]):
            thing = self.objects[number - 1]
            shown = np.count_nonzero(self.owner[thing.patch] == number) - np.count_nonzero(below == number)
            if shown < _MIN_VISIBLE * thing.pixels:
                return True
        return False

    def _paint(self, label: int, cover: np.ndarray, patch: tuple[slice, slice]) -> None:
        random, ground = self.random, self.pixels[patch]
        around = ground.mean(axis=(0, 1))
        hue = (_HUES[label] + random.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 180
        best, contrast = around, -1.0
        for _ in range(4):
            shade = np.array([[[hue, random.uniform(150, 255), random.uniform(90, 255)]]], np.uint8)
            colour = cv2.cvtColor(shade, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)
            if (distance := float(np.abs(colour - around).sum())) > contrast:
                best, contrast = colour, distance
        slope = np.linspace(-1, 1, cover.shape[1], dtype=np.float32)[None, :, None] * random.uniform(-25, 25)
        alpha = (cover.astype(np.float32) / 255)[..., None]
        self.pixels[patch] = ground + alpha * (best + slope - ground)

    def add_objects(self, wanted: int) -> None:
        """Adds up to `wanted` objects at random places, at least one."""
        for _ in range(8 * wanted):
            if len(self.objects) == wanted:
                break
            self._add_somewhere()
        while not self.objects:
            self._add_somewhere()

    def _add_somewhere(self) -> None:
        random, size = self.random, self.size
        label, angle = int(random.integers(len(CLASSES))), random.uniform(0, 2 * np.pi)
        if random.random() < _TINY:
            radius, truncated = random.uniform(4.5, 7), False
        else:
            radius = float(np.exp(random.uniform(np.log(10), np.log(max(0.2 * size, 11)))))
            truncated = bool(random.random() < _TRUNCATED)
        centre = random.uniform(radius, size - radius, 2)
        if truncated:  # the border runs through the shape, up to a quarter of the radius beyond its middle
            depth = random.uniform(-0.25, 0.6) * radius
            centre[random.integers(2)] = depth if random.random() < 0.5 else size - depth
        self.add(label, centre, radius, angle)

    def add_crowd(self) -> dict[str, Any]:
        """Draws a heap of small shapes of one class, annotated as a single crowd region."""
        random = self.random
        label, spread = int(random.integers(len(CLASSES))), random.uniform(16, 24)
        middle = random.uniform(spread + 8, self.size - spread - 8, 2)
        for _ in range(int(random.integers(12, 25))):
            centre = middle + random.uniform(-spread, spread, 2)
            self.add(label, centre, random.uniform(4, 6), random.uniform(0, 2 * np.pi))
        shown = self.owner > 0
        box = cv2.boundingRect(shown.astype(np.uint8))
        x, y, width, height = box
        self.owner[:] = 0
        self.owner[y : y + height, x : x + width] = _CROWDED
        self.objects = []
        flat = np.concatenate([[0], shown.flatten(order="F").astype(np.int8), [0]])
        edges = np.flatnonzero(np.diff(flat))
        runs = np.diff(np.concatenate([[0], edges, [shown.size]]))
        return {
            "category_id": label + 1, "bbox": list(box), "area": int(shown.sum()), "iscrowd": 1,
            "segmentation": {"size": [self.size, self.size], "counts": runs.tolist()},
        }  # fmt: skip

    def annotations(self) -> list[dict[str, Any]]:
        """Returns COCO annotations of the visible part of each object."""
        found: list[dict[str, Any]] = []
        for number, thing in enumerate(self.objects, 1):
            shown = (self.owner[thing.patch] == number).astype(np.uint8)
            left, top = int(thing.patch[1].start), int(thing.patch[0].start)
            x, y, width, height = cv2.boundingRect(shown)
            contours, _ = cv2.findContours(shown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
            found.append({
                "category_id": thing.label + 1, "bbox": [left + x, top + y, width, height],
                "area": int(shown.sum()), "iscrowd": 0,
                "segmentation": [contour.ravel().tolist() for contour in contours if len(contour) > 2],
            })  # fmt: skip
        return found


@lru_cache(1)
def _grid(size: int) -> np.ndarray:
    return np.mgrid[:size, :size].astype(np.float32)


def _background(size: int, split: int, random: np.random.Generator) -> np.ndarray:
    """Draws float32 (size, size, 3): a muted colour with a pattern. The two splits have no pattern in common."""
    y, x = _grid(size)
    angle, frequency = random.uniform(0, np.pi), 2 * np.pi / random.uniform(10, 60)
    cos, sin = float(np.cos(angle)) * frequency, float(np.sin(angle)) * frequency
    cells = int(random.integers(4, 24))
    cloud = random.random((cells, cells), np.float32) * 2 - 1
    cloud = cv2.resize(cloud, (size, size), interpolation=cv2.INTER_CUBIC)
    waves = np.sin(x * cos + y * sin)
    kind = int(random.integers(3))
    if split == 0:
        pattern = (cloud, waves, np.sin(x * cos + y * sin + 2 * cloud))[kind]
    else:
        across = np.sin(y * cos - x * sin)
        rings = np.sin(np.hypot(x - random.uniform(0, size), y - random.uniform(0, size)) * frequency)
        pattern = (rings, np.tanh(3 * waves * across), cloud * across)[kind]
    colour = random.uniform(50, 190) + random.uniform(-18, 18, 3)
    tint = random.uniform(10, 28) * random.uniform(0.7, 1.3, 3)
    grain = random.standard_normal((size, size), np.float32) * random.uniform(1, 7)
    return cv2.merge([pattern * float(t) + grain + float(c) for t, c in zip(tint, colour, strict=True)])


def draw(seed: Sequence[int], size: int, split: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draws a BGR uint8 image with its annotations, a function of the arguments."""
    random = np.random.default_rng(seed)
    picture = Picture(size, split, random)
    kind, found = random.random(), []
    if kind >= _EMPTY:
        if kind < _EMPTY + _CROWD:
            found = [picture.add_crowd()]
        picture.add_objects(int(random.integers(1, 13)))
        found += picture.annotations()
    return np.clip(picture.pixels, 0, 255).astype(np.uint8), found


def write_split(root: Path, split: str, images: int, size: int, first_id: int) -> None:
    """Writes images under `root`/`split` and their JSON; ids from `first_id` on."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    number = _SPLITS.index(split)
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(images):
        image, found = draw((number, i), size, number)
        name = f"{i:06d}.jpg"
        cv2.imwrite(str(root / split / name), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        listed.append({"id": first_id + i, "file_name": name, "width": size, "height": size})
        annotations += [{"image_id": first_id + i, **annotation} for annotation in found]
    for annotation_id, annotation in enumerate(annotations, 1):
        annotation["id"] = annotation_id
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@dataclass(kw_only=True, eq=False, repr=False)
class ShapesDataModule(CocoDataModule):
    """Draws the data set into `root` when it isn't there yet.

    The pictures do not depend on `seed`, so that runs with different seeds share and compare on one set.
    """

    makes_root: ClassVar[bool] = True

    root: str = "data/shapes"
    train_images: int = 1600
    val_images: int = 320
    image_size: int = 256
    num_classes: int = len(CLASSES)
    resize: int = 256
    annotations: str = field(default="annotations/instances_{split}.json", init=False)
    images: str = field(default="{split}", init=False)
    train_split: str = field(default="train", init=False)
    val_split: str = field(default="val", init=False)
    test_split: str | None = field(default="val", init=False)
    classes: Sequence[str] | None = field(default=None, init=False)

    def prepare_data(self) -> None:
        """Draws into a temporary folder first; ranks that come at the same time wait for one another."""
        root = Path(self.root).expanduser().absolute()
        wanted = {
            "drawing": _DRAWING, "train_images": self.train_images, "val_images": self.val_images,
            "image_size": self.image_size,
        }  # fmt: skip
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(root.parent / f".{root.name}.lock"):
            if root.exists() and any(root.iterdir()):
                marker = root / _MARKER
                if not marker.exists():
                    raise DataError(f"data.root={self.root} holds other files; give a folder of its own for the shapes")
                if json.loads(marker.read_text()) == wanted:
                    return
            rank_zero_info(f"drawing {self.train_images} + {self.val_images} images into {root}")
            with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
                new = Path(temporary) / "new"
                write_split(new, "train", self.train_images, self.image_size, 1)
                write_split(new, "val", self.val_images, self.image_size, 1 + self.train_images)
                (new / _MARKER).write_text(json.dumps(wanted))
                if root.exists():
                    root.rename(Path(temporary) / "old")
                new.rename(root)

    def open_index(self, split: str) -> AnnotationIndex:
        self.prepare_data()  # for callers without a Trainer; otherwise it is there already
        return super().open_index(split)
