"""`report.html`: a run, or an evaluation, on one page; from plain data, whoever collects it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from evaluation.analysis import Analysis
from evaluation.expected import Compared
from evaluation.truth import CLASSIFICATION_METRICS, PROPOSAL_METRICS
from reports import plots
from reports.expected import expected_view
from reports.html import Legend, Plot, Tile, plot, render
from reports.plots import Line
from reports.report_evaluation import evaluation_view
from reports.report_pictures import pictures
from reports.tables import Table, fraction, known
from reports.theme import series

MAX_BYTES = 4_800_000
"""Size of a page at most: it goes through most mail."""
_LISTED = 100
"""Images and problems that are listed at most of each split."""
_HOLE = Markup("<!-- pictures -->")
"""Place of the pictures, which come once it is known what room the rest of the page leaves them."""


@dataclass(frozen=True)
class About:
    """What a report shows beside the evaluation itself."""

    name: str
    folder: str
    state: str
    """`finished`, `stopped`, ..."""
    state_remark: str = ""
    split: str = "val"
    step: int | None = None
    """The step of the evaluation."""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    """Metrics of the evaluation; a classifier has nothing else to show of it."""
    weights: str = ""
    """Weights that were evaluated: those of the step, or an average over steps."""
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
    """(purpose, command)."""
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    data: Sequence[str] = ()
    """A line for each split."""
    skipped: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Skipped data: `train`, `val`, `test`: {image id: reason}; `annotations`: [problem]; `annotation_counts`: {rule:
    number}."""
    expected: Sequence[Compared] = ()
    """Published figures, and what was measured."""


class CurveView(NamedTuple):
    """A plot over steps."""

    heading: str
    plot: Plot
    legend: Sequence[Legend]


@dataclass(frozen=True)
class SkippedView:
    """Images of a split, or annotations, that were skipped."""

    heading: str
    table: Table
    problems: Table | None = None
    remark: str = ""


def report(
    about: About, analysis: Analysis | None, image: Callable[[int | str], np.ndarray], num_pictures: int = 24
) -> str:
    """Writes the page, of `MAX_BYTES` at most; `image` reads an image of the split, and what it can't read is named."""
    html = render(
        "report.html",
        title=about.name,
        subtitle=about.folder,
        tiles=_tiles(about, analysis),
        notes=_notes(about, analysis),
        expected=expected_view(about.expected),
        curves=_curves(about),
        evaluation=analysis and evaluation_view(analysis, _evaluated(about, analysis), about.split, about.test),
        pictures=_HOLE,
        skipped=_skipped(about.skipped),
        commands=about.commands,
        config=about.config,
        environment=about.environment,
        data=about.data,
    )
    if analysis is None:
        return html
    room = MAX_BYTES - len(html.encode("utf-8", "replace"))
    return html.replace(_HOLE, pictures(analysis, image, num_pictures, room), 1)


def _evaluated(about: About, analysis: Analysis) -> str:
    parts = [f"{about.split} split, {len(analysis.truth.image_ids):,} images"]
    parts += [f"step {about.step:,}"] if about.step is not None else []
    return ", ".join([*parts, about.weights] if about.weights else parts)


def _tiles(about: About, analysis: Analysis | None) -> list[Tile]:
    when = f"at step {about.step:,}" if about.step is not None else f"{about.split} split"
    entries: list[Tile] = []
    if about.best is not None:
        name, value, step = about.best
        entries.append(Tile(f"best {name}", fraction(value), f"at step {step:,}"))
    if about.test:
        name, value = next(iter(about.test.items()))
        entries.append(Tile(f"test {name}", fraction(value), "of the best checkpoint"))
    if analysis is not None:
        scalars, truth = analysis.metrics.scalars, analysis.truth
        objects = int((~(truth.crowd | truth.difficult)).sum())
        if about.best is None:
            entries.append(Tile("AP", fraction(scalars.get("AP")), when))
        entries.append(Tile("AP50", fraction(scalars.get("AP50")), when))
        entries.append(Tile("images", f"{len(truth.image_ids):,}", f"{about.split} split"))
        entries.append(Tile("classes", f"{len(truth.class_names):,}", f"{objects:,} objects"))
    for name in CLASSIFICATION_METRICS:
        if name in about.scores:
            entries.append(Tile(name, fraction(about.scores[name]), when))
    entries.append(Tile("state", about.state, about.state_remark))
    if about.time:
        entries.append(Tile("time", about.time, about.device))
    return entries


def _notes(about: About, analysis: Analysis | None) -> list[str]:
    notes = [*about.notes]
    if analysis is None and about.step is None:
        notes.append("There was no validation yet, so there are no average precision, matrix and pictures to show.")
    elif analysis is not None and not len(analysis.predictions.scores):
        notes.append(
            f"Nothing was detected on any of the {len(analysis.truth.image_ids):,} images. Early in training that is "
            "usual; later, either all scores are under model.decoder.score_threshold, or the learning rate is too "
            "high: see the loss."
        )
    images = sum(len(about.skipped.get(split, {})) for split in ("train", "val", "test"))
    if number := images + sum(about.skipped.get("annotation_counts", {}).values()):
        notes.append(f"{number:,} images or annotations were skipped (data.on_error=skip); see Skipped data.")
    return notes


def _curves(about: About) -> list[CurveView]:
    """Draws training (full lines) and validation (dashed): losses, their parts, AP, learning rate."""
    columns = {name: None for row in about.history for name in row}
    parts = [name.removeprefix("train/") for name in columns if name.startswith("train/")]
    parts = [part for part in parts if part not in ("loss", "gradient_norm")]
    losses = [
        _line(about, "training", "train/loss", "series1"),
        _line(about, "validation", "val/loss", "series2", dashed=True, dots=True),
    ]
    trained = [_line(about, part, f"train/{part}", series(number)) for number, part in enumerate(parts)]
    validated = [_line(about, "", f"val/{part}", series(number), dashed=True) for number, part in enumerate(parts)]

    def scores(names: Sequence[str]) -> list[Line]:
        return [_line(about, name, f"val/{name}", series(at), dots=True) for at, name in enumerate(names)]

    drawn = (
        _curve("Loss", "loss", losses),
        _curve("Parts of the loss", "loss", [*trained, *validated]),
        _curve("Average precision of the validation", "AP", scores(("AP", "AP50", "AP75")), is_fraction=True),
        _curve("Recall of the proposals in the validation", "AR", scores(PROPOSAL_METRICS), is_fraction=True),
        _curve("Accuracy of the validation", "share of images", scores(CLASSIFICATION_METRICS), is_fraction=True),
        _curve("Learning rate", "rate", [_line(about, "", "lr", "series1")]),
    )
    return [curve for curve in drawn if curve is not None]


def _line(about: About, name: str, column: str, color: str, dashed: bool = False, dots: bool = False) -> Line:
    points = sorted((float(row["step"]), float(row[column])) for row in about.history if row.get(column))
    if not column.startswith(("train/", "val/loss")):
        points = [(step, value) for step, value in points if known(value) is not None]
    return Line([step for step, _ in points], [value for _, value in points], color, name, dashed, dots)


def _curve(heading: str, y: str, lines: Sequence[Line], is_fraction: bool = False) -> CurveView | None:
    lines = [line for line in lines if len(line.steps)]
    if not lines:
        return None
    drawn = plot(plots.over_steps(lines, f"{heading} over steps", y, is_fraction))
    legend = [
        Legend(line.name, f"var(--{line.color})", "line dashed" if line.dashed else "line")
        for line in lines
        if line.name
    ]
    if any(line.dashed and not line.name for line in lines):
        legend.append(Legend("validation", "var(--muted)", "line dashed"))
    return CurveView(heading, drawn, legend)


def _skipped(skipped: Mapping[str, Any]) -> list[SkippedView]:
    parts: list[SkippedView] = []
    for split in ("train", "val", "test"):
        if images := skipped.get(split):
            rows = [[image_id, reason] for image_id, reason in list(images.items())[:_LISTED]]
            table = Table(["image", "reason"], rows)
            parts.append(SkippedView(f"{len(images):,} images of {split}", table, remark=_more(len(images))))
    if counts := skipped.get("annotation_counts"):
        problems: Sequence[str] = skipped.get("annotations", ())
        parts.append(
            SkippedView(
                f"{sum(counts.values()):,} annotations",
                Table(["rule", "annotations"], list(counts.items())),
                Table(["problem"], [[problem] for problem in problems[:_LISTED]]),
                _more(len(problems)),
            )
        )
    return parts


def _more(number: int) -> str:
    return f"{number - _LISTED:,} more are in skipped.json." if number > _LISTED else ""
