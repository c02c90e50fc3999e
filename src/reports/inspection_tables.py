"""Tables of the findings of an inspection, for the terminal and for the page alike.

Letters: M boxes that training uses, at the size at which the network gets them; S of them, in sampled images;
K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from reports.tables import Table

OWN = "this model"
"""Start of the names of the chosen model's anchors and assignments, among those of other detectors."""
RECALL_IOU = 0.5
SIZE_EDGES = (0, 8, 16, 32, 64, 128, 256, 512)
"""Square roots of areas, in pixels of the network's input."""
POOR_RECALL, GAIN = 0.95, 0.01
"""A recall below the first is advised on, with what raises it by the second; so is a share of boxes without
locations from the second on, with what halves it."""


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """Numbers of images and boxes of a split."""

    role: str
    """`train` or `val`."""
    name: str
    images: int
    empty: int
    """Images without a counted box."""
    boxes: int
    """Boxes of the classes wanted; the fields below give those of them that are not counted."""
    crowd: int
    difficult: int
    small: int | None
    """Boxes with a side under `data.min_box`; None where they count."""
    others: int
    """Boxes of classes that `data.classes` excludes."""
    per_class: Int[np.ndarray, " K"]
    """Boxes that training uses, or that evaluation scores."""
    images_per_class: Int[np.ndarray, " K"]


@dataclass(frozen=True, eq=False)
class Repetition:
    """What repeat-factor sampling makes of the images to train on."""

    threshold: float
    images: int
    epoch: float
    """Images of an epoch, on average."""
    images_of_class: Int[np.ndarray, " K"]
    factors: Float[np.ndarray, " K"]
    epoch_of_class: Float[np.ndarray, " K"]
    """Images of an epoch that have the class, on average."""


@dataclass(frozen=True)
class Alternative:
    """Figures that another setting would give."""

    name: str
    recall: dict[str, float]
    """Recall by name of the anchors."""
    without_location: float | None
    """Share of boxes with no point of FCOS's finest level inside; None where it does not concern FCOS."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """How well the targets of the detectors cover the boxes of a split."""

    role: str
    extents: Float[np.ndarray, "M 2"]
    """(width, height)."""
    labels: Int[np.ndarray, " M"]
    locations: Int[np.ndarray, " M"]
    """Points of FCOS's finest level inside the box."""
    best_iou: dict[str, Float[np.ndarray, " M"]]
    """IoU of each box with its best anchor, by name of the anchors."""
    sample: Int[np.ndarray, " S"]
    """Boxes to which FCOS's locations were assigned: those of the sampled images."""
    unassigned: dict[str, Bool[np.ndarray, " S"]]
    """Boxes that no location is assigned to, by name of the assignment."""
    images: int
    """Images with boxes."""
    sampled_images: int
    level_ranges: Sequence[tuple[str, float, float]]
    """Name of each level of FCOS, and its range of the largest distance to a side."""
    alternatives: list[Alternative] = field(default_factory=list[Alternative])

    @property
    def is_of_fcos(self) -> bool:
        """Tells whether FCOS is the model that was chosen."""
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
    """All findings of an inspection."""

    class_names: Sequence[str]
    splits: list[SplitCounts]
    problems: list[str]
    """The first problems of each split, in words."""
    problem_counts: dict[str, int]
    """The number of all problems, by rule."""
    warnings: list[str]
    coverage: Coverage | None
    """None where no box can be trained on."""
    repetition: Repetition | None = None
    """None without `data.repeat_threshold`."""


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
    """Lists the classes, the commonest first."""
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


def repeat_table(repetition: Repetition, class_names: Sequence[str]) -> Table:
    """Lists the classes, those whose images are repeated most first."""
    columns = (repetition.images_of_class, repetition.factors, repetition.epoch_of_class.round(1))
    rows: list[list[object]] = [
        [class_names[label], *(column[label].item() for column in columns)]
        for label in np.argsort(-repetition.factors, kind="stable").tolist()
    ]
    return Table(["class", "images", "repeat factor", "images an epoch"], rows)


def repeat_text(repetition: Repetition) -> str:
    return (
        f"Repeat-factor sampling, data.repeat_threshold={repetition.threshold:g}: an epoch has "
        f"{repetition.epoch:,.0f} images in place of {repetition.images:,}"
    )


def level_table(coverage: Coverage) -> Table:
    rows: list[list[object]] = []
    for at, (name, low, high) in enumerate(coverage.level_ranges):
        inside = (coverage.reach > low) & (coverage.reach <= high)
        span = f"{low:g} to {high:g}" if at + 1 < len(coverage.level_ranges) else f"over {low:g}"
        rows.append([name, span, int(inside.sum()), float(inside.mean())])
    return Table(["level", "range in pixels", "boxes", "share"], rows, ("share",))


def location_table(coverage: Coverage) -> Table:
    """Lists by size the share of the sampled boxes that no location of FCOS is assigned to."""
    names = list(coverage.unassigned)
    rows: list[list[object]] = [
        [span, int(inside.sum()), *(float(none[inside].mean()) for none in coverage.unassigned.values())]
        for span, inside in _sizes(coverage.side[coverage.sample])
    ]
    return Table(["size", "boxes", *names], rows, tuple(names))


def size_table(coverage: Coverage) -> Table:
    """Lists by size the recall of each kind of anchors."""
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
    """Lists the classes, those with the lowest recall of the first anchors first."""
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
    """Suggests settings, of the alternatives that were computed, where targets cover the boxes badly.

    `of_model`: for the chosen model alone.
    """
    found: list[str] = []
    for name, recall in coverage.recall().items():
        if recall < POOR_RECALL and (name.startswith(OWN) or not of_model):
            better = [(a.recall[name], a.name) for a in coverage.alternatives if a.recall[name] >= recall + GAIN]
            better_settings = [
                f"{percent(share)} with {setting}" for share, setting in sorted(better, reverse=True)[:3]
            ]
            found.append(
                f"{name}: {percent(recall)} of the boxes have an anchor of IoU {RECALL_IOU} or more; "
                + (
                    f"it would be {'; '.join(better_settings)}."
                    if better_settings
                    else "none of the settings below raises it by a point."
                )
            )
    without = float((coverage.locations == 0).mean())
    if without >= GAIN and (coverage.is_of_fcos or not of_model):
        known = [(a.without_location, a.name) for a in coverage.alternatives if a.without_location is not None]
        better_settings = [
            f"{percent(share)} with {setting}" for share, setting in sorted(known) if share <= without / 2
        ]
        found.append(
            f"FCOS: {percent(without)} of the boxes hold no location of its finest level"
            + (f"; it would be {'; '.join(better_settings)}." if better_settings else ".")
        )
    return found


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _sizes(side: Float[np.ndarray, " n"]) -> list[tuple[str, Bool[np.ndarray, " n"]]]:
    """Finds the boxes between each two of `SIZE_EDGES`, where there are any, and at the end all of them."""
    found: list[tuple[str, Bool[np.ndarray, " n"]]] = []
    for low, high in zip(SIZE_EDGES, (*SIZE_EDGES[1:], np.inf), strict=True):
        inside = (side >= low) & (side < high)
        if inside.any():
            found.append((f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}", inside))
    return [*found, ("all", np.ones(len(side), bool))]


def _recalls(coverage: Coverage, inside: Bool[np.ndarray, " M"]) -> list[object]:
    return [float((best[inside] >= RECALL_IOU).mean()) for best in coverage.best_iou.values()]
