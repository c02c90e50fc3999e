"""The checks of an inspection: problems of annotations and images, and warnings of what may not be intended."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from boxwright.inspect_data.terminal import with_bar
from datamodules.records import SEVERAL
from datamodules.repeats import repeat_factors
from datamodules.survey import Survey
from evaluation.truth import Truth
from evaluation.wording import counted
from reports.inspection_tables import Repetition, SplitCounts

_LISTED = 500  # problems of one rule on the page
UNREADABLE = "an image file can't be read as it is annotated"
NO_BOX = "there is no box to train on"
_DOUBTFUL = "the boxes of a file are likely of another form"


@dataclass
class Problems:
    """The problems, which make the inspection fail, and the warnings, which don't."""

    listed: list[str] = field(default_factory=list[str])
    """The first `_LISTED` of each rule, in words."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """The number of all problems, by rule."""
    warnings: list[str] = field(default_factory=list[str])

    def add(self, rule: str, text: str) -> None:
        self.counts[rule] += 1
        if self.counts[rule] <= _LISTED:
            self.listed.append(text)


def collect(survey: Survey, found: Problems, reads_images: bool, check_boxes: bool) -> None:
    """Adds what the reader of the annotations found; what it saw in some image files only if not all are read."""
    for text in [*survey.findings.refused, *survey.findings.doubts] if check_boxes else ():
        found.add(_DOUBTFUL, text)
    found.warnings += survey.notes
    found.listed += survey.findings.problems
    found.counts.update(survey.findings.counts)
    if survey.explained:
        found.warnings.append(f"{survey.name}, missing image files: {survey.explained}")
    if survey.findings.filled:
        filled = ", ".join(f"{key}, {counted(number, 'time')}" for key, number in survey.findings.filled.items())
        found.warnings.append(f"{survey.name}, keys that were missing and are filled in: {filled}")
    remarks = (line for line in survey.findings.remarks() if not (reads_images and line.startswith(SEVERAL)))
    found.warnings += [f"{survey.name}, {remark}" for remark in remarks]


def warn_of_boxes(role: str, survey: Survey, min_box: float, names: tuple[str, ...], found: Problems) -> None:
    """Warns of legal boxes that may not be intended: excluded by their class, one pixel wide, or annotated twice."""
    truth: Truth = survey.truth
    if survey.others:
        most = sorted(survey.others.items(), key=lambda item: -item[1][0])
        total = sum(count for _, (count, _) in most)
        listed = ", ".join(f"{name!r} {count} (the first in {path})" for name, (count, path) in most[:5])
        more = f", and of {len(most) - 5} more classes" if len(most) > 5 else ""
        found.warnings.append(f"{role}, boxes of classes that are not in data.classes: {total}; {listed}{more}")

    def examples(boxes: np.ndarray) -> str:
        some: list[str] = []
        for i in boxes[:5]:
            corners = ", ".join(f"{number:g}" for number in truth.boxes[i])
            some.append(f"{names[truth.labels[i]]} [{corners}] of image {truth.image_ids[truth.image_index[i]]}")
        return f"{len(boxes)}, xyxy {'; '.join(some)}{'; ...' if len(boxes) > len(some) else ''}"

    side = max(1.0, min_box)
    thin = np.flatnonzero((truth.boxes[:, 2:] - truth.boxes[:, :2]).min(axis=1, initial=np.inf) <= side)
    if len(thin):
        found.warnings.append(f"{role}, boxes at most {side:g} pixel wide or high: {examples(thin)}")
    small = np.flatnonzero(_too_small(survey))
    if role == "train" and len(small):
        found.warnings.append(
            f"{role}, boxes smaller than data.min_box={min_box:g}, which training does not use: {examples(small)}"
        )
    rows = np.column_stack([truth.image_index, truth.labels, truth.boxes])
    _, first = np.unique(rows, axis=0, return_index=True)
    twice = np.setdiff1d(np.arange(len(rows)), first)
    if len(twice):
        found.warnings.append(f"{role}, boxes that repeat another of their class exactly: {examples(twice)}")


def _too_small(survey: Survey) -> np.ndarray:
    truth: Truth = survey.truth
    return ~(survey.used | truth.crowd | truth.difficult)


def count(role: str, survey: Survey, num_classes: int) -> SplitCounts:
    """Counts images and boxes; training excludes crowds, difficult and small boxes, evaluation crowds and difficult."""
    truth: Truth = survey.truth
    small = _too_small(survey)
    counted = survey.used if role == "train" else ~(truth.crowd | truth.difficult)
    images, labels = truth.image_index[counted], truth.labels[counted]
    of_class = np.unique(images * num_classes + labels) % num_classes
    return SplitCounts(
        role=role,
        name=survey.name,
        images=len(truth.image_ids),
        empty=len(truth.image_ids) - len(np.unique(images)),
        boxes=len(truth.boxes),
        crowd=int(truth.crowd.sum()),
        difficult=int((truth.difficult & ~truth.crowd & ~counted).sum()),
        small=int(small.sum()) if role == "train" else None,
        others=sum(count for count, _ in survey.others.values()),
        per_class=np.bincount(labels, minlength=num_classes),
        images_per_class=np.bincount(of_class, minlength=num_classes),
    )


def repetition(survey: Survey, num_classes: int, threshold: float, drops_empty: bool) -> Repetition:
    """Computes what repeat-factor sampling makes of a training split, of which images without boxes may be dropped."""
    truth: Truth = survey.truth
    images, labels = truth.image_index[survey.used], truth.labels[survey.used]
    number = len(truth.image_ids)
    if drops_empty:
        kept, images = np.unique(images, return_inverse=True)
        number = len(kept)
    factors = repeat_factors(images, labels, number, num_classes, threshold)
    image_of, class_of = np.divmod(np.unique(images.astype(np.int64) * num_classes + labels), num_classes)
    return Repetition(
        threshold=threshold,
        images=number,
        epoch=float(factors.of_image.sum()),
        images_of_class=np.bincount(class_of, minlength=num_classes),
        factors=factors.of_class,
        epoch_of_class=np.bincount(class_of, factors.of_image[image_of], minlength=num_classes),
    )


def warn_of_classes(splits: list[SplitCounts], names: tuple[str, ...], found: Problems) -> None:
    for split in splits:
        absent = [name for name, count in zip(names, split.per_class.tolist(), strict=True) if not count]
        effect = "can't be learnt" if split.role == "train" else "have no AP"
        if 0 < len(absent) < len(names):  # where there is no box at all, that is a problem of its own
            found.warnings.append(
                f"{split.role}, classes without a box, which {effect}: {len(absent)}, {', '.join(absent)}"
            )


def read_images(module: Any, surveys: dict[str, Any], found: Problems) -> None:
    """Reads all images: an unreadable one is a problem; copies within a split, and of train in val, are warnings."""
    firsts: dict[str, dict[bytes, str]] = {}
    for role, survey in surveys.items():
        first = firsts[role] = dict[bytes, str]()
        deep, several = list[tuple[float, float]](), list[str]()
        copies, leaks = list[tuple[str, str]](), list[tuple[str, str]]()
        checks = itertools.chain.from_iterable(module.image_files(role))
        for check in with_bar(f"reading {role} images", checks, len(survey.paths)):
            path = survey.paths[check.row]
            if check.deep is not None:
                deep.append(check.deep)
            if check.several:
                several.append(path)
            if check.error is not None:
                found.add(UNREADABLE, f"{role}, {check.error}")
                continue
            if role == "val" and check.digest in firsts.get("train", {}):
                leaks.append((firsts["train"][check.digest], path))
            if first.setdefault(check.digest, path) != path:
                copies.append((first[check.digest], path))
        if several:
            found.warnings.append(f"{role}, {SEVERAL}: {len(several)}, first: {several[0]}")
        if deep and module.value_range is None:
            _warn_of_values(role, deep, found)
        for what, pairs in (
            ("images that are there more than once", copies),
            ("images that are in train as well, which makes its scores too high", leaks),
        ):
            if pairs:
                found.warnings.append(f"{role}, {what}: {_pairs(pairs, len(survey.paths))}")


def _warn_of_values(role: str, deep: list[tuple[float, float]], found: Problems) -> None:
    """Warns where images of 16 bits use at most half of their range, or numbers below 0."""
    low, high = min(low for low, _ in deep), max(high for _, high in deep)
    if low >= 0 and high - low > 2**15:
        return
    levels = (int(high) >> 8) - (int(low) >> 8) + 1
    effect = f"which become {levels} of 256 grey levels" if low >= 0 else "of which those below 0 come out bright"
    found.warnings.append(
        f"{role}, images of more than 8 bits: {len(deep)}, with numbers from {low:g} to {high:g}, {effect}; "
        f"data.value_range=[{low:g},{high:g}] makes all grey levels of them, and checkpoints keep it"
    )


def _pairs(copies: list[tuple[str, str]], number: int) -> str:
    pairs = "; ".join(a if a == b else f"{a} = {b}" for a, b in copies[:5])
    return f"{len(copies)} of {number}, {pairs}{'; ...' if len(copies) > 5 else ''}"
