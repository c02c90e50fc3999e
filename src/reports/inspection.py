"""The page of an inspection: inspection.html."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import inspection_tables
from reports.drawing import class_color
from reports.html import Legend, Tile, plot, render
from reports.html_pictures import Box, PictureView, picture
from reports.inspection_tables import Coverage, Inspection, percent
from reports.plots import empty
from reports.theme import PLACEHOLDERS as COLORS
from reports.theme import css, series

_MAX_BOXES = 100
"""Drawn on one picture: the page stays small where an image has thousands."""
_LEGEND = 30
"""Classes with a colour in the legend, the commonest."""
_ELONGATED = 3
_PICTURE = 440
"""Pixels of a picture's long side."""


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One image of a training batch, on its canvas."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "g 4"]
    labels: Int[np.ndarray, " g"]
    caption: str


def data_page(
    inspection: Inspection, batches: Sequence[Sequence[TrainingImage]], root: Path, facts: dict[str, str]
) -> str:
    """Writes the page; `facts` are the settings that the numbers depend on."""
    total, listed = sum(inspection.problem_counts.values()), len(inspection.problems)
    labels = Counter(label for batch in batches for image in batch for label in image.labels.tolist())
    return render(
        "inspection.html",
        title=f"Inspection of {root.name}",
        subtitle=str(root),
        tiles=_tiles(inspection),
        splits=inspection_tables.split_table(inspection),
        facts=facts,
        problems={
            "total": total,
            "rules": inspection_tables.problem_table(inspection),
            "summary": f"Each of them: {total:,}" if listed >= total else f"The first {listed:,} of {total:,}",
            "listed": inspection.problems,
        },
        warnings=inspection.warnings,
        batches=[[_picture(inspection, image) for image in batch] for batch in batches] if any(batches) else [],
        legend=[
            Legend(inspection.class_names[int(label)], css(class_color(int(label))))
            for label, _ in labels.most_common(_LEGEND)
        ],
        classes=inspection_tables.class_table(inspection),
        repetition=_repetition(inspection),
        coverage=None if inspection.coverage is None else _coverage(inspection.coverage, inspection.class_names),
    )


def _repetition(inspection: Inspection) -> dict[str, Any] | None:
    if (found := inspection.repetition) is None:
        return None
    table = inspection_tables.repeat_table(found, inspection.class_names)
    return {"text": inspection_tables.repeat_text(found), "classes": table}


def _tiles(inspection: Inspection) -> list[Tile]:
    problems = sum(inspection.problem_counts.values())
    return [
        Tile("problems", f"{problems:,}", "see below" if problems else "none found"),
        Tile("warnings", f"{len(inspection.warnings):,}", ""),
        *(
            Tile(f"{split.role} images", f"{split.images:,}", f"{int(split.per_class.sum()):,} boxes")
            for split in inspection.splits
        ),
        Tile("classes", f"{len(inspection.class_names):,}", ""),
    ]


def _picture(inspection: Inspection, image: TrainingImage) -> PictureView:
    boxes = [
        Box((x1, y1, x2, y2), inspection.class_names[int(label)], class_color(int(label)))
        for (x1, y1, x2, y2), label in zip(image.boxes.tolist()[:_MAX_BOXES], image.labels.tolist(), strict=False)
    ]
    hidden = len(image.boxes) - len(boxes)
    caption = image.caption + (f"\n{hidden} more boxes are not drawn" if hidden else "")
    return picture(image.image, boxes, caption, _PICTURE, quality=75)


def _coverage(coverage: Coverage, class_names: Sequence[str]) -> dict[str, Any]:
    """The texts, tables and plots of boxes, locations and anchors, by their names in the template."""
    return {
        "sizes_text": _sizes_text(coverage),
        "level_plot": plot(_level_plot(coverage)),
        "levels": inspection_tables.level_table(coverage),
        "locations_text": _locations_text(coverage),
        "locations": inspection_tables.location_table(coverage),
        "anchors": inspection_tables.anchor_table(coverage),
        "iou_plot": plot(_iou_plot(coverage)),
        "recall_plot": plot(_recall_plot(coverage)),
        "sizes": inspection_tables.size_table(coverage),
        "classes": inspection_tables.class_recall_table(coverage, class_names),
        "advice": inspection_tables.advice(coverage) or ["Nothing needs to be changed for the sake of targets."],
        "alternatives": inspection_tables.alternative_table(coverage),
        "ratio_plot": plot(_ratio_plot(coverage)),
        "ratios_text": _ratios_text(coverage),
    }


def _sizes_text(coverage: Coverage) -> str:
    return (
        f"Boxes of the {coverage.role} split, in pixels of the network's input. FCOS assigns a location to a level by "
        "the largest of its distances to the sides of the box; counted here is that of the box's centre."
    )


def _locations_text(coverage: Coverage) -> str:
    small = coverage.locations == 0
    if coverage.sampled_images == coverage.images:
        sample = "all images"
    else:
        sample = f"a sample of {coverage.sampled_images:,} of {coverage.images:,} images with boxes (sample=null: all)"
    return (
        f"{int(small.sum()):,} of {len(small):,} boxes ({percent(float(small.mean()))}) hold no location of the finest "
        "level. More may have none assigned to them, because smaller boxes take all of theirs, or because they hold "
        f"none of the level that their length asks for. By FCOS's assignment on {sample}, these shares of the boxes "
        "have no location, by model.loss.center_sampling:"
    )


def _ratios_text(coverage: Coverage) -> str:
    width, height = coverage.extents.T
    tall, wide = (percent(float((a > _ELONGATED * b).mean())) for a, b in ((height, width), (width, height)))
    return f"{tall} of the boxes are more than {_ELONGATED} times as high as wide, {wide} as wide as high."


def _octaves(axes: Axes, low: int, high: int) -> None:
    """Makes the axis logarithmic from 2^low to 2^high, with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(2.0**low, 2.0**high)
    axes.set_xticks([2.0**at for at in range(low, high + 1)], [f"{2.0**at:g}" for at in range(low, high + 1)])
    axes.minorticks_off()


def _quarters(low: int, high: int) -> list[float]:
    """Lists edges from 2^low to 2^high, four to an octave."""
    return [2.0 ** (at / 4) for at in range(4 * low, 4 * high + 1)]


def _level_plot(coverage: Coverage) -> Figure:
    x = "largest distance from the centre to a side, pixels"
    figure, axes = empty("histogram of box sizes against FCOS's levels", x, "boxes", 3.1)
    low, high = 1, 10
    reach = coverage.reach.clip(2.0**low, 2.0**high * 0.999)
    axes.hist(reach, bins=_quarters(low, high), color=COLORS["series1"])
    _octaves(axes, low, high)
    for at, (name, start, end) in enumerate(coverage.level_ranges):
        start, end = max(start, 2.0**low), min(end, 2.0**high)
        if at % 2 == 0:
            axes.axvspan(start, end, color=COLORS["muted"], alpha=0.16, linewidth=0, zorder=0)
        axes.text(np.sqrt(start * end), 1.02, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=9)
    return figure


def _iou_plot(coverage: Coverage) -> Figure:
    description = "share of boxes against the IoU of their best anchor"
    figure, axes = empty(description, "IoU with the best anchor, at least", "share of boxes")
    thresholds = np.linspace(0, 1, 101)
    for at, (name, best) in enumerate(coverage.best_iou.items()):
        below = np.searchsorted(np.sort(best), thresholds, side="left")
        axes.plot(thresholds, 1 - below / len(best), color=COLORS[series(at)], label=name)
    axes.axvline(inspection_tables.RECALL_IOU, color=COLORS["muted"], linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1.03))
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return figure


def _recall_plot(coverage: Coverage) -> Figure:
    figure, axes = empty("recall of anchors against box size", "size of the box, pixels", "recall at IoU 0.5")
    table = inspection_tables.size_table(coverage)
    sizes = [str(row[0]).replace(" to ", "-") for row in table.rows[:-1]]
    for at, name in enumerate(coverage.best_iou):
        values = [row[table.columns.index(name)] for row in table.rows[:-1]]
        axes.plot(sizes, values, color=COLORS[series(at)], marker="o", markersize=4, label=name)  # pyright: ignore[reportArgumentType]
    axes.set_ylim(0, 1.03)
    axes.tick_params(axis="x", rotation=35)
    return figure


def _ratio_plot(coverage: Coverage) -> Figure:
    figure, axes = empty("histogram of aspect ratios", "height / width; dotted: the anchors' ratios", "boxes")
    ratios = (coverage.extents[:, 1] / coverage.extents[:, 0]).clip(2**-3.99, 2**3.99)
    axes.hist(ratios, bins=_quarters(-4, 4), color=COLORS["series1"])
    axes.set_xscale("log", base=2)
    ticks = {1 / 16: "1/16", 1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2", 1: "1", 2: "2", 4: "4", 8: "8", 16: "16"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    for ratio in (0.5, 1, 2):
        axes.axvline(ratio, color=COLORS["series2"], linewidth=0.9, linestyle=":")
    return figure
