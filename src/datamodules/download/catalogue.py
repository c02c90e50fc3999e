"""Data sets that can be downloaded: their archives, and what is in `data.root` once these are unpacked.

COCO publishes no checksums; those here are the ones of TensorFlow Datasets (`url_checksums/coco.txt`). Those of Pascal
VOC are torchvision's (`torchvision/datasets/voc.py`), that of minival is MLPerf's (`hashes.md5`); VOC in
COCO's format has none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datamodules.download.transfer import Digest

_COCO = "http://images.cocodataset.org/"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/"
_JSON_SHRINKS = 4  # annotations_trainval2017.zip to less than a third, and some room


def _as_it_is(member: str) -> str:
    return member


def _without_devkit(member: str) -> str:
    """VOC's archives have all in a folder VOCdevkit, which `data.root` is."""
    return member.removeprefix("VOCdevkit/")


def _to_annotations(member: str) -> str | None:
    path = PurePosixPath(member)
    return f"annotations/{path.name}" if path.suffix == ".json" and not path.name.startswith(".") else None


def _to_years(member: str) -> str | None:
    found = re.search(r"(?:^|/)(pascal_[a-z]+(20\d\d)\.json)$", member)
    return f"VOC{found[2]}/Annotations/{found[1]}" if found else None


@dataclass(frozen=True)
class Archive:
    """A file to download, and how one sees that it was unpacked; paths are relative to `data.root`."""

    url: str
    size: int | None
    """Bytes; None where they are not published."""
    digest: Digest | None
    """None where none is published."""
    files: tuple[str, ...] = ()
    folders: tuple[tuple[str, int], ...] = ()
    """Folders, with the number of files that they hold at least."""
    lists: tuple[str, ...] = ()
    """Lists of VOC's layout, all of whose images and XML are there."""
    place: Callable[[str], str | None] = _as_it_is
    """Where a member of the archive goes; None: nowhere."""
    growth: int = 1
    """Bytes unpacked for each byte of the archive, at most."""
    about: int = 0
    """Bytes, where `size` isn't known."""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def bytes(self) -> int:
        return self.size or self.about

    def is_unpacked(self, root: Path) -> bool:
        """Whether everything that is read from the archive is in `root`, however it came there."""
        return (
            all((root / file).is_file() for file in self.files)
            and all(len(_names(root / folder)) >= number for folder, number in self.folders)
            and all(_is_whole(root / file) for file in self.lists)
        )


def _names(folder: Path) -> set[str]:
    try:
        return {file.name for file in folder.iterdir()}
    except OSError:
        return set()


def _is_whole(listed: Path) -> bool:
    if not listed.is_file():
        return False
    home, stems = listed.parents[2], listed.read_text().split()
    images, annotations = _names(home / "JPEGImages"), _names(home / "Annotations")
    return all(f"{stem}.jpg" in images and f"{stem}.xml" in annotations for stem in stems)


@dataclass(frozen=True)
class Part:
    """What one downloads of a data set at a time."""

    archives: tuple[Archive, ...]
    splits: tuple[str, ...]
    """Names in `named_splits.SPLITS` that it serves."""
    by_default: bool = True


DataSet = dict[str, Part]


def _coco_images(split: str, size: int, sha256: str, number: int) -> Archive:
    return Archive(f"{_COCO}zips/{split}.zip", size, Digest("sha256", sha256), folders=((split, number),))


def _coco_annotations(name: str, size: int, sha256: str, *files: str) -> Archive:
    return Archive(
        f"{_COCO}annotations/{name}.zip", size, Digest("sha256", sha256),
        tuple(f"annotations/{file}.json" for file in files), growth=_JSON_SHRINKS,
    )  # fmt: skip


def _voc(year: int, name: str, about: int, md5: str, split: str) -> Archive:
    """Sizes are those of logs that people have published, so the sum decides."""
    listed = f"VOC{year}/ImageSets/Main/{split}.txt"
    url = f"{_VOC}voc{year}/{name}.tar"
    return Archive(url, None, Digest("md5", md5), lists=(listed,), place=_without_devkit, about=about)


_OF_2017 = _coco_annotations(
    "annotations_trainval2017", 252_907_541, "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    "instances_train2017", "instances_val2017",
)  # fmt: skip
_OF_TEST = _coco_annotations(
    "image_info_test2017", 1_144_034, "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
    "image_info_test2017", "image_info_test-dev2017",
)  # fmt: skip
_OF_2014 = _coco_annotations(
    "annotations_trainval2014", 252_872_794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    *(f"{kind}_{split}2014" for kind in ("instances", "person_keypoints") for split in ("train", "val")),
)  # fmt: skip
_TRAIN_2017 = _coco_images(
    "train2017", 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 118_287
)
_VAL_2017 = _coco_images(
    "val2017", 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 5_000
)
_TEST_2017 = _coco_images(
    "test2017", 6_646_970_404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba", 40_670
)
_TRAIN_2014 = _coco_images(
    "train2014", 13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775", 82_783
)
_VAL_2014 = _coco_images(
    "val2014", 6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0", 40_504
)
_MINIVAL = Archive(
    "https://dl.fbaipublicfiles.com/detectron/coco/coco_annotations_minival.tgz", None,
    Digest("md5", "2d2b9d2283adb5e3b8d25eec88e65064"),
    ("annotations/instances_minival2014.json", "annotations/instances_valminusminival2014.json"),
    place=_to_annotations, growth=_JSON_SHRINKS, about=75_000_000,
)  # fmt: skip
_TRAINVAL_2007 = _voc(
    2007, "VOCtrainval_06-Nov-2007", 460_032_000, "c52e279531787c972589f7e41ab4ae64", "trainval"
)  # fmt: skip
_TEST_2007 = _voc(2007, "VOCtest_06-Nov-2007", 451_020_800, "b6e924de25625d8de591ea690078ad9f", "test")
_TRAINVAL_2012 = _voc(2012, "VOCtrainval_11-May-2012", 1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd", "trainval")


def _of_2014(*splits: str) -> tuple[str, ...]:
    return tuple(f"{kind}coco_2014_{split}" for kind in ("", "keypoints_") for split in splits)


def _trainval(year: int) -> tuple[str, ...]:
    return tuple(f"voc_{year}_{split}" for split in ("train", "val", "trainval"))


_COCOSTYLE = Archive(
    "https://storage.googleapis.com/coco-dataset/external/PASCAL_VOC.zip", None, None,
    tuple(
        f"VOC{year}/Annotations/pascal_{split}{year}.json"
        for year, splits in ((2007, ("train", "val", "test")), (2012, ("train", "val")))
        for split in splits
    ),
    place=_to_years, growth=10, about=2_000_000,
)  # fmt: skip


def _cocostyle(year: int, *splits: str) -> tuple[str, ...]:
    return tuple(f"voc_{year}_{split}_cocostyle" for split in splits)


_VOC_2007: DataSet = {
    "trainval": Part((_TRAINVAL_2007,), _trainval(2007)),
    "test": Part((_TEST_2007,), ("voc_2007_test",)),
    "cocostyle": Part(
        (_TRAINVAL_2007, _TEST_2007, _COCOSTYLE), _cocostyle(2007, "train", "val", "test"), by_default=False
    ),
}
_VOC_2012: DataSet = {
    "trainval": Part((_TRAINVAL_2012,), _trainval(2012)),
    "cocostyle": Part((_TRAINVAL_2012, _COCOSTYLE), _cocostyle(2012, "train", "val"), by_default=False),
}

DATA_SETS: dict[str, DataSet] = {
    "coco2017": {
        "train": Part((_OF_2017, _TRAIN_2017), ("coco_2017_train",)),
        "val": Part((_OF_2017, _VAL_2017), ("coco_2017_val",)),
        "test": Part((_OF_TEST, _TEST_2017), ("coco_2017_test", "coco_2017_test_dev"), by_default=False),
    },
    "coco2014": {
        "train": Part((_OF_2014, _TRAIN_2014), _of_2014("train")),
        "val": Part((_OF_2014, _VAL_2014), _of_2014("val")),
        "minival": Part((_MINIVAL, _VAL_2014), _of_2014("minival", "valminusminival")),
    },
    "voc2007": _VOC_2007,
    "voc2012": _VOC_2012,
    "voc0712": {
        f"{key}{year}": part
        for year, parts in ((2007, _VOC_2007), (2012, _VOC_2012))
        for key, part in parts.items()
        if part.by_default
    },
}
"""Their names are those that `data=` takes."""


def command(split: str, root: Path) -> str | None:
    """Returns the command that downloads the data set of a named split; None where it can't be downloaded."""
    for name, parts in DATA_SETS.items():
        for key, part in parts.items():
            if split in part.splits:
                only = "" if part.by_default else f" --parts {key}"
                return f"python -m datamodules.download {name} --root {root}{only}"
    return None
