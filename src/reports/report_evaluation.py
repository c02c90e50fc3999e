"""The parts of the report that look into an evaluation: classes, curves, confusions, pictures."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from evaluation.analysis import KINDS, Analysis
from evaluation.confusions import Confusion
from evaluation.curves import RECALLS, Curve
from reports import plots
from reports.drawing import class_color
from reports.html import figure, legend, matrix, paragraph, table
from reports.html import plots as side_by_side
from reports.html_pictures import Box, gallery, lost_picture, picture
from reports.html_text import css, escape

MAX_BYTES = 4_800_000
"""Of a page: it goes through most mail."""
_FEW = 10
"""Classes that can be told apart as lines of one plot."""
_CELLS = 20
"""Classes that a matrix of numbers has room for."""
_ROWS, _SMALL_CURVES = 1500, 120
"""Classes that are listed, and that have a small curve; of more, those with the most objects."""
_BOXES = 200
"""Boxes drawn on a picture at most, of either kind."""
_SIZES = ((1.0, 640, 80), (1.0, 480, 76), (0.5, 420, 72), (0.25, 320, 65))
"""Of the pictures: the part of their number, the long side in pixels, JPEG's quality; until they find room."""


def per_class(analysis: Analysis) -> str:
    names, rows = analysis.truth.class_names, analysis.metrics.per_class
    voc = [key for key in ("AP_voc07", "AP_voc") if any(key in row for row in rows.values())]
    columns = ["class", "AP", "AP50", *({"AP_voc07": "VOC07", "AP_voc": "VOC"}[key] for key in voc), "objects"]
    labels = _frequent(analysis, range(len(names)), _ROWS)
    cells: list[list[object]] = []
    for label in labels:
        row = rows[names[label]]
        values = [row[key] if row[key] >= 0 else None for key in ("AP", "AP50", *voc)]
        cells.append([names[label], *values, int(row["num_objects"])])
    remark = f"The {_ROWS:,} of {len(names):,} classes with most objects." if len(labels) < len(names) else ""
    return table(columns, cells, ["AP", "AP50"]) + (paragraph(remark, "muted") if remark else "")


def _frequent(analysis: Analysis, labels: Iterable[int], count: int) -> list[int]:
    """Those with the most objects, in the order of their labels."""
    objects = np.bincount(analysis.truth.labels, minlength=len(analysis.truth.class_names))
    return sorted(sorted(labels, key=lambda label: -objects[label])[:count])


def precision_and_recall(analysis: Analysis) -> str:
    """Curves at IoU 0.5 and the best-F1 threshold of each class: few classes as lines, many as bands."""
    names = analysis.truth.class_names
    curves = {label: analysis.metrics.curves[name] for label, name in enumerate(names)}
    present = {label: curve for label, curve in curves.items() if (curve.precision >= 0).all()}
    rows: list[list[object]] = []
    for label in _frequent(analysis, curves, _ROWS):
        best = curves[label].best
        found = best.f1 > 0
        values = [best.threshold if found else None, best.f1, best.precision, best.recall]
        rows.append([names[label], *(values if label in present else [None] * 4)])
    thresholds = table(["class", "threshold", "F1", "precision", "recall"], rows, ["F1"], tall=22)
    listed = f"<h3>Threshold with the best F1</h3>{thresholds}"
    if not present:
        return paragraph("No class has an object in this split.") + listed
    if len(names) <= _FEW:
        plot = plots.precision_recall(present, {label: css(class_color(label)) for label in present})
        html = figure(plot)
        for label in present:
            html = html.replace(css(class_color(label)), _themed(label))
        entries = [(names[label], _themed(label), "line") for label in present]
        drawn = f"<h3>Precision against recall at IoU 0.5</h3>{html}{legend(entries)}"
        return side_by_side([drawn + paragraph("A dot marks the best F1 of its class.", "muted"), listed])
    drawn = figure(plots.mean_precision_recall(list(present.values())))
    remark = paragraph(
        "The mean over the classes; half of them lie in the dark band, eight in ten in the light.", "muted"
    )
    beside = side_by_side([f"<h3>Precision against recall at IoU 0.5</h3>{drawn}{remark}", listed])
    shown = _frequent(analysis, present, _SMALL_CURVES)
    small = "".join(_small_curve(names[label], curves[label]) for label in shown)
    more = f", the {len(shown)} with most objects" if len(shown) < len(present) else ""
    return beside + f'<h3>Each class{more}: AP50, curve, best F1</h3><div class="small">{small}</div>'


def _small_curve(name: str, curve: Curve) -> str:
    """Recall from left to right, precision from bottom to top, like the large plot."""
    reached = int((curve.scores > 0).sum())
    points = [f"{100 * r:.0f},{60 - 56 * p:.1f}" for r, p in zip(RECALLS[:reached], curve.precision, strict=False)]
    if reached < len(RECALLS):
        points.append(f"{100 * RECALLS[max(reached - 1, 0)]:.0f},60")
    best = curve.best
    dot = f'<path class="dot" d="M{100 * best.recall:.1f} {60 - 56 * best.precision:.1f}h0"/>' if best.f1 > 0 else ""
    ap50 = float(np.maximum(curve.precision, 0).mean())
    return (
        f'<figure title="{escape(name)}"><svg viewBox="-3 0 106 64" preserveAspectRatio="none" role="img" '
        f'aria-label="precision against recall of {escape(name)}"><polyline points="{" ".join(points)}"/>{dot}</svg>'
        f"<figcaption><b>{ap50:.2f}</b> <bdi>{escape(name)}</bdi></figcaption></figure>"
    )


def confusion(analysis: Analysis) -> str:
    """At IoU 0.5, of the detections over their class's threshold."""
    counts, names = analysis.confusion, analysis.truth.class_names
    number = len(names)
    right, objects = int(np.trace(counts[:number, :number])), int(counts[:number].sum())
    other = int(counts[:number, :number].sum()) - right
    said = (
        f"Of {objects:,} objects {right:,} were detected as what they are, {other:,} as another class and "
        f"{objects - right - other:,} not at all; {int(counts[number].sum()):,} detections hit no object. Matched at "
        "IoU 0.5, detections at or over the best-F1 threshold of their class; crowds and difficult objects left out. "
        "Shares are of a row."
    )
    if number <= _CELLS:
        counts = counts.copy()
        counts[-1, -1] = -1  # what is neither there nor detected has no number
    return paragraph(said) + _matrix(names, ("background", "missed"), counts, ("true class", "detected as"), "objects")


def of_part(confusion: Confusion) -> str:
    """What a part of the model counted of itself."""
    counts, (title, names) = confusion.counts, confusion.matrix
    right, samples = int(np.trace(counts)), int(counts.sum())
    said = (
        f"{right:,} of {samples:,} samples ({100 * right / max(samples, 1):.1f} %) are told right. They are those that "
        "the loss of this evaluation looked at, the same of an image each time. Shares are of a row."
    )
    drawn = _matrix(names[:-1], (names[-1], names[-1]), counts, ("true", "told as"), "samples")
    return f"<h3>{escape(title)}</h3>{paragraph(said)}{drawn}"


def _matrix(
    names: Sequence[str], last: tuple[str, str], counts: np.ndarray, titles: tuple[str, str], things: str
) -> str:
    """Of few classes in numbers, of many drawn, with the pairs that are confused most; `last` row and column."""
    number = len(names)
    shares = counts.clip(0) / np.maximum(counts.clip(0).sum(axis=1, keepdims=True), 1)
    if number <= _CELLS:
        return matrix([*names, last[0]], [*names, last[1]], counts, shares, *titles)
    pairs = counts[:number, :number] * (1 - np.eye(number, dtype=np.int64))
    first = np.argsort(-pairs, axis=None, kind="stable")[:40]
    cells: list[list[object]] = []
    for true, found in zip(*np.unravel_index(first, pairs.shape), strict=True):
        if pairs[true, found]:
            cells.append([names[true], names[found], int(pairs[true, found]), float(shares[true, found])])
    listed = table([*titles, things, "share of class"], cells, ["share of class"], tall=13)
    listed = listed if cells else paragraph("No class was taken for another.")
    axes = f"{titles[0]} (last row: {last[0]})", f"{titles[1]} (last column: {last[1]})"
    drawn = figure(plots.matrix(shares, *axes)) + paragraph(
        "Classes in their order; the darker, the larger the share.", "muted"
    )
    return side_by_side([f"<h3>Most confused pairs</h3>{listed}", f"<h3>All {number} classes</h3>{drawn}"])


def pictures(analysis: Analysis, image: Callable[[int | str], np.ndarray], number: int, room: int) -> str:
    """Half of them the worst images, a quarter the best, a quarter drawn at random; in at most `room` bytes."""
    for part, long_side, quality in _SIZES:
        html = _pictures(analysis, image, round(number * part), long_side, quality)
        if len(html.encode("utf-8", "replace")) <= room:
            return html
    return paragraph("The page has no room left for pictures.")


def _pictures(
    analysis: Analysis, image: Callable[[int | str], np.ndarray], number: int, long_side: int, quality: int
) -> str:
    images = len(analysis.truth.image_ids)
    worst = analysis.worst(min(number // 2, -(-images // 2)))
    best = [row for row in analysis.best(number // 4 + len(worst)) if row not in worst][: number // 4]
    sample = [row for row in analysis.sample(number // 4 + len(worst) + len(best)) if row not in {*worst, *best}]
    chosen = {"Worst by AP": worst, "Best by AP": best, "At random": sample[: number // 4]}
    drawn: list[str] = []
    labels: set[int] = set()
    for heading, rows in chosen.items():
        drawn += [f"<h3>{heading}</h3>"] if rows else []
        for row in rows:
            drawn.append(_picture(analysis, row, image, long_side, quality))
            objects, detections = analysis.of_image(row)
            labels |= set(analysis.truth.labels[objects].tolist())
            labels |= set(analysis.predictions.labels[detections].tolist())
    if not drawn:
        return paragraph("None asked for (callbacks.report.pictures=0).")
    kinds = [
        ("detected", "var(--muted)", "outline"), ("true", "var(--muted)", "dashed"),
        ("tinted: a mistake", "var(--muted)", "tinted"),
    ]  # fmt: skip
    classes = [(analysis.truth.class_names[label], css(class_color(label)), "") for label in sorted(labels)]
    said = paragraph(
        "Detections at or over the best-F1 threshold of their class, judged at IoU 0.5; the AP is of the image by "
        "itself. A click enlarges a picture and shows the labels that had no room."
    )
    return said + legend([*kinds, *classes]) + gallery(drawn)


def _picture(
    analysis: Analysis, row: int, image: Callable[[int | str], np.ndarray], long_side: int, quality: int
) -> str:
    truth = analysis.truth
    image_id: int | str = truth.image_ids[row].item()
    objects, detections = analysis.of_image(row)
    counted = not (truth.crowd | truth.difficult)[objects].all()
    mistakes = ", ".join(f"{kind} {count}" for kind, count in analysis.why(row).items())
    score = f"AP {analysis.image_ap[row]:.3f}" if counted else "no objects"
    caption = f"{image_id}: {score}\n{mistakes or 'nothing wrong'}"
    if max(len(objects), len(detections)) > _BOXES:
        caption += f"\n{len(objects):,} objects, {len(detections):,} detections; {_BOXES} of either are drawn"
    try:
        pixels = image(image_id)
    except Exception as error:  # whatever became of the file, the rest of the page stands
        return lost_picture(f"can't be read any more: {error}", caption)
    boxes = _predicted(analysis, detections[:_BOXES]) + _true(analysis, objects)
    return picture(pixels, boxes, caption, long_side, quality)


def _predicted(analysis: Analysis, detections: np.ndarray) -> list[Box]:
    boxes: list[Box] = []
    for index in detections:
        label, kind = int(analysis.predictions.labels[index]), KINDS[analysis.kinds[index]]
        text = f"{_isolated(analysis.truth.class_names[label])} {analysis.predictions.scores[index]:.2f}"
        is_wrong = kind not in ("right", "ignored")
        text = f"{kind}: {text}" if is_wrong else text
        corners = _corners(analysis.predictions.boxes[index])
        boxes.append(Box(corners, text, class_color(label), group="predicted", strong=is_wrong))
    return boxes


def _true(analysis: Analysis, objects: np.ndarray) -> list[Box]:
    truth = analysis.truth
    boxes: list[Box] = []
    for index in sorted(objects.tolist(), key=lambda index: not analysis.missed[index])[:_BOXES]:
        label, missed = int(truth.labels[index]), bool(analysis.missed[index])
        kinds = {"missed: ": missed, "crowd: ": truth.crowd[index], "difficult: ": truth.difficult[index]}
        text = next((kind for kind, is_so in kinds.items() if is_so), "") + _isolated(truth.class_names[label])
        corners = _corners(truth.boxes[index])
        boxes.append(Box(corners, text, class_color(label), dashed=True, group="true", strong=missed))
    return boxes


def _isolated(name: str) -> str:
    """Between marks that keep a name written from right to left from pulling along what stands beside it."""
    return f"\u2068{name}\u2069"


def _corners(box: Sequence[float] | np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(side) for side in box)
    return x1, y1, x2, y2


def _themed(label: int) -> str:
    """A class's colour for thin lines: darker on light ground, lighter on dark."""
    return f"color-mix(in oklab,{css(class_color(label))} 72%,var(--ink))"
