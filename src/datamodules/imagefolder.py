"""A folder with ImageNet's layout: each class is a folder of images, whose name is its own."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import DetectionDataModule
from datamodules.batch import ImageInfo
from datamodules.dataset import Sample, unread
from datamodules.decoding import Decoding
from datamodules.endings import PICTURES
from datamodules.errors import DataError
from datamodules.images import ImageError, read_image, shown
from datamodules.index import AnnotationIndex, cached
from datamodules.loaders import Role
from datamodules.records import ImageRecord, Records
from datamodules.sampler import SampleKey
from datamodules.split import Split
from datamodules.survey import Survey
from datamodules.transforms import Augmentation, Resize, Sized
from datamodules.views import CentreCrop, RandomView
from evaluation.wording import counted

_SHOWN = 10


def class_folders(split: Path) -> list[Path]:
    """Lists the class folders of a split in alphabetical order."""
    entries = _entries(split)
    folders = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    if not folders:
        raise DataError(
            f"{shown(str(split))} has no folder in it, and {counted(len(entries), 'file')}; expected is a folder of "
            "images for each class, as data.root/SPLIT/CLASS/*.jpg"
        )
    return folders


def read_folders(splits: Sequence[Path]) -> Records:
    """Lists every image of some splits; folders of one name are one class.

    No image is opened, which would take an hour on a slow disk: each is the unit square, and one object fills it.
    """
    records = Records(list, "box", "image", looked_at=0)
    folders = [folder for split in splits for folder in class_folders(split)]
    records.class_names = sorted({folder.name for folder in folders})
    records.category_ids = list(range(len(records.class_names)))
    label_of = {name: label for label, name in enumerate(records.class_names)}
    for split in splits:
        for entry in _entries(split):
            if _is_image(entry):
                records.findings.add("an image lies in no class folder", shown(entry.path), "move it into one")
    for folder in folders:
        entries = _entries(folder)
        images = sorted(entry.path for entry in entries if _is_image(entry))
        for entry in entries:
            if entry.is_dir():
                rule = "a class folder holds a folder, in which no image is looked for"
                records.findings.add(rule, shown(entry.path), "move its images up")
        if not images:
            records.findings.add("a class folder holds no image", shown(str(folder)), "fill or remove it")
        first = len(records.images)
        rows = records.add_images(
            ImageRecord(path, str(folder), first + i, size=(1, 1)) for i, path in enumerate(images)
        )
        for row in rows:
            records.add_box(row, label_of[folder.name], (0, 0, 1, 1), annotation_id=row)
    return records


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Lists a folder without hidden entries, which editors and file managers leave behind."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        beside = sorted(path.name for path in folder.parent.glob("*/"))
        raise DataError(
            f"{shown(str(folder))} can't be listed ({error.strerror}); the folders beside it: {_few(beside)}. Check "
            "data.root and the name of the split; expected is data.root/SPLIT/CLASS/*.jpg"
        ) from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(PICTURES) and not entry.is_dir()


def _few(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"


@dataclass(frozen=True, eq=False)
class ClassifiedImages(Dataset[Sample]):
    """Reads one image with its label by its key, and depends on nothing else; no boxes."""

    index: AnnotationIndex
    class_map: np.ndarray
    crop: CentreCrop
    skip_errors: bool
    view: RandomView | None
    """None: the middle of the image, as evaluation sees it."""
    decoding: Decoding

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Sample:
        image_id, nowhere = self.index.image_id(key.row), (1.0, 1.0)  # there is no box to map back
        try:
            image = read_image(self.index.image_path(key.row), self.decoding)
        except ImageError as error:
            return unread(error, ImageInfo(image_id, (1, 1), nowhere), key.canvas, self.skip_errors)
        info = ImageInfo(image_id, (image.shape[0], image.shape[1]), nowhere)
        if self.view:
            seen = Sized(self.view(image, key.canvas, key.seed), key.canvas, nowhere)
        else:
            seen = self.crop.apply(image, key.canvas)
        labels = self.class_map[self.index.labels[self.index.boxes_of(key.row)]]
        return Sample(seen, np.zeros((0, 4)), labels, info, key.canvas)


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(DetectionDataModule):
    """Images with one class each, for pre-training a backbone: `root`/SPLIT/CLASS/*.jpg, as torchvision's ImageFolder.

    An image is taken for one object that fills it, so that splits, index, batches, truth and position in the stream
    are those of a detection data set. Batches carry labels (B, 1) and no boxes.
    """

    metrics: ClassVar[tuple[Literal["coco", "voc", "classification"], ...]] = ("classification",)
    whole_images: ClassVar[bool] = True
    rules: ClassVar[tuple[str, ...]] = ("crop",)

    root: str
    train_split: str = "train"
    val_split: str = "val"
    test_split: str | None = "val"
    num_classes: int = 1000
    resize: int = 224
    rule: Literal["crop"] = "crop"  # pyright: ignore[reportIncompatibleVariableOverride] - the one that it has
    crop_area: Sequence[float] = (0.53, 1.0)
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3)
    color_jitter: float = 0.03
    batch_size: int = 128
    eval_batch_size: int = 32
    classes: Sequence[str] | None = field(default=None, init=False)
    single_class: str | None = field(default=None, init=False)
    multi_scale: Sequence[float] | None = field(default=None, init=False)
    empty_images: Literal["keep", "drop"] = field(default="keep", init=False)
    repeat_threshold: float | None = field(default=None, init=False)
    min_box: float = field(default=0.0, init=False)
    min_visibility: float = field(default=0.0, init=False)
    min_area: float = field(default=0.0, init=False)
    max_side: int | None = field(default=None, init=False)
    rounding: Literal["long_down", "down", "nearest"] = field(default="long_down", init=False)
    interpolation: Literal["area", "bilinear", "antialias"] = field(default="area", init=False)
    check_boxes: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, most in (("crop_area", 1.0), ("crop_ratio", math.inf)):
            value = getattr(self, key)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
                limit = "" if most == math.inf else f" and at most {most:g}"
                raise ValueError(f"data.{key}={list(value)}: expected [smallest, largest], over 0{limit}")
        if not 0 <= self.color_jitter <= 0.5:
            raise ValueError(f"data.color_jitter={self.color_jitter}: expected a share from 0 to 0.5")

    @cached_property
    def resize_rule(self) -> Resize:
        return CentreCrop(self.rule, self.resize)

    @property
    def rule_name(self) -> str:
        return f"crop {self.resize}"

    def open_index(self, split: str) -> AnnotationIndex:
        splits = list(map(Path, self.sources(split)))
        folders = [folder for part in splits for folder in class_folders(part)]
        sources = [str(part) for part in splits]
        return cached("imagefolder", sources, [*splits, *folders], lambda: read_folders(splits), self.cache_dir)

    def sources(self, split: str) -> list[str]:
        root = Path(self.root).expanduser().absolute()
        return [str(root / name) for name in split.split("+")]

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        return list(index.class_names), list(index.category_ids)

    def _map_classes(self, name: str, index: AnnotationIndex) -> np.ndarray:
        found, wanted = index.class_names, self.class_names
        if wanted and found != wanted:
            lacks, has = (_few(sorted(set(a) - set(b))) for a, b in ((wanted, found), (found, wanted)))
            raise DataError(
                f"split {name!r} under {self.root} has other class folders than split {self.train_split!r}. It lacks: "
                f"{lacks}. It has besides: {has}. Give both the same"
            )
        if len(found) != self.num_classes:
            raise DataError(
                f"data.num_classes={self.num_classes}, but split {name!r} under {self.root} has "
                f"{counted(len(found), 'class folder')}: {_few(found)}; set data.num_classes={len(found)}"
            )
        return super()._map_classes(name, index)

    def _describe(self, role: Role, split: Split) -> str:
        labels = split.class_map[split.index.labels]  # one an image
        counts = np.bincount(labels[split.rows], minlength=self.num_classes)
        return (
            f"{role} ({split.name}): {counted(len(split.rows), 'image')} of "
            f"{counted(self.num_classes, 'class', 'classes')}, {counts.min()} to "
            f"{counts.max()} of each; {self.rule_name}"
        )

    def _picture(self, index: AnnotationIndex, row: int) -> np.ndarray:
        return read_image(index.image_path(row), self._decoding(index))

    def survey(self, split: str) -> Survey:
        raise DataError("data=imagefolder has classes of whole images, and no boxes to inspect")

    def _dataset(self, split: Split, training: bool = False) -> Dataset[Sample]:
        crop = CentreCrop(self.rule, self.resize)
        view = self._view() if training else None
        return ClassifiedImages(
            split.index, split.class_map, crop, self.on_error == "skip", view, self._decoding(split.index)
        )

    def _view(self) -> RandomView:
        transforms: dict[str, Any] = dict(self.augmentations or {})
        if self.color_jitter:
            import albumentations  # 1.5 s

            j = self.color_jitter
            jitter = albumentations.ColorJitter(brightness=j, contrast=j, saturation=j, hue=j, p=1.0)
            transforms = {"color_jitter": jitter, **transforms}
        area, ratio = ((float(value[0]), float(value[1])) for value in (self.crop_area, self.crop_ratio))
        return RandomView(area, ratio, self.flip, self.vertical_flip, Augmentation(transforms))
