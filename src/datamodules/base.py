"""The data module that every data set shares: splits, loaders, truth, and the position in the stream."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.batch import Batch
from datamodules.checks import refuse_doubles, report, report_missing
from datamodules.dataset import DetectionDataset, Sample, collate, init_worker, read_batches
from datamodules.decoding import Decoding
from datamodules.errors import DataError
from datamodules.images import ImageError, decode
from datamodules.index import AnnotationIndex
from datamodules.loaders import Loader, Role, TrainLoader
from datamodules.records import Exif
from datamodules.sampler import EvalBatches, GlobalBatches, RankBatches
from datamodules.shared_blocks import shared_blocks
from datamodules.split import Split
from datamodules.survey import FileCheck, ImageFiles, Survey, other_classes
from datamodules.transforms import Augmentation, Resize, training_boxes
from evaluation.truth import Truth
from evaluation.wording import counted

_ROLES: dict[str | None, tuple[Role, ...]] = {
    "fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",),
    None: ("train", "val", "test"),
}  # fmt: skip
_CHOICES = {
    "empty_images": ("keep", "drop"), "on_error": ("raise", "skip"), "exif": ("auto", "apply", "ignore"),
    "rounding": ("long_down", "down", "nearest"), "interpolation": ("area", "bilinear", "antialias"),
}  # fmt: skip
_HOLD_OUT_STREAM = 2  # keeps the draw of `val_fraction` apart from that of the epochs


@dataclass(kw_only=True, eq=False, repr=False)
class DetectionDataModule(pl.LightningDataModule, ABC):
    """A data set without a source of annotations, which `open_index` and `choose_classes` add."""

    train_split: str
    val_split: str
    test_split: str | None
    num_classes: int
    classes: Sequence[str] | None = None
    resize: int = 800
    rule: Literal["short_side", "square"] = "short_side"
    max_side: int | None = None
    rounding: Literal["long_down", "down", "nearest"] = "long_down"
    interpolation: Literal["area", "bilinear", "antialias"] = "area"
    multi_scale: Sequence[float] | None = None
    flip: float = 0.5
    vertical_flip: float = 0.0
    augmentations: Mapping[str, Any] | None = None
    min_visibility: float = 0.0
    min_area: float = 0.0
    batch_size: int = 16
    eval_batch_size: int = 4
    empty_images: Literal["keep", "drop"] = "keep"
    min_box: float = 1.0
    val_fraction: float | None = None
    exif: Exif = "auto"
    value_range: Sequence[float] | None = None
    on_error: Literal["raise", "skip"] = "raise"
    check_boxes: bool = True
    """Refuse boxes that are no pixels and splits without any, and ask about boxes that are likely of another form."""
    num_workers: int = 2
    cache_dir: str | None = None
    seed: int = 0
    use_difficult: bool = field(default=False, init=False)
    metrics: ClassVar[tuple[Literal["coco", "voc", "classification"], ...]] = ("coco",)
    """Groups of metrics that an evaluation computes, that of the main metric first."""
    whole_images: ClassVar[bool] = False
    """The data set has a class for each image, and no boxes."""
    makes_root: ClassVar[bool] = False
    """`root` needn't exist: `prepare_data` makes it."""
    rules: ClassVar[tuple[str, ...]] = ("short_side", "square")

    def __post_init__(self) -> None:
        super().__init__()
        for key, choices in {"rule": self.rules, **_CHOICES}.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"data.{key}={getattr(self, key)!r}: expected {' or '.join(choices)}")
        for key, least in (("resize", 1), ("batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"data.{key}={getattr(self, key)}: expected {least} or more")
        if self.max_side is not None and self.max_side < self.resize:
            raise ValueError(f"data.max_side={self.max_side}: expected data.resize={self.resize} or more, or null")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"data.val_fraction={self.val_fraction}: expected a number between 0 and 1, or null")
        scale = self.multi_scale
        if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
            raise ValueError(f"data.multi_scale={list(scale)}: expected [smallest, largest] factor, or null")
        try:
            Decoding.of(self.exif, self.value_range)
        except ValueError as error:
            raise ValueError(f"data.value_range={list(self.value_range or ())}: {error}") from error
        if not 0 <= self.min_visibility <= 1 or self.min_area < 0:
            raise ValueError(
                f"data.min_visibility={self.min_visibility}, data.min_area={self.min_area}: expected a share from 0 to "
                "1, and 0 or more pixels"
            )
        self._splits: dict[Role, Split] = {}
        self._class_names: tuple[str, ...] = ()
        self._category_ids: tuple[int, ...] = ()

    @abstractmethod
    def open_index(self, split: str) -> AnnotationIndex:
        """Returns the index of one split, or of several joined with "+"."""

    @abstractmethod
    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        """Returns names in the order of their labels, and the number that the data set gives each."""

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        """Says on a line of its own where a missing image file of a split lies instead; empty where it isn't known."""
        return ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of their labels; known once a split is set up."""
        return self._class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        return self._category_ids

    @property
    def test_list(self) -> str | None:
        """The split to test on; None where there is none, or only the one that training and validation part."""
        return None if self.val_fraction is not None and self.test_split == self.train_split else self.test_split

    @property
    def test_is_val(self) -> bool:
        """Whether `test` would score what `val` scores; it needn't be run then."""
        return self.test_list is None or (self.val_fraction is None and self.test_list == self.val_split)

    @property
    def exif_meaning(self) -> Literal["apply", "ignore"]:
        """What is done about EXIF orientations where an annotated size does not tell: `exif`, for `auto` what the
        training split tells, or the first that is set up."""
        if self.exif != "auto":
            return self.exif
        splits = [self._splits[role] for role in _ROLES[None] if role in self._splits]
        return splits[0].index.findings.exif if splits else "apply"

    def _decoding(self, index: AnnotationIndex) -> Decoding:
        return Decoding.of(self.exif, self.value_range, index.findings.exif)

    @cached_property
    def resize_rule(self) -> Resize:
        return Resize(self.rule, self.resize, self.max_side, self.rounding, self.interpolation)

    @property
    def rule_name(self) -> str:
        """The resize rule with its number, to label results with."""
        if self.rule == "square":
            return f"square {self.resize}"
        return f"short_side {self.resize} (long side at most {self.resize_rule.cap})"

    def setup(self, stage: str | None = None) -> None:
        for role in _ROLES.get(stage, ()):
            known = len(self._splits)
            split = self._split(role)
            if self.on_error == "skip" and len(self._splits) > known:
                self._refuse_unreadable(split)

    def _split(self, role: Role) -> Split:
        if role == "test" and self.test_is_val:
            role = "val"
        if role not in self._splits:
            self._splits[role] = self._open(role)
        return self._splits[role]

    def _open(self, role: Role) -> Split:
        held_out = role == "val" and self.val_fraction is not None
        name = {"train": self.train_split, "val": self.val_split, "test": self.test_split}[role] or ""
        name = self.train_split if held_out else name
        shared = self._splits.get("train") if held_out else None
        index = shared.index if shared else self._open_index(role, name)
        if not shared:
            report(name, index.findings, self.on_error, self.check_boxes, self.explain_missing)
        rows = np.arange(len(index))
        split = Split(name, index, rows, self._map_classes(name, index), self.min_box, self.use_difficult)
        if role != "test" and self.val_fraction is not None:
            number = min(max(1, round(len(rows) * self.val_fraction)), len(rows) - 1)
            shuffled = np.random.default_rng((self.seed, _HOLD_OUT_STREAM)).permutation(rows)
            rows = np.sort(shuffled[:number] if held_out else shuffled[number:])
        if len(rows):
            self._ask_for_boxes(role, split.part(rows))
        if role == "train" and self.empty_images == "drop":
            used = split.training_boxes()[1]
            rows = rows[np.bincount(index.image_index()[used], minlength=len(index))[rows] > 0]
        if not len(rows):
            settings = f"data.empty_images={self.empty_images}, data.val_fraction={self.val_fraction}"
            reason = f"it lists {counted(len(index), 'image')}, of which none is left with {settings}"
            raise DataError(f"data.{role}_split={name!r} is empty: {reason if len(index) else 'it lists no image'}")
        missing = [index.image_path(row) for row in index.missing(rows)]
        report_missing(name, missing, len(rows), self.on_error, self.explain_missing)
        if role != "train":
            refuse_doubles(name, index.image_ids(rows))
        return split.part(rows)

    def _open_index(self, role: Role, name: str) -> AnnotationIndex:
        try:
            return self.open_index(name)
        except DataError as error:
            if role != "test":
                raise
            first, *others = str(error).split("\n")
            first += ". Where there is no list to test on, set data.test_split=null"
            raise DataError("\n".join([first, *others])) from error

    def _refuse_unreadable(self, split: Split) -> None:
        """DataError where every image of a split would be skipped; as a rule the first one tells that it is not so."""
        first: ImageError | None = None
        for row in split.rows.tolist():
            try:
                self._picture(split.index, row)
                return
            except ImageError as error:
                first = first or error
        raise DataError(
            f"no image of split {split.name!r} can be read, with data.on_error=skip none is left; {first}"
        ) from first

    def _map_classes(self, name: str, index: AnnotationIndex) -> np.ndarray:
        """Returns the label of each class of the index."""
        names, numbers = self.choose_classes(index)
        if len(set(names)) < len(names):
            raise DataError(f"data.classes names a class twice: {names}")
        if len(names) != self.num_classes:
            chosen = None if self.classes is None else names
            spare = f", of which {', '.join(map(repr, index.spare))} only groups the others" if index.spare else ""
            raise DataError(
                f"data.num_classes={self.num_classes}, but split {name!r} has "
                f"{counted(len(index.class_names), 'class', 'classes')}{spare}, and "
                f"data.classes={chosen}; set data.num_classes={len(names)}, or name the classes to use in "
                f"data.classes. They are {list(index.class_names)}"
            )
        if not self._class_names:
            self._class_names, self._category_ids = tuple(names), tuple(numbers)
        if set(names) != set(self._class_names):
            raise DataError(
                f"split {name!r} has classes {names}, but another split has {list(self._class_names)}; name "
                "the ones to use in data.classes"
            )
        for passed in self._passed_over(index):
            rank_zero_warn(f"split {name!r}, {passed}")
        labels = {name: label for label, name in enumerate(self._class_names)}
        return np.array([labels.get(name, -1) for name in index.class_names], np.int64)

    def _passed_over(self, index: AnnotationIndex) -> list[str]:
        return [
            f"passed over: category {name!r}, which is the supercategory of all others, and which no annotation has"
            for name in index.spare
            if self.classes is None and name not in self._class_names
        ]

    def _ask_for_boxes(self, role: Role, split: Split) -> None:
        if not self.check_boxes or (why := split.without_box(role)) is None:
            return
        if role == "train":
            raise DataError(f"split {split.name!r} has no box to train on: {why}")
        rank_zero_warn(f"the {role} split {split.name!r} has no box to score, so that AP has no value: {why}")

    def truth(self, split: str) -> Truth:
        """Returns every annotation of "train", "val" or "test" in original pixels, whatever training does with it."""
        return self._split(_role(split)).truth(self.class_names, self.category_ids, "voc" in self.metrics)

    def image(self, split: str, image_id: int | str) -> np.ndarray:
        """Reads a picture as evaluation sees it, RGB uint8 (h, w, 3) in original size; ImageError as `decode`."""
        part = self._split(_role(split))
        place = np.flatnonzero(part.index.image_ids(part.rows) == image_id)
        if not len(place):
            raise ValueError(f"the {split} split {part.name!r} has no image of id {image_id!r}")
        return self._picture(part.index, int(part.rows[place[0]]))

    def _picture(self, index: AnnotationIndex, row: int) -> np.ndarray:
        height, width = index.sizes[row].tolist()
        return decode(index.image_path(row), (height, width), self._decoding(index))

    def survey(self, split: str) -> Survey:
        """Returns what inspect_data.py shows of a split."""
        part, truth = self._split(_role(split)), self.truth(split)
        excluded = truth.crowd | (truth.difficult & (not self.use_difficult))
        sizes = truth.sizes[truth.image_index]
        boxes, used = training_boxes(truth.boxes, truth.labels, excluded, sizes, self.min_box)
        paths = [part.index.image_path(row) for row in part.rows.tolist()]
        missing = np.flatnonzero(np.isin(part.rows, part.index.missing(part.rows))).tolist()
        return Survey(
            part.name, truth, paths, boxes, used, other_classes(part.index, part.rows, part.class_map),
            part.index.findings, missing,
            [f"{part.name}, {note}" for note in (*part.index.findings.notes, *self._passed_over(part.index))],
            part.without_box(_role(split)),
            self.explain_missing(part.name, [paths[at] for at in missing]).strip() if missing else "",
        )  # fmt: skip

    def image_files(self, split: str) -> DataLoader[FileCheck]:
        """Reads every image file of a split; gives lists of `FileCheck`."""
        part = self._split(_role(split))
        return DataLoader(
            ImageFiles(part.index, part.rows, self._decoding(part.index)), batch_size=16, num_workers=self.num_workers,
            collate_fn=list, worker_init_fn=init_worker,
        )  # fmt: skip

    @property
    def problems(self) -> list[str]:
        """Annotations that were skipped, in every split set up so far."""
        found = (line for split in self._splits.values() for line in split.index.findings.problems)
        return list(dict.fromkeys(found))

    @property
    def problem_counts(self) -> dict[str, int]:
        """Numbers of all problems by rule; `problems` lists the first."""
        indexes = {split.index.path: split.index for split in self._splits.values()}
        return dict(sum((index.findings.counts for index in indexes.values()), Counter[str]()))

    def describe(self) -> str:
        """Describes each split in a line: what is in it, and what training does not use; then what is doubtful."""
        found = [doubt for split in self._splits.values() for doubt in split.index.findings.doubts]
        doubts = list(dict.fromkeys(found)) if self.check_boxes else []
        return "\n".join([*(self._describe(role, split) for role, split in self._splits.items()), *doubts])

    def _describe(self, role: Role, split: Split) -> str:
        return split.describe(role, self.num_classes, self.rule_name)

    def train_dataloader(self) -> TrainLoader:
        split = self._split("train")
        scale = None if self.multi_scale is None else (float(self.multi_scale[0]), float(self.multi_scale[1]))
        rank, world_size = self._rank()
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        batches = GlobalBatches(
            split.rows, split.index.sizes[split.rows], self.resize_rule, self.batch_size, self.seed, scale,
            self._augmentation().turns,
        )  # fmt: skip
        return TrainLoader(
            self, self._dataset(split, training=True), RankBatches(batches, rank, world_size, accumulate),
            self._progress, **self._loader_options(self.batch_size // (world_size * accumulate)),
        )  # fmt: skip

    def val_dataloader(self) -> Loader:
        return self._eval_loader("val")

    def test_dataloader(self) -> Loader:
        return self._eval_loader("test")

    def predict_dataloader(self) -> Loader:
        """Gives the images that `test_dataloader` gives."""
        return self._eval_loader("test")

    def _eval_loader(self, role: Role) -> Loader:
        split = self._split(role)
        sizes = split.index.sizes[split.rows]
        batches = EvalBatches(split.rows, sizes, self.resize_rule, self.eval_batch_size, *self._rank())
        return Loader(self, role, self._dataset(split), batches, **self._loader_options(self.eval_batch_size))

    def single_images(self, split: str, places: Sequence[int]) -> Iterator[Batch]:
        """Reads images of a split, by their places in its truth, as evaluation does, one a batch and on any rank; skips
        those that can't be read."""
        part = self._split(_role(split))
        rows = part.rows[list(places)]
        keys = EvalBatches(rows, part.index.sizes[rows], self.resize_rule, 1)
        return read_batches(self._dataset(part), keys)

    def _dataset(self, split: Split, training: bool = False) -> Dataset[Sample]:
        return DetectionDataset(
            split.index, split.class_map, self.resize_rule, self.min_box, self.use_difficult,
            skip_errors=self.on_error == "skip", training=training, flip=self.flip,
            vertical_flip=self.vertical_flip,
            augmentation=self._augmentation() if training else Augmentation(None), decoding=self._decoding(split.index),
        )  # fmt: skip

    def _augmentation(self) -> Augmentation:
        return Augmentation(self.augmentations, self.min_visibility, self.min_area)

    def _loader_options(self, num_images: int) -> dict[str, Any]:
        shared = shared_blocks(self.num_workers, num_images * self.resize_rule.largest(self.multi_scale))
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "collate_fn": partial(collate, shared=shared),
            "worker_init_fn": init_worker,
            "pin_memory": on_cuda,
            # An iterator draws a seed for its workers, which ours never use; not from torch's own generator.
            "generator": torch.Generator(),
        }

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _progress(self) -> tuple[int, int] | None:
        """Returns the epoch, and the micro-batches of it that are trained on; None outside of training.

        The epoch follows from the batches trained in all: with `max_steps`, Lightning 2.6 counts one epoch
        too many after resuming a checkpoint of `on_train_epoch_end`.
        """
        trainer = self.trainer
        if trainer is None or (trainer.state.fn, trainer.state.status) != ("fit", "running"):
            return None
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress  # pyright: ignore[reportAttributeAccessIssue]
        done = progress.current.processed
        return (progress.total.processed - done) // int(trainer.num_training_batches), done


def _role(split: str) -> Role:
    if split not in ("train", "val", "test"):
        raise ValueError(f"split {split!r}: expected train, val or test")
    return split
