"""The page of an inspection: inspection.html."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import html, inspection_tables
from reports.drawing import class_color
from reports.html import COLORS
from reports.html_text import css
from reports.inspection_tables import Coverage, Inspection, Table, percent

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
    """`facts` are what the numbers depend on: the settings."""
    sections = [("", _summary(inspection, facts)), ("Problems", _problems(inspection))]
    if any(batches):
        sections.append(("Training batches", _batches(inspection, batches)))
    sections.append(("Classes", _table(inspection_tables.class_table(inspection), sortable=True)))
    if inspection.coverage is not None:
        sections += [
            ("Box sizes", _sizes(inspection.coverage)),
            ("Anchors", _anchors(inspection)),
            ("Aspect ratios", _ratios(inspection.coverage)),
        ]
    return html.page(f"Inspection of {root.name}", sections, str(root))


def _table(table: Table, sortable: bool = False) -> str:
    return html.table(table.columns, table.rows, table.bars, sortable)


def _summary(inspection: Inspection, facts: dict[str, str]) -> str:
    problems = sum(inspection.problem_counts.values())
    tiles = [("problems", f"{problems:,}", "see below" if problems else "none found")]
    tiles.append(("warnings", f"{len(inspection.warnings):,}", ""))
    for split in inspection.splits:
        remark = f"{int(split.per_class.sum()):,} boxes"
        tiles.append((f"{split.role} images", f"{split.images:,}", remark))
    tiles.append(("classes", f"{len(inspection.class_names):,}", ""))
    counted = "Counted are the boxes that training uses, and those that evaluation scores."
    content = html.tiles(tiles) + _table(inspection_tables.split_table(inspection)) + html.paragraph(counted, "muted")
    return content + html.facts(facts)


def _problems(inspection: Inspection) -> str:
    content = html.paragraph("No annotation and no image breaks a rule.")
    if total := sum(inspection.problem_counts.values()):
        listed = len(inspection.problems)
        shown = "".join(html.paragraph(problem) for problem in inspection.problems)
        summary = f"Each of them: {total:,}" if listed >= total else f"The first {listed:,} of {total:,}"
        content = _table(inspection_tables.problem_table(inspection)) + html.details(
            summary, shown, is_open=listed <= 20
        )
    if inspection.warnings:
        content += "<h3>Warnings</h3>" + "".join(html.paragraph(warning, "note") for warning in inspection.warnings)
    return content


def _batches(inspection: Inspection, batches: Sequence[Sequence[TrainingImage]]) -> str:
    content = html.paragraph(
        "As the network gets them: augmented, resized, and padded with black to the canvas of their batch. A click "
        "enlarges a picture and shows all its labels."
    )
    labels = Counter(label for batch in batches for image in batch for label in image.labels.tolist())
    content += html.legend(
        [
            (inspection.class_names[int(label)], css(class_color(int(label))), "")
            for label, _ in labels.most_common(_LEGEND)
        ]
    )
    for number, batch in enumerate(batches, 1):
        content += f"<h3>Batch {number}</h3>" + html.gallery([_picture(inspection, image) for image in batch])
    return content


def _picture(inspection: Inspection, image: TrainingImage) -> str:
    boxes = [
        html.Box((x1, y1, x2, y2), inspection.class_names[int(label)], class_color(int(label)))
        for (x1, y1, x2, y2), label in zip(image.boxes.tolist()[:_MAX_BOXES], image.labels.tolist(), strict=False)
    ]
    left = len(image.boxes) - len(boxes)
    caption = image.caption + (f"\n{left} more boxes are not drawn" if left else "")
    return html.picture(image.image, boxes, caption, _PICTURE, quality=75)


def _sizes(coverage: Coverage) -> str:
    intro = (
        f"Of the {coverage.role} split, in pixels of the network's input. FCOS assigns a location to a level by the "
        "largest of its distances to the sides of the box; counted here is that of the box's centre."
    )
    small = coverage.locations == 0
    none = (
        f"{int(small.sum()):,} of {len(small):,} boxes ({percent(float(small.mean()))}) hold no location "
        "of the finest level. More may be without one that is trained for them, because smaller boxes take all of "
        "theirs, or because they hold none of the level that their length asks for. By FCOS's assignment on "
        + (
            "all images"
            if coverage.sampled_images == coverage.images
            else f"a sample of {coverage.sampled_images:,} of {coverage.images:,} images with boxes (sample=null: all)"
        )
        + ", these shares of the boxes are without, by model.loss.center_sampling:"
    )
    return (
        html.paragraph(intro)
        + html.plots([html.figure(_level_plot(coverage)), _table(inspection_tables.level_table(coverage))])
        + html.paragraph(none)
        + _table(inspection_tables.location_table(coverage))
    )


def _anchors(inspection: Inspection) -> str:
    coverage = inspection.coverage
    assert coverage is not None
    intro = (
        "Recall is the share of boxes that overlap some anchor with an IoU of 0.5 or more, over the whole grid of "
        "anchors of the image's own canvas; a detector with these anchors learns the other boxes badly or not at all. "
        "They are each detector's standard ones, and those of the model that was chosen, where it has any. Sizes are "
        "square roots of areas, in pixels of the network's input."
    )
    content = html.paragraph(intro) + _table(inspection_tables.anchor_table(coverage))
    content += html.plots([html.figure(_iou_plot(coverage)), html.figure(_recall_plot(coverage))])
    content += "<h3>By size</h3>" + _table(inspection_tables.size_table(coverage))
    content += "<h3>By class</h3>" + _table(
        inspection_tables.class_recall_table(coverage, inspection.class_names), sortable=True
    )
    content += "<h3>What other settings would give</h3>"
    told = inspection_tables.advice(coverage) or ["Nothing needs to be changed for the sake of targets."]
    content += "".join(html.paragraph(line, "note") for line in told)
    return content + _table(inspection_tables.alternative_table(coverage))


def _ratios(coverage: Coverage) -> str:
    width, height = coverage.extents.T
    tall, wide = (percent(float((a > _ELONGATED * b).mean())) for a, b in ((height, width), (width, height)))
    text = f"{tall} of the boxes are more than {_ELONGATED} times as high as wide, {wide} as wide as high."
    return html.plots([html.figure(_ratio_plot(coverage))]) + html.paragraph(text)


def _axes(label: str, height: float = 2.9) -> tuple[Figure, Axes]:
    plot = Figure(figsize=(4.6, height), layout="constrained")
    plot.set_label(label)
    axes = plot.subplots()
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return plot, axes


def _series(at: int) -> str:
    return COLORS[f"series{at + 1}"]


def _octaves(axes: Axes, low: int, high: int) -> None:
    """A logarithmic axis from 2^low to 2^high, with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(2.0**low, 2.0**high)
    axes.set_xticks([2.0**at for at in range(low, high + 1)], [f"{2.0**at:g}" for at in range(low, high + 1)])
    axes.minorticks_off()


def _quarters(low: int, high: int) -> list[float]:
    """Edges from 2^low to 2^high, four to an octave."""
    return [2.0 ** (at / 4) for at in range(4 * low, 4 * high + 1)]


def _level_plot(coverage: Coverage) -> Figure:
    plot, axes = _axes("histogram of box sizes against FCOS's levels", 3.1)
    low, high = 1, 10
    reach = coverage.reach.clip(2.0**low, 2.0**high * 0.999)
    axes.hist(reach, bins=_quarters(low, high), color=_series(0))
    _octaves(axes, low, high)
    for at, (name, start, end) in enumerate(coverage.level_ranges):
        start, end = max(start, 2.0**low), min(end, 2.0**high)
        if at % 2 == 0:
            axes.axvspan(start, end, color=COLORS["muted"], alpha=0.16, linewidth=0, zorder=0)
        axes.text(np.sqrt(start * end), 1.02, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=9)
    axes.set_xlabel("largest distance from the centre to a side, pixels", fontsize=9)
    axes.set_ylabel("boxes", fontsize=9)
    return plot


def _iou_plot(coverage: Coverage) -> Figure:
    plot, axes = _axes("share of boxes against the IoU of their best anchor")
    thresholds = np.linspace(0, 1, 101)
    for at, (name, best) in enumerate(coverage.best_iou.items()):
        below = np.searchsorted(np.sort(best), thresholds, side="left")
        axes.plot(thresholds, 1 - below / len(best), color=_series(at), label=name)
    axes.axvline(inspection_tables.RECALL_IOU, color=COLORS["muted"], linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1.03))
    axes.set_xlabel("IoU with the best anchor, at least", fontsize=9)
    axes.set_ylabel("share of boxes", fontsize=9)
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return plot


def _recall_plot(coverage: Coverage) -> Figure:
    plot, axes = _axes("recall of anchors against box size")
    table = inspection_tables.size_table(coverage)
    sizes = [str(row[0]).replace(" to ", "-") for row in table.rows[:-1]]
    for at, name in enumerate(coverage.best_iou):
        values = [row[table.columns.index(name)] for row in table.rows[:-1]]
        axes.plot(sizes, values, color=_series(at), marker="o", markersize=4, label=name)  # pyright: ignore[reportArgumentType]
    axes.set_ylim(0, 1.03)
    axes.tick_params(axis="x", rotation=35)
    axes.set_xlabel("size of the box, pixels", fontsize=9)
    axes.set_ylabel("recall at IoU 0.5", fontsize=9)
    return plot


def _ratio_plot(coverage: Coverage) -> Figure:
    plot, axes = _axes("histogram of aspect ratios")
    ratios = (coverage.extents[:, 1] / coverage.extents[:, 0]).clip(2**-3.99, 2**3.99)
    axes.hist(ratios, bins=_quarters(-4, 4), color=_series(0))
    axes.set_xscale("log", base=2)
    ticks = {1 / 16: "1/16", 1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2", 1: "1", 2: "2", 4: "4", 8: "8", 16: "16"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    for ratio in (0.5, 1, 2):
        axes.axvline(ratio, color=COLORS["series2"], linewidth=0.9, linestyle=":")
    axes.set_xlabel("height / width; dotted: the anchors' ratios", fontsize=9)
    axes.set_ylabel("boxes", fontsize=9)
    return plot
