"""`report.html`: a run, or an evaluation, on one page; from plain data, whoever collects it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.analysis import Analysis
from evaluation.truth import CLASSIFICATION_METRICS, COCO_METRICS, PROPOSAL_METRICS, VOC_METRICS
from reports import plots
from reports.html import code, details, facts, figure, legend, page, paragraph, table, tiles
from reports.html import plots as side_by_side
from reports.plots import Line
from reports.report_evaluation import MAX_BYTES, confusion, of_part, per_class, pictures, precision_and_recall

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
_LISTED = 100
"""Images and problems that are listed at most of each split."""


@dataclass(frozen=True)
class About:
    """What the page says beside the evaluation itself."""

    name: str
    folder: str
    state: str
    """`finished`, `stopped`, ..."""
    state_remark: str = ""
    split: str = "val"
    step: int | None = None
    """Of the evaluation."""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    """Metrics of the evaluation; of a classifier all that there is of it."""
    weights: str = ""
    """Of the evaluation: those of its step, or an average over steps."""
    best: tuple[str, float, int] | None = None
    """Monitored metric, its best value and the step of it."""
    test: Mapping[str, float] = field(default_factory=dict[str, float])
    """Metrics of the best checkpoint on another split, if it was tested."""
    time: str = ""
    device: str = ""
    notes: Sequence[str] = ()
    history: Sequence[Mapping[str, str]] = ()
    """Rows of metrics.csv."""
    commands: Sequence[tuple[str, str]] = ()
    """(what for, command)."""
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    data: Sequence[str] = ()
    """A line for each split."""
    skipped: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`train`, `val`, `test`: {image id: reason}; `annotations`: [problem]; `annotation_counts`: {rule: number}."""


def report(
    about: About, analysis: Analysis | None, image: Callable[[int | str], np.ndarray], num_pictures: int = 24
) -> str:
    """The page, under `MAX_BYTES`; `image` reads an image of the split, and what it can't read is named."""
    sections = [("", _head(about, analysis))]
    if about.history:
        sections.append(("Curves", _curves(about)))
    gallery = 0
    if analysis is not None:
        of = paragraph(_evaluated(about, analysis), "muted")
        sections += [
            ("Average precision", of + _average_precision(about, analysis)),
            ("Precision and recall", of + precision_and_recall(analysis)),
            ("Confusion", of + _confusions(analysis)),
        ]
        gallery = len(sections)
    sections.append(("Left out", _left_out(about.skipped)))
    if about.commands:
        sections.append(("Going on", _commands(about)))
    sections.append(("Config", details("The run's config, resolved", code(about.config))))
    sections.append(("Environment", _environment(about)))
    if analysis is not None:
        room = MAX_BYTES - len(page(about.name, sections, about.folder).encode("utf-8", "replace"))
        html = pictures(analysis, image, num_pictures, room)
        sections.insert(gallery, ("Pictures", paragraph(_evaluated(about, analysis), "muted") + html))
    return page(about.name, sections, about.folder)


def _evaluated(about: About, analysis: Analysis) -> str:
    parts = [f"{about.split} split, {len(analysis.truth.image_ids):,} images"]
    parts += [f"step {about.step:,}"] if about.step is not None else []
    return ", ".join([*parts, about.weights] if about.weights else parts)


def _head(about: About, analysis: Analysis | None) -> str:
    entries: list[tuple[str, str, str]] = []
    if about.best is not None:
        name, value, step = about.best
        entries.append((f"best {name}", _fraction(value), f"at step {step:,}"))
    if about.test:
        name, value = next(iter(about.test.items()))
        entries.append((f"test {name}", _fraction(value), "of the best checkpoint"))
    if analysis is not None:
        scalars, truth = analysis.metrics.scalars, analysis.truth
        objects = int((~(truth.crowd | truth.difficult)).sum())
        if about.best is None:
            entries.append(("AP", _fraction(scalars.get("AP")), _when(about)))
        entries.append(("AP50", _fraction(scalars.get("AP50")), _when(about)))
        entries.append(("images", f"{len(truth.image_ids):,}", f"{about.split} split"))
        entries.append(("classes", f"{len(truth.class_names):,}", f"{objects:,} objects"))
    for name in CLASSIFICATION_METRICS:
        if name in about.scores:
            entries.append((name, _fraction(about.scores[name]), _when(about)))
    entries.append(("state", about.state, about.state_remark))
    if about.time:
        entries.append(("time", about.time, about.device))
    notes = [*about.notes]
    if analysis is None and about.step is None:
        notes.append("There was no validation yet, so there are no average precision, matrix and pictures to show.")
    elif analysis is not None and not len(analysis.predictions.scores):
        notes.append(
            f"Nothing was detected on any of the {len(analysis.truth.image_ids):,} images. Early in training that is "
            "usual; later, the scores stay under model.decoder.score_threshold, or the loss tells that the rate is too "
            "high."
        )
    if number := _number_left_out(about.skipped):
        notes.append(f"{number:,} images or annotations were left out (data.on_error=skip); see Left out.")
    return tiles(entries) + "".join(paragraph(note, "note") for note in notes)


def _when(about: About) -> str:
    return f"at step {about.step:,}" if about.step is not None else f"{about.split} split"


def _curves(about: About) -> str:
    """Training (full lines) and validation (dashed): losses, their parts, AP, learning rate."""
    columns = {name: None for row in about.history for name in row}
    parts = [name.removeprefix("train/") for name in columns if name.startswith("train/")]
    parts = [part for part in parts if part not in ("loss", "gradient_norm")]
    losses = [
        _curve(about, "training", "train/loss", "series1"),
        _curve(about, "validation", "val/loss", "series2", dashed=True, dots=True),
    ]
    trained = [_curve(about, part, f"train/{part}", _color(number)) for number, part in enumerate(parts)]
    validated = [_curve(about, "", f"val/{part}", _color(number), dashed=True) for number, part in enumerate(parts)]
    scores = [
        _curve(about, name, f"val/{name}", _color(number), dots=True)
        for number, name in enumerate(("AP", "AP50", "AP75"))
    ]
    recalls = [
        _curve(about, name, f"val/{name}", _color(number), dots=True) for number, name in enumerate(PROPOSAL_METRICS)
    ]
    shares = [
        _curve(about, name, f"val/{name}", _color(number), dots=True)
        for number, name in enumerate(CLASSIFICATION_METRICS)
    ]
    drawn = [
        _plot("Loss", "loss", losses),
        _plot("Parts of the loss", "loss", [*trained, *validated]),
        _plot("Average precision of the validation", "AP", scores, fraction=True),
        _plot("Recall of the proposals in the validation", "AR", recalls, fraction=True),
        _plot("Accuracy of the validation", "share of images", shares, fraction=True),
        _plot("Learning rate", "rate", [_curve(about, "", "lr", "series1")]),
    ]
    return side_by_side([html for html in drawn if html])


def _curve(about: About, name: str, column: str, color: str, dashed: bool = False, dots: bool = False) -> Line:
    points = sorted((float(row["step"]), float(row[column])) for row in about.history if row.get(column))
    return Line([step for step, _ in points], [value for _, value in points], color, name, dashed, dots)


def _color(number: int) -> str:
    return f"series{number % 6 + 1}"


def _plot(title: str, y: str, lines: Sequence[Line], fraction: bool = False) -> str:
    lines = [line for line in lines if len(line.steps)]
    if not lines:
        return ""
    drawn = figure(plots.over_steps(lines, f"{title} over steps", y, fraction))
    entries = [(line.name, f"var(--{line.color})", "line dashed" if line.dashed else "line") for line in lines]
    named = [entry for entry in entries if entry[0]]
    if any(line.dashed and not line.name for line in lines):
        named.append(("validation", "var(--muted)", "line dashed"))
    return f"<h3>{title}</h3>{drawn}{legend(named)}"


def _average_precision(about: About, analysis: Analysis) -> str:
    scalars = analysis.metrics.scalars
    names = [name for name in (*COCO_METRICS, *VOC_METRICS, *PROPOSAL_METRICS) if name in scalars]
    columns = ["measure", about.split, *(["test (best)"] if about.test else [])]
    rows: list[list[object]] = []
    for name in names:
        row: list[object] = [f"{name} ({MEANINGS[name]})", _or_none(scalars[name])]
        rows.append([*row, _or_none(about.test.get(name))] if about.test else row)
    overall = table(columns, rows, columns[1:], sortable=False)
    return side_by_side([f"<h3>All classes</h3>{overall}", f"<h3>Each class</h3>{per_class(analysis)}"])


def _confusions(analysis: Analysis) -> str:
    """Of the detections, and of parts of the model."""
    parts = "".join(of_part(part) for part in analysis.metrics.confusions.values())
    return ("<h3>Detections</h3>" if parts else "") + confusion(analysis) + parts


def _number_left_out(skipped: Mapping[str, Any]) -> int:
    images = sum(len(skipped.get(split, {})) for split in ("train", "val", "test"))
    return images + sum(skipped.get("annotation_counts", {}).values())


def _left_out(skipped: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for split in ("train", "val", "test"):
        if images := skipped.get(split):
            rows = [[image_id, reason] for image_id, reason in list(images.items())[:_LISTED]]
            parts.append(f"<h3>{len(images):,} images of {split}</h3>" + table(["image", "reason"], rows))
            parts.append(_more(len(images)))
    if counts := skipped.get("annotation_counts"):
        parts.append(f"<h3>{sum(counts.values()):,} annotations</h3>")
        parts.append(table(["rule", "annotations"], list(counts.items())))
        problems: Sequence[str] = skipped.get("annotations", ())
        parts.append(details("The first of them", table(["problem"], [[problem] for problem in problems[:_LISTED]])))
        parts.append(_more(len(problems)))
    return "".join(parts) or paragraph("Nothing: no image and no annotation had to be left out.")


def _more(number: int) -> str:
    return paragraph(f"{number - _LISTED:,} more are in skipped.json.", "muted") if number > _LISTED else ""


def _commands(about: About) -> str:
    return "".join(paragraph(f"{what}:") + code(command) for what, command in about.commands)


def _environment(about: About) -> str:
    data = "".join(paragraph(line) for line in about.data)
    return facts(about.environment) + (f"<h3>Data</h3>{data}" if data else "")


def _or_none(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) or value < 0 else value


def _fraction(value: float | None) -> str:
    value = _or_none(value)
    return "\u2013" if value is None else f"{value:.3f}"
