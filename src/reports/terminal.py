"""Tables, texts and times for terminals and log files."""

import sys
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Column
from rich.table import Table as RichTable

from evaluation.metrics import Metrics
from evaluation.truth import CLASSIFICATION_METRICS, COCO_METRICS, PROPOSAL_METRICS, VOC_METRICS
from reports.tables import Table, percent

_LISTED = 20
"""Classes of a classifier that are listed at most."""


def metrics_table(metrics: Metrics, listed: int | None = None) -> Group:
    """Lays out percentages of the whole split, then of each class, 80 columns wide.

    Of more than `listed` classes those with the highest and with the lowest AP are shown, half of the lines each.
    """
    if CLASSIFICATION_METRICS[0] in metrics.scalars:
        return accuracy_table(metrics.scalars, metrics.per_class)
    rows = (*COCO_METRICS[:6], *VOC_METRICS), COCO_METRICS[6:], PROPOSAL_METRICS
    overall = []
    for names in rows:
        if not (present := [name for name in names if name in metrics.scalars]):
            continue
        overall.append(RichTable(*(Column(name, justify="right") for name in present), box=SIMPLE_HEAD))
        overall[-1].add_row(*(percent(metrics.scalars[name]) for name in present))

    columns = next(iter(metrics.per_class.values()), {})
    overall[0].title, overall[0].title_justify = "percent", "left"
    names, heading = [*metrics.per_class], "class"
    if listed is not None and len(names) > listed:
        names, heading = _best_and_worst(metrics.per_class, listed // 2), f"of {len(names)} classes"
    by_class = RichTable(heading, *(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD)
    for name in names:
        row = metrics.per_class.get(name, {})
        cells = (f"{value:.0f}" if key == "num_objects" else percent(value) for key, value in row.items())
        by_class.add_row(escape(name), *cells)
    return Group(*overall, *([by_class] if names else []))


def _best_and_worst(per_class: Mapping[str, Mapping[str, float]], number: int) -> list[str]:
    """Lists that many names of either, with dots between, without classes that have no AP."""
    found = sorted((name for name in per_class if per_class[name]["AP"] >= 0), key=lambda name: -per_class[name]["AP"])
    return found if len(found) <= 2 * number else [*found[:number], "...", *found[-number:]]


def accuracy_table(scalars: dict[str, float], per_class: dict[str, dict[str, float]]) -> Group:
    """Lays out percentages of the whole split, then of each class; of many classes those with the lowest accuracy."""
    overall = RichTable(*(Column(name, justify="right") for name in scalars), box=SIMPLE_HEAD)
    overall.title, overall.title_justify = "percent", "left"
    overall.add_row(*(percent(value) for value in scalars.values()))
    shown = [name for name, row in per_class.items() if row["num_images"]]
    heading = "class"
    if len(shown) > _LISTED:
        heading = f"lowest {_LISTED} of {len(shown)} classes"
        shown = sorted(shown, key=lambda name: per_class[name]["top1"])[:_LISTED]
    by_class = RichTable(heading, *(Column(name, justify="right") for name in (*scalars, "images")), box=SIMPLE_HEAD)
    for name in shown:
        row = per_class[name]
        by_class.add_row(escape(name), *(percent(row[key]) for key in scalars), f"{row['num_images']:.0f}")
    return Group(overall, by_class)


def show_bar() -> bool:
    """Tells whether a progress bar is wanted: only where somebody looks, a bar in a file is noise."""
    return sys.stdout.isatty()


def as_text(renderable: RenderableType, width: int = 100) -> str:
    """Renders as a terminal of so many columns shows it, without colours and empty lines."""
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())


def metrics_text(metrics: Metrics, listed: int | None = None) -> str:
    """Renders the tables of an evaluation; of more classes than `listed` the best and the worst."""
    text = as_text(metrics_table(metrics, listed))
    is_cut = listed is not None and "AP" in metrics.scalars and len(metrics.per_class) > listed
    return f"{text}\nmetrics.csv has all of them" if is_cut else text


def rich_table(table: Table, listed: int | None = None) -> RichTable:
    """Lays out the first `listed` rows of a table, numbers to the right."""
    columns = (
        Column(name, justify="right" if numeric else "left", overflow="fold")
        for name, numeric in zip(table.columns, table.numeric, strict=True)
    )
    found = RichTable(*columns, box=SIMPLE_HEAD)
    for row in table.cells[:listed]:
        found.add_row(*(escape(cell.text) for cell in row))
    return found


def clock(seconds: float) -> str:
    """Writes a duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
