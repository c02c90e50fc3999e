"""What an inspection of a data set found, as tables for the terminal and for the page alike.

Letters: M boxes that training uses, at the size at which the network gets them; S of them, in sampled images;
K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

OWN = "this model"
"""Begins the name of what the chosen model matches boxes with, among those of other detectors."""
RECALL_IOU = 0.5
SIZE_EDGES = (0, 8, 16, 32, 64, 128, 256, 512)
"""Pixels of the network input, of the square root of a box's area."""
POOR_RECALL, GAIN = 0.95, 0.01
"""A recall below the first is advised on, with what raises it by the second; so is a share of boxes without
locations from the second on, with what halves it."""


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[object]]
    bars: tuple[str, ...] = ()
    """Columns of fractions of 1."""


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """What a split holds, in numbers of images and boxes."""

    role: str
    """`train` or `val`."""
    name: str
    images: int
    empty: int
    """Images without a counted box."""
    boxes: int
    """Of the classes wanted; the rest of the fields say which of them are not counted."""
    crowd: int
    difficult: int
    small: int | None
    """With a side under `data.min_box`; None where they count."""
    others: int
    """Boxes of classes that `data.classes` leaves out."""
    per_class: Int[np.ndarray, " K"]
    """Boxes that training uses, or that evaluation scores."""
    images_per_class: Int[np.ndarray, " K"]


@dataclass(frozen=True)
class Alternative:
    """What another setting would give."""

    name: str
    recall: dict[str, float]
    """By name of the anchors."""
    without_location: float | None
    """Share of boxes with no point of FCOS's finest level inside; None where it does not concern FCOS."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """How the targets of the detectors meet the boxes of a split."""

    role: str
    extents: Float[np.ndarray, "M 2"]
    """(width, height)."""
    labels: Int[np.ndarray, " M"]
    locations: Int[np.ndarray, " M"]
    """Points of FCOS's finest level inside the box."""
    best_iou: dict[str, Float[np.ndarray, " M"]]
    """With the best anchor, by name of the anchors."""
    sample: Int[np.ndarray, " S"]
    """Boxes to which FCOS's locations were assigned: those of the sampled images."""
    unassigned: dict[str, Bool[np.ndarray, " S"]]
    """Boxes that no location answers for, by name of the assignment."""
    images: int
    """With boxes."""
    sampled_images: int
    level_ranges: Sequence[tuple[str, float, float]]
    """Of FCOS's levels: name, and range of the largest distance to a side."""
    alternatives: list[Alternative] = field(default_factory=list[Alternative])

    @property
    def is_of_fcos(self) -> bool:
        """Whether FCOS is the model that was chosen."""
        return any(name.startswith(OWN) for name in self.unassigned)

    @cached_property
    def side(self) -> Float[np.ndarray, " M"]:
        """Square root of the area."""
        return np.sqrt(self.extents.prod(axis=1))

    @cached_property
    def reach(self) -> Float[np.ndarray, " M"]:
        """Largest distance from a box's centre to a side, by which FCOS chooses the level of its centre."""
        return self.extents.max(axis=1) / 2

    def recall(self) -> dict[str, float]:
        return {name: float((best >= RECALL_IOU).mean()) for name, best in self.best_iou.items()}


@dataclass(frozen=True, eq=False)
class Inspection:
    """All of it."""

    class_names: Sequence[str]
    splits: list[SplitCounts]
    problems: list[str]
    """The first ones of each split, in words."""
    problem_counts: dict[str, int]
    """Every problem, by rule."""
    warnings: list[str]
    coverage: Coverage | None
    """None where no box can be trained on."""


def split_table(inspection: Inspection) -> Table:
    columns = ["split", "images", "empty", "boxes", "counted", "crowd", "difficult", "too small", "other classes"]
    rows: list[list[object]] = [
        [f"{s.role}: {s.name}", s.images, s.empty, s.boxes, int(s.per_class.sum()), s.crowd, s.difficult, s.small,
         s.others]
        for s in inspection.splits
    ]  # fmt: skip
    return Table(columns, rows)


def problem_table(inspection: Inspection) -> Table:
    rows: list[list[object]] = [[rule, count] for rule, count in inspection.problem_counts.items()]
    return Table(["rule broken", "times"], rows)


def class_table(inspection: Inspection) -> Table:
    """The commonest class first."""
    splits = inspection.splits
    columns, counts = ["class"], []
    for split in splits:
        columns += [f"{split.role} boxes", f"share of {split.role}", f"{split.role} images"]
        counts.append(split.per_class)
    order = np.argsort(-counts[0], kind="stable")
    rows: list[list[object]] = []
    for label in order.tolist():
        row: list[object] = [inspection.class_names[label]]
        for split in splits:
            boxes = int(split.per_class[label])
            row += [boxes, boxes / max(1, int(split.per_class.sum())), int(split.images_per_class[label])]
        rows.append(row)
    return Table(columns, rows, tuple(column for column in columns if column.startswith("share")))


def level_table(coverage: Coverage) -> Table:
    rows: list[list[object]] = []
    for at, (name, low, high) in enumerate(coverage.level_ranges):
        inside = (coverage.reach > low) & (coverage.reach <= high)
        span = f"{low:g} to {high:g}" if at + 1 < len(coverage.level_ranges) else f"over {low:g}"
        rows.append([name, span, int(inside.sum()), float(inside.mean())])
    return Table(["level", "range in pixels", "boxes", "share"], rows, ("share",))


def location_table(coverage: Coverage) -> Table:
    """By size, the share of the sampled boxes that no location of FCOS answers for."""
    names = list(coverage.unassigned)
    rows: list[list[object]] = [
        [span, int(inside.sum()), *(float(none[inside].mean()) for none in coverage.unassigned.values())]
        for span, inside in _sizes(coverage.side[coverage.sample])
    ]
    return Table(["size", "boxes", *names], rows, tuple(names))


def size_table(coverage: Coverage) -> Table:
    """By size, the recall of each kind of anchors."""
    names = list(coverage.best_iou)
    rows: list[list[object]] = [
        [span, int(inside.sum()), *_recalls(coverage, inside)] for span, inside in _sizes(coverage.side)
    ]
    return Table(["size", "boxes", *names], rows, tuple(names))


def anchor_table(coverage: Coverage) -> Table:
    rows: list[list[object]] = [
        [name, float((best >= RECALL_IOU).mean()), float(best.mean())] for name, best in coverage.best_iou.items()
    ]
    return Table(["anchors", "recall at IoU 0.5", "mean best IoU"], rows, ("recall at IoU 0.5", "mean best IoU"))


def class_recall_table(coverage: Coverage, class_names: Sequence[str]) -> Table:
    """The worst class of the first anchors first."""
    names = list(coverage.best_iou)
    rows: list[list[object]] = []
    for label, name in enumerate(class_names):
        inside = coverage.labels == label
        if inside.any():
            side = round(float(np.median(coverage.side[inside])), 1)
            rows.append([name, int(inside.sum()), side, *_recalls(coverage, inside)])
    rows.sort(key=lambda row: row[3])  # pyright: ignore[reportArgumentType, reportCallIssue]
    return Table(["class", "boxes", "median size", *names], rows, tuple(names))


def alternative_table(coverage: Coverage) -> Table:
    names = list(coverage.best_iou)
    now = Alternative("as it is", coverage.recall(), float((coverage.locations == 0).mean()))
    rows: list[list[object]] = [
        [a.name, *(a.recall[name] for name in names), a.without_location] for a in (now, *coverage.alternatives)
    ]
    return Table(["setting", *names, "no P3 location inside"], rows, tuple(names))


def advice(coverage: Coverage, of_model: bool = False) -> list[str]:
    """What would help where targets meet the boxes badly, of the alternatives that were computed.

    `of_model`: for the chosen model alone.
    """
    found: list[str] = []
    for name, recall in coverage.recall().items():
        if recall < POOR_RECALL and (name.startswith(OWN) or not of_model):
            better = [(a.recall[name], a.name) for a in coverage.alternatives if a.recall[name] >= recall + GAIN]
            told = [f"{percent(share)} with {setting}" for share, setting in sorted(better, reverse=True)[:3]]
            found.append(
                f"{name}: {percent(recall)} of the boxes have an anchor of IoU {RECALL_IOU} or more; "
                + (f"it would be {'; '.join(told)}." if told else "none of the settings below raises it by a point.")
            )
    without = float((coverage.locations == 0).mean())
    if without >= GAIN and (coverage.is_of_fcos or not of_model):
        known = [(a.without_location, a.name) for a in coverage.alternatives if a.without_location is not None]
        told = [f"{percent(share)} with {setting}" for share, setting in sorted(known) if share <= without / 2]
        found.append(
            f"FCOS: {percent(without)} of the boxes hold no location of its finest level"
            + (f"; it would be {'; '.join(told)}." if told else ".")
        )
    return found


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _sizes(side: Float[np.ndarray, " n"]) -> list[tuple[str, Bool[np.ndarray, " n"]]]:
    """Which boxes fall between two of `SIZE_EDGES`, where some do, and at the end all of them."""
    found: list[tuple[str, Bool[np.ndarray, " n"]]] = []
    for low, high in zip(SIZE_EDGES, (*SIZE_EDGES[1:], np.inf), strict=True):
        inside = (side >= low) & (side < high)
        if inside.any():
            found.append((f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}", inside))
    return [*found, ("all", np.ones(len(side), bool))]


def _recalls(coverage: Coverage, inside: Bool[np.ndarray, " M"]) -> list[object]:
    return [float((best[inside] >= RECALL_IOU).mean()) for best in coverage.best_iou.values()]
