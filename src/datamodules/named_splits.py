"""Splits of COCO, Pascal VOC and Cityscapes by name, and where each lies under `data.root`.

The names are those of fcos_core's catalogue (`fcos_core/config/paths_catalog.py`), and three more.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

from datamodules.errors import DataError
from datamodules.voc import VOC_CLASSES

_COCO = (".", "coco")
CITYSCAPES_CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


@dataclass(frozen=True)
class Json:
    """A split in COCO's instances format. Paths are relative to one of `homes`, which are so to `data.root`."""

    annotations: str
    images: str
    homes: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    """Those of the data set; None: of the file, in the order of their ids."""
    server_file: str = "predictions.json"
    """What COCO's server wants a results file to be called."""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.annotations, self.images)

    @property
    def keeps_ids(self) -> bool:
        """Whether an image has one id in all splits of its data set, as in COCO's of 2014 and 2017."""
        return self.homes == _COCO


@dataclass(frozen=True)
class Xml:
    """A list of images in Pascal VOC's layout."""

    year: int
    images: str
    homes: tuple[str, ...] = (".", "VOCdevkit", "voc")
    classes: tuple[str, ...] = VOC_CLASSES

    keeps_ids: ClassVar[bool] = True

    @property
    def files(self) -> tuple[str, ...]:
        folder = f"VOC{self.year}"
        return (f"{folder}/ImageSets/Main/{self.images}.txt", f"{folder}/Annotations", f"{folder}/JPEGImages")


def _coco(prefix: str, split: str, images: str) -> Json:
    return Json(f"annotations/{prefix}_{split}.json", images, _COCO)


def _cocostyle(year: int, split: str) -> Json:
    folder = f"VOC{year}"
    return Json(f"{folder}/Annotations/pascal_{split}{year}.json", f"{folder}/JPEGImages", Xml.homes, VOC_CLASSES)


def _cityscapes(split: str) -> Json:
    return Json(
        f"annotations/instancesonly_filtered_gtFine_{split}.json", "images", (".", "cityscapes"), CITYSCAPES_CLASSES
    )


SPLITS: dict[str, Json | Xml] = {
    "coco_2017_train": _coco("instances", "train2017", "train2017"),
    "coco_2017_val": _coco("instances", "val2017", "val2017"),
    "coco_2017_test": Json(
        "annotations/image_info_test2017.json", "test2017", _COCO, None, "detections_test2017_boxwright_results.json"
    ),
    "coco_2017_test_dev": Json(
        "annotations/image_info_test-dev2017.json", "test2017", _COCO, None,
        "detections_test-dev2017_boxwright_results.json",
    ),
    **{
        f"{name}coco_2014_{split}": _coco(prefix, f"{split}2014", "train2014" if split == "train" else "val2014")
        for name, prefix in (("", "instances"), ("keypoints_", "person_keypoints"))
        for split in ("train", "val", "minival", "valminusminival")
    },
    **{
        f"voc_{year}_{split}": Xml(year, split)
        for year in (2007, 2012)
        for split in ("train", "val", "trainval", "test")
    },
    **{
        f"voc_{year}_{split}_cocostyle": _cocostyle(year, split)
        for year, splits in ((2007, ("train", "val", "test")), (2012, ("train", "val")))
        for split in splits
    },
    **{f"cityscapes_fine_instanceonly_seg_{split}_cocostyle": _cityscapes(split) for split in ("train", "val", "test")},
}  # fmt: skip
"""`minival` is Detectron's of 5,000 images, those of val2017; that of TensorFlow's models has 8,059."""


def named(split: str) -> list[tuple[str, Json | Xml]]:
    """Looks up each part of a split such as `coco_2014_train+coco_2014_valminusminival`."""
    parts = [part.strip() for part in split.split("+")]
    for part in parts:
        if part not in SPLITS:
            near = get_close_matches(part, SPLITS, 3, 0.5)
            raise DataError(
                f"data has no split {part!r}"
                + (f"; the nearest are {', '.join(near)}" if near else f"; there are {', '.join(SPLITS)}")
                + ". A file or folder of your own is read by data=coco or data=voc"
            )
        if parts.count(part) > 1:
            raise DataError(f"split {split!r} has {part} twice")
    return [(part, SPLITS[part]) for part in parts]


def home(root: Path, source: Json | Xml) -> Path:
    """Returns the folder that the paths of a split start from: the first that has its list, else the likeliest."""
    candidates = [root / name for name in source.homes]
    there = [folder for folder in candidates if (folder / source.files[0]).is_file()]
    partly = [folder for folder in candidates if (folder / source.files[0]).parent.is_dir()]
    return [*there, *partly, candidates[0]][0]
