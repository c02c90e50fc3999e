"""What a data set holds: its splits, their classes, truth and pictures, and what is odd about them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.checks import all_skipped, refuse_doubles, report, report_missing, with_sentence
from datamodules.dataset import init_worker
from datamodules.decoding import Decoding
from datamodules.errors import DataError
from datamodules.images import ImageError, decode
from datamodules.index import AnnotationIndex
from datamodules.layouts.layout import typed
from datamodules.loaders import Role, as_role
from datamodules.settings import DataSettings
from datamodules.split import Split
from datamodules.survey import FileCheck, ImageFiles, Survey, other_classes
from datamodules.transforms import Resize, training_boxes
from evaluation.truth import Truth
from evaluation.wording import counted

_ROLES: dict[str | None, tuple[Role, ...]] = {
    "fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",),
    None: ("train", "val", "test"),
}  # fmt: skip
_HOLD_OUT_STREAM = 2  # keeps the draw of `val_fraction` apart from that of the epochs
_UNLABELLED = (
    "Only the split to test on (data.test_split) can do without annotations: evaluate.py writes what a checkpoint "
    "finds on its images as a results file"
)


@dataclass(kw_only=True, eq=False, repr=False)
class DataSplits(DataSettings, ABC):
    """The splits of a data set; a subclass adds the source of annotations by `open_index` and `choose_classes`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._splits: dict[Role, Split] = {}
        self._class_names: tuple[str, ...] = ()
        self._category_ids: tuple[int, ...] = ()
        self._assumed: tuple[list[str], list[int]] = [], []

    @abstractmethod
    def open_index(self, split: str) -> AnnotationIndex:
        """Returns the index of one split, or of several joined with "+"."""

    @abstractmethod
    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        """Returns names in the order of their labels, and the number that the data set gives each."""

    def sources(self, split: str) -> list[str]:
        """Lists what a split is read from, for messages: files of annotations, lists of images or folders."""
        return []

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        """Says on a line of its own where a missing image file of a split lies instead; empty where it isn't known."""
        return ""

    def other_categories(self, index: AnnotationIndex) -> dict[int, str]:
        """Returns the categories of the annotations that are not among the classes: names by the data set's numbers."""
        return {}

    def scored_as_voc(self, split: str) -> bool:
        """Whether a split, or several joined with "+", also gets VOC's metrics, and its server's files."""
        return "voc" in self.metrics

    def results_file(self, split: str) -> str:
        """Returns what a server wants the results of a split without annotations to be called."""
        return "predictions.json"

    def assume_classes(self, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        """Gives the classes of a checkpoint to a split that lists images alone, and names none."""
        self._assumed = list(class_names), list(category_ids)

    def classes_of_others(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        """Returns the classes of the splits that are set up, else those assumed; DataError where none are known."""
        names, numbers = (list(self._class_names), list(self._category_ids)) if self._class_names else self._assumed
        if not names:
            raise DataError(f"{index.findings.unlabelled}. Set up a split with classes before it, or assume_classes")
        return names, numbers

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
        is_tested = role == "test"
        if is_tested and self.test_is_val:
            role = "val"
        if role not in self._splits:
            self._splits[role] = self._open(role, is_tested)
        return self._splits[role]

    def _open(self, role: Role, is_tested: bool) -> Split:
        held_out = role == "val" and self.val_fraction is not None
        name = {"train": self.train_split, "val": self.val_split, "test": self.test_split}[role] or ""
        name = self.train_split if held_out else name
        shared = self._splits.get("train") if held_out else None
        index = shared.index if shared else self._open_index(role, name)
        if index.findings.unlabelled and not is_tested:
            raise DataError(with_sentence(_UNLABELLED, index.findings.unlabelled))
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
            reason = "it lists no image"
            if len(index):
                reason = f"it lists {counted(len(index), 'image')}, of which none is left with {settings}"
            elif skipped := all_skipped(index.findings):
                reason = f"none of its images is left: {skipped}"
            key = f"data.{'train' if held_out else role}_split"
            raise DataError(f"{key}={name!r} is empty: {reason}{self.named(name)}; correct that, or give another {key}")
        missing = [index.image_path(row) for row in index.missing(rows)]
        report_missing(name, missing, len(rows), self.on_error, self.explain_missing)
        if role != "train":
            refuse_doubles(name, index.image_ids(rows))
        return split.part(rows)

    def named(self, name: str) -> str:
        """Names in brackets what a split is read from; empty where that is not known."""
        files = self.sources(name)
        return f" ({', '.join(files)})" if files else ""

    def _open_index(self, role: Role, name: str) -> AnnotationIndex:
        try:
            return self.open_index(name)
        except DataError as error:
            if role != "test":
                raise
            raise DataError(
                with_sentence("Where there is no list to test on, set data.test_split=null", str(error))
            ) from error

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
            once = typed({"classes": list(dict.fromkeys(names))})
            raise DataError(f"data.classes names a class twice: {names}; set {once}")
        if self.single_class is not None:
            self._class_names, self._category_ids = (self.single_class,), (1,)
            return np.array([0 if name in names else -1 for name in index.class_names], np.int64)
        if len(names) != self.num_classes:
            chosen = None if self.classes is None else names
            spare = f", of which {', '.join(map(repr, index.spare))} only groups the others" if index.spare else ""
            raise DataError(
                f"data.num_classes={self.num_classes}, but split {name!r}{self.named(name)} has "
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
            if self.classes is None and self.single_class is None and name not in self._class_names
        ]

    def _ask_for_boxes(self, role: Role, split: Split) -> None:
        if split.index.findings.unlabelled:
            rank_zero_warn(
                f"the test split {split.name!r} has no annotations, so that there is nothing to score; what is found "
                "on its images is written as a results file"
            )
            return
        if not self.check_boxes or (why := split.without_box(role)) is None:
            return
        if role == "train":
            raise DataError(f"split {split.name!r}{self.named(split.name)} has no box to train on: {why}")
        rank_zero_warn(f"the {role} split {split.name!r} has no box to score, so that AP has no value: {why}")

    def truth(self, split: str) -> Truth:
        """Returns every annotation of "train", "val" or "test" in original pixels, whatever training does with it."""
        part = self._split(as_role(split))
        if self.single_class is not None:
            return part.truth(self.class_names, self.category_ids, "voc" in self.metrics)
        own = dict(zip(*self.choose_classes(part.index), strict=True))  # another split's file may number them otherwise
        category_ids = tuple(own[name] for name in self.class_names)
        truth = part.truth(self.class_names, category_ids, self.scored_as_voc(part.name))
        return replace(
            truth, other_categories=self.other_categories(part.index), results_file=self.results_file(part.name)
        )

    def image(self, split: str, image_id: int | str) -> np.ndarray:
        """Reads a picture as evaluation sees it, RGB uint8 (h, w, 3) in original size; ImageError as `decode`."""
        part = self._split(as_role(split))
        place = np.flatnonzero(part.index.image_ids(part.rows) == image_id)
        if not len(place):
            raise ValueError(f"the {split} split {part.name!r} has no image of id {image_id!r}")
        return self._picture(part.index, int(part.rows[place[0]]))

    def _picture(self, index: AnnotationIndex, row: int) -> np.ndarray:
        height, width = index.sizes[row].tolist()
        return decode(index.image_path(row), (height, width), self._decoding(index))

    def survey(self, split: str) -> Survey:
        """Returns what inspect_data.py shows of a split."""
        part, truth = self._split(as_role(split)), self.truth(split)
        excluded = truth.crowd | (truth.difficult & (not self.use_difficult))
        sizes = truth.sizes[truth.image_index]
        boxes, used = training_boxes(truth.boxes, truth.labels, excluded, sizes, self.min_box)
        paths = [part.index.image_path(row) for row in part.rows.tolist()]
        missing = np.flatnonzero(np.isin(part.rows, part.index.missing(part.rows))).tolist()
        return Survey(
            part.name, truth, paths, boxes, used, other_classes(part.index, part.rows, part.class_map),
            part.index.findings, missing,
            [f"{part.name}, {note}" for note in (*part.index.findings.notes, *self._passed_over(part.index))],
            part.without_box(as_role(split)),
            self.explain_missing(part.name, [paths[at] for at in missing]).strip() if missing else "",
        )  # fmt: skip

    def image_files(self, split: str) -> DataLoader[FileCheck]:
        """Reads every image file of a split; gives lists of `FileCheck`."""
        part = self._split(as_role(split))
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
