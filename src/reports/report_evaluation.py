"""Views of an evaluation for the report: classes, curves, confusions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation.analysis import Analysis
from evaluation.confusions import Confusion
from evaluation.curves import RECALLS, Curve
from evaluation.thresholds import LEAST_F1
from evaluation.truth import COCO_METRICS, PROPOSAL_METRICS, VOC_METRICS
from reports import plots
from reports.drawing import class_color
from reports.html import Legend, Matrix, Plot, matrix, plot
from reports.tables import Table, known
from reports.theme import css

MEANINGS = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.5",
    "AP75": "IoU 0.75",
    "AP_small": "under 32\u00b2 pixels",
    "AP_medium": "32\u00b2 to 96\u00b2",
    "AP_large": "over 96\u00b2",
    "AR1": "1 detection an image",
    "AR10": "10 detections",
    "AR100": "100 detections",
    "AR_small": "under 32\u00b2 pixels",
    "AR_medium": "32\u00b2 to 96\u00b2",
    "AR_large": "over 96\u00b2",
    "mAP_voc07": "11 points, IoU 0.5",
    "mAP_voc": "area, IoU 0.5",
    "AR100_proposals": "100 proposals, any class",
    "AR1000_proposals": "1000 proposals",
}
_FEW = 10
"""Classes that can be told apart as lines of one plot."""
_CELLS = 20
"""Classes that a matrix of numbers has room for."""
_ROWS, _SMALL_CURVES = 1500, 120
"""Classes that are listed, and that have a small curve; of more, those with the most objects."""


class SmallCurve(NamedTuple):
    """Precision against recall of a class, 100 wide and 60 high."""

    name: str
    points: str
    best: str
    """The place of the best F1; empty without one."""
    ap50: float


@dataclass(frozen=True)
class RecallView:
    """Curves at IoU 0.5, and the score threshold of each class: few classes as lines, many as bands."""

    thresholds: Table
    thresholds_remark: str = ""
    """How those were chosen that aren't a best F1's."""
    plot: Plot | None = None
    """None where no class has an object."""
    legend: Sequence[Legend] = ()
    remark: str = ""
    curves: Sequence[SmallCurve] = ()
    curves_heading: str = ""


@dataclass(frozen=True)
class ConfusionView:
    """A matrix of few classes in numbers; of many a drawing, with the pairs that are confused most."""

    heading: str
    text: str
    num_classes: int
    matrix: Matrix | None
    pairs: Table | None = None
    plot: Plot | None = None


@dataclass(frozen=True)
class EvaluationView:
    """All that a report shows of an evaluation but its pictures."""

    of: str
    """Split, images, step and weights of the evaluation."""
    overall: Table
    classes: Table
    classes_remark: str
    recall: RecallView
    confusions: Sequence[ConfusionView]


def evaluation_view(analysis: Analysis, of: str, split: str, test: Mapping[str, float]) -> EvaluationView:
    """Makes the tables and plots; `test`: metrics of the best checkpoint on another split, if there are any."""
    classes, remark = _per_class(analysis)
    return EvaluationView(
        of, _overall(analysis, split, test), classes, remark, _precision_and_recall(analysis), _confusions(analysis)
    )


def _overall(analysis: Analysis, split: str, test: Mapping[str, float]) -> Table:
    scalars = analysis.metrics.scalars
    columns = ["measure", split, *(["test (best)"] if test else [])]
    rows: list[list[object]] = []
    for name in (*COCO_METRICS, *VOC_METRICS, *PROPOSAL_METRICS):
        if name in scalars:
            row: list[object] = [f"{name} ({MEANINGS[name]})", known(scalars[name])]
            rows.append([*row, known(test.get(name))] if test else row)
    return Table(columns, rows, columns[1:])


def _per_class(analysis: Analysis) -> tuple[Table, str]:
    names, rows = analysis.truth.class_names, analysis.metrics.per_class
    voc = [key for key in ("AP_voc07", "AP_voc") if any(key in row for row in rows.values())]
    columns = ["class", "AP", "AP50", *({"AP_voc07": "VOC07", "AP_voc": "VOC"}[key] for key in voc), "objects"]
    labels = _frequent(analysis, range(len(names)), _ROWS)
    cells: list[list[object]] = []
    for label in labels:
        row = rows[names[label]]
        cells.append([names[label], *(known(row[key]) for key in ("AP", "AP50", *voc)), int(row["num_objects"])])
    remark = f"The {_ROWS:,} of {len(names):,} classes with most objects." if len(labels) < len(names) else ""
    return Table(columns, cells, ("AP", "AP50")), remark


def _frequent(analysis: Analysis, labels: Iterable[int], count: int) -> list[int]:
    """Picks those with the most objects, in the order of their labels."""
    objects = np.bincount(analysis.truth.labels, minlength=len(analysis.truth.class_names))
    return sorted(sorted(labels, key=lambda label: -objects[label])[:count])


def _precision_and_recall(analysis: Analysis) -> RecallView:
    names = analysis.truth.class_names
    curves = {label: analysis.metrics.curves[name] for label, name in enumerate(names)}
    present = {label: curve for label, curve in curves.items() if (curve.precision >= 0).all()}
    thresholds = _thresholds(analysis, curves, present, _frequent(analysis, curves, _ROWS)), _chosen(analysis)
    if not present:
        return RecallView(*thresholds)
    if len(names) <= _FEW:
        colors = {label: css(class_color(label)) for label in present}
        drawn = plot(plots.precision_recall(present, colors), {css_: _themed(css_) for css_ in colors.values()})
        legend = [Legend(names[label], _themed(color), "line") for label, color in colors.items()]
        return RecallView(
            *thresholds,
            drawn,
            legend,
            "A dot marks the best F1 of its class. Where lines coincide their colours alternate.",
        )
    shown = _frequent(analysis, present, _SMALL_CURVES)
    more = f", the {len(shown)} with most objects" if len(shown) < len(present) else ""
    return RecallView(
        *thresholds,
        plot(plots.mean_precision_recall(list(present.values()))),
        remark="The mean over the classes; half of them lie in the dark band, eight in ten in the light.",
        curves=[_small_curve(names[label], curves[label]) for label in shown],
        curves_heading=f"Each class{more}: AP50, curve, best F1",
    )


def _thresholds(
    analysis: Analysis, curves: Mapping[int, Curve], present: Mapping[int, Curve], labels: Sequence[int]
) -> Table:
    rows: list[list[object]] = []
    for label in labels:
        best, threshold = curves[label].best, float(analysis.thresholds.scores[label])
        values = [best.f1, best.precision, best.recall] if label in present else [None] * 3
        rows.append([analysis.truth.class_names[label], threshold, *values])
    return Table(["class", "threshold", "best F1", "precision", "recall"], rows, ("best F1",))


def _chosen(analysis: Analysis) -> str:
    chosen = np.flatnonzero(~analysis.thresholds.is_best_f1)
    detected = np.bincount(analysis.predictions.labels, minlength=len(analysis.truth.class_names))
    names = [analysis.truth.class_names[label] for label in chosen if detected[label]]
    if not names:
        return ""
    listed = ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW:,} more" if len(names) > _FEW else "")
    return (
        f"Of {listed} hardly anything is found (best F1 under {LEAST_F1:g}), so that no threshold serves "
        f"{'it' if len(names) == 1 else 'them'}. Mistakes are shown from the lowest of these scores: of the best F1, "
        "if there is one; of the best F1 of all classes taken as one; of so many detections as the class has objects."
    )


def _small_curve(name: str, curve: Curve) -> SmallCurve:
    """Lays out recall from left to right, precision from bottom to top, like the large plot."""
    reached = curve.num_reached
    points = [f"{100 * r:.0f},{60 - 56 * p:.1f}" for r, p in zip(RECALLS[:reached], curve.precision, strict=False)]
    if reached < len(RECALLS):
        points.append(f"{100 * RECALLS[max(reached - 1, 0)]:.0f},60")
    best = curve.best
    place = f"{100 * best.recall:.1f} {60 - 56 * best.precision:.1f}" if best.f1 > 0 else ""
    return SmallCurve(name, " ".join(points), place, float(np.maximum(curve.precision, 0).mean()))


def _confusions(analysis: Analysis) -> list[ConfusionView]:
    """Makes the confusion of the detections, then those that parts of the model counted."""
    parts = [_of_part(confusion) for confusion in analysis.metrics.confusions.values()]
    return [_of_detections(analysis, "Detections" if parts else ""), *parts]


def _of_detections(analysis: Analysis, heading: str) -> ConfusionView:
    counts, names = analysis.confusion, analysis.truth.class_names
    number = len(names)
    right, objects = int(np.trace(counts[:number, :number])), int(counts[:number].sum())
    other = int(counts[:number, :number].sum()) - right
    text = (
        f"Of {objects:,} objects {right:,} were detected as their own class, {other:,} as another class and "
        f"{objects - right - other:,} were missed; {int(counts[number].sum()):,} detections match no object. "
        "Detections at or over the threshold of their class (see Precision and recall) are matched at IoU 0.5; crowds "
        "and difficult objects are not counted. Percentages are per row."
    )
    if number <= _CELLS:
        counts = counts.copy()
        counts[-1, -1] = -1  # what is neither there nor detected has no number
    titles = ("true class", "predicted class")
    return _confusion(heading, text, names, ("background", "missed"), counts, titles, "objects")


def _of_part(confusion: Confusion) -> ConfusionView:
    counts, (title, names) = confusion.counts, confusion.matrix
    right, samples = int(np.trace(counts)), int(counts.sum())
    text = (
        f"{right:,} of {samples:,} samples ({100 * right / max(samples, 1):.1f} %) are classified correctly. These are "
        "the samples drawn for the validation loss; the draw is fixed for each image. Percentages are per row."
    )
    return _confusion(title, text, names[:-1], (names[-1], names[-1]), counts, ("true", "predicted"), "samples")


def _confusion(
    heading: str,
    text: str,
    names: Sequence[str],
    last: tuple[str, str],
    counts: np.ndarray,
    titles: tuple[str, str],
    things: str,
) -> ConfusionView:
    """Makes the view of a matrix; `last`: names of the row and the column behind those of the classes."""
    number = len(names)
    shares = counts.clip(0) / np.maximum(counts.clip(0).sum(axis=1, keepdims=True), 1)
    if number <= _CELLS:
        numbers = matrix([*names, last[0]], [*names, last[1]], counts, shares, titles)
        return ConfusionView(heading, text, number, numbers)
    pairs = counts[:number, :number] * (1 - np.eye(number, dtype=np.int64))
    first = np.argsort(-pairs, axis=None, kind="stable")[:40]
    cells: list[list[object]] = []
    for true, found in zip(*np.unravel_index(first, pairs.shape), strict=True):
        if pairs[true, found]:
            cells.append([names[true], names[found], int(pairs[true, found]), float(shares[true, found])])
    listed = Table([*titles, things, "share of class"], cells, ("share of class",))
    axes = f"{titles[0]} (last row: {last[0]})", f"{titles[1]} (last column: {last[1]})"
    return ConfusionView(heading, text, number, None, listed, plot(plots.matrix(shares, *axes)))


def _themed(color: str) -> str:
    """A class's colour for thin lines: darker on light ground, lighter on dark."""
    return f"color-mix(in oklab,{color} 72%,var(--ink))"
