"""What a terminal shows of an evaluation: tables, the width of its lines, times."""

import sys
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from evaluation.metrics import Metrics
from evaluation.truth import (
    CLASSIFICATION_METRICS,
    COCO_METRICS,
    PROPOSAL_METRICS,
    VOC_METRICS,
)


def metrics_table(metrics: Metrics, listed: int | None = None) -> Group:
    """Percentages of the whole split, then of each class, for rich's `print`; 80 columns wide.

    Of more than `listed` classes, those with the highest and with the lowest AP, half of the lines each.
    """
    if CLASSIFICATION_METRICS[0] in metrics.scalars:
        return accuracy_table(metrics.scalars, metrics.per_class)
    rows = (*COCO_METRICS[:6], *VOC_METRICS), COCO_METRICS[6:], PROPOSAL_METRICS
    overall = []
    for names in rows:
        if not (present := [name for name in names if name in metrics.scalars]):
            continue
        overall.append(Table(*(Column(name, justify="right") for name in present), box=SIMPLE_HEAD))
        overall[-1].add_row(*(_percent(metrics.scalars[name]) for name in present))

    columns = next(iter(metrics.per_class.values()), {})
    overall[0].title, overall[0].title_justify = "percent", "left"
    names, heading = [*metrics.per_class], "class"
    if listed is not None and len(names) > listed:
        names, heading = _best_and_worst(metrics.per_class, listed // 2), f"of {len(names)} classes"
    by_class = Table(heading, *(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD)
    for name in names:
        row = metrics.per_class.get(name, {})
        cells = (f"{value:.0f}" if key == "num_objects" else _percent(value) for key, value in row.items())
        by_class.add_row(escape(name), *cells)
    return Group(*overall, *([by_class] if names else []))


def _best_and_worst(per_class: Mapping[str, Mapping[str, float]], number: int) -> list[str]:
    """That many names of either, with dots between; without classes that have no AP."""
    found = sorted((name for name in per_class if per_class[name]["AP"] >= 0), key=lambda name: -per_class[name]["AP"])
    return found if len(found) <= 2 * number else [*found[:number], "...", *found[-number:]]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"


_LISTED = 20


def accuracy_table(scalars: dict[str, float], per_class: dict[str, dict[str, float]]) -> Group:
    """Percentages of the whole split, then of each class; of many classes, those that are told worst."""
    overall = Table(*(Column(name, justify="right") for name in scalars), box=SIMPLE_HEAD)
    overall.title, overall.title_justify = "percent", "left"
    overall.add_row(*(f"{100 * value:.1f}" for value in scalars.values()))
    shown = [name for name, row in per_class.items() if row["num_images"]]
    heading = "class"
    if len(shown) > _LISTED:
        heading = f"lowest {_LISTED} of {len(shown)} classes"
        shown = sorted(shown, key=lambda name: per_class[name]["top1"])[:_LISTED]
    by_class = Table(heading, *(Column(name, justify="right") for name in (*scalars, "images")), box=SIMPLE_HEAD)
    for name in shown:
        row = per_class[name]
        percent = (f"{100 * row[key]:.1f}" for key in scalars)
        by_class.add_row(escape(name), *percent, f"{row['num_images']:.0f}")
    return Group(overall, by_class)


def show_bar() -> bool:
    """Only where somebody looks: a bar in a file is noise."""
    return sys.stdout.isatty()


def as_text(metrics: Metrics, listed: int | None = None) -> str:
    """The tables of an evaluation as they are printed; of more classes than `listed` the best and the worst."""
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(metrics_table(metrics, listed))
    lines = [line.rstrip() for line in capture.get().splitlines() if line.strip()]
    if listed is not None and "AP" in metrics.scalars and len(metrics.per_class) > listed:
        lines.append("metrics.csv has all of them")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
