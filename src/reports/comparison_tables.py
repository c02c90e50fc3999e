"""A comparison of runs as CSV, as Markdown and in a terminal."""

import csv
import io
import posixpath
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from evaluation.truth import CLASSIFICATION_METRICS, VOC_METRICS
from reports.comparison import RESIZE, RULE, SEEDS, Comparison, Row, shown

METRICS = ("AP", "AP50", "AR100", *VOC_METRICS, *CLASSIFICATION_METRICS)
"""Metrics in tables for people; the CSV file has all."""

_Format = Callable[[float], str]


def as_csv(comparison: Comparison) -> str:
    """Writes every figure of any run, with its standard deviation where a row is a mean; metrics are fractions of 1."""
    keys = [RULE, RESIZE] if any(row.size for row in comparison.rows) else []
    keys += comparison.columns
    names: list[str] = []
    for name in comparison.figures:
        names += [name, f"{name}_sd"] if any(_spread(row, name) is not None for row in comparison.rows) else [name]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*keys, "seeds", "n", *names, "steps", "state", "reason", "runs"])
    for row in comparison.rows:
        figures = [_spread(row, name[:-3]) if name.endswith("_sd") else _mean(row, name) for name in names]
        writer.writerow(
            [
                *(shown(row.setting(key)) for key in keys),
                " ".join(shown(result.settings.get(SEEDS[0])) for result in row.counted),
                len(row.counted),
                *("" if value is None else repr(value) for value in figures),
                row.steps,
                row.state,
                "; ".join(result.reason for result in row.results if result.reason),
                " ".join(result.folder for result in row.results),
            ]
        )
    return text.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """Writes a page with the table, the meaning of its columns, the failures with reasons, and the plot beside it."""
    header, rows, is_number = _cells(comparison)
    header, is_number = [*header, "folder"], [*is_number, False]
    for row, cells in zip(comparison.rows, rows, strict=True):
        cells.append(", ".join(result.folder for result in row.results))
    lines = [
        f"| {' | '.join(_escaped(name) for name in header)} |",
        f"|{'|'.join('---:' if number else '---' for number in is_number)}|",
        *(f"| {' | '.join(_escaped(cell) for cell in cells)} |" for cells in rows),
    ]
    remarks = [f"- {_escaped(remark)}" for remark in (*notes(comparison), *failures(comparison))]
    return "\n".join([*lines, "", *remarks, "", "![plot](comparison.png)", ""])


def as_table(comparison: Comparison) -> Table:
    """Lays out the comparison for a terminal."""
    header, rows, is_number = _cells(comparison)
    table = Table(box=SIMPLE_HEAD)
    for name, number in zip(header, is_number, strict=True):
        table.add_column(
            escape(name), justify="right" if number else "left", overflow="fold", no_wrap=number or name == "resize"
        )
    for cells in rows:
        table.add_row(*map(escape, cells))
    return table


def notes(comparison: Comparison) -> list[str]:
    """Explains the columns."""
    found: list[str] = []
    if metrics := _shown_metrics(comparison):
        of_test = " (test/: of the test split)" if any(name.startswith("test/") for name in metrics) else ""
        found.append(f"metrics in percent and loss on the validation split at the best step of each run{of_test}")
    if any(len(row.counted) > 1 for row in comparison.rows):
        found.append("mean ± sample standard deviation over the n finished runs that differ in nothing but their seed")
    if "ms_per_image" in comparison.figures:
        ways = dict.fromkeys(result.timed for result in comparison.results if result.timed)
        found.append(
            f"ms per image: network and decoder, one image at a time, median; {'; '.join(ways)}"
            + (" - taken differently, so that they can't be compared" if len(ways) > 1 else "")
        )
    if "train_seconds" in comparison.figures:
        found.append("training time: spent in steps, without validations")
    if not all(row.is_finished for row in comparison.rows):
        found.append("what isn't finished shows the best so far, and is not in the plot")
    return found


def failures(comparison: Comparison) -> list[str]:
    """Lists the runs that failed, with the reasons."""
    failed = (result for result in comparison.results if result.state == "failed")
    return [f"{result.folder} failed: {in_a_line(result.reason)}" for result in failed]


def in_a_line(text: str, most: int = 400) -> str:
    words = " ".join(text.split())
    return words if len(words) <= most else f"{words[:most]} ..."


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, rows, and which columns hold numbers."""
    columns = list(_columns(comparison))
    rows = [[cell(row) for _, cell, _ in columns] for row in comparison.rows]
    return [name for name, _, _ in columns], rows, [is_number for _, _, is_number in columns]


def _columns(comparison: Comparison) -> Iterator[tuple[str, Callable[[Row], str], bool]]:
    """(name, text of a row, whether it is a number)."""
    if not comparison.rows_are_distinct:
        above = posixpath.commonpath([posixpath.dirname(result.folder) for result in comparison.results])
        yield "run", lambda row: _folders(row, above), False
    if any(row.size for row in comparison.rows):
        yield "resize", lambda row: row.size, False
    for key in comparison.columns:
        yield key, lambda row, key=key: shown(row.setting(key)), False
    if any(len(row.counted) > 1 for row in comparison.rows):
        yield "n", lambda row: str(len(row.counted)), True
    for name in _shown_metrics(comparison):
        yield name, _figure(name, lambda value: f"{100 * value:.1f}"), True
    others: dict[str, tuple[str, _Format]] = {
        "val/loss": ("loss", lambda value: f"{value:.3f}"),
        "ms_per_image": ("ms per image", lambda value: f"{value:.1f}"),
        "train_seconds": ("training time", lambda value: str(timedelta(seconds=round(value)))),
    }
    for name, (title, text) in others.items():
        if name in comparison.figures:
            yield title, _figure(name, text, has_spread=name == "val/loss"), True
    yield "steps", lambda row: str(row.steps), True
    yield "state", lambda row: row.state, False


def _folders(row: Row, above: str) -> str:
    """Names the folder of the first run as seen from above all, and how many more there are."""
    more = f" +{len(row.results) - 1}" if len(row.results) > 1 else ""
    return posixpath.relpath(row.results[0].folder, above or ".") + more


def _figure(name: str, text: _Format, has_spread: bool = True) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        figure = row.figures.get(name)
        if figure is None:
            return "-"
        spread = "" if figure.spread is None or not has_spread else f" ± {text(figure.spread)}"
        return text(figure.mean) + spread

    return cell


def _shown_metrics(comparison: Comparison) -> list[str]:
    return [f"{split}{name}" for split in ("", "test/") for name in METRICS if f"{split}{name}" in comparison.figures]


def _mean(row: Row, name: str) -> float | None:
    return row.figures[name].mean if name in row.figures else None


def _spread(row: Row, name: str) -> float | None:
    return row.figures[name].spread if name in row.figures else None


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
