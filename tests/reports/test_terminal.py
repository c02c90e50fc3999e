"""Tables in terminals and log files."""

import math

from rich.table import Table as RichTable

from evaluation.metrics import Metrics
from reports.tables import Table, fraction, known, percent
from reports.terminal import as_text, metrics_text, rich_table


def test_undefined_values_are_dashes_everywhere():
    assert [known(value) for value in (-1.0, math.nan, None, 0.0)] == [None, None, None, 0.0]
    assert [fraction(value) for value in (-1.0, math.nan, None, 0.25)] == ["-", "-", "-", "0.250"]
    assert [percent(value) for value in (-1.0, math.nan, None, 0.25)] == ["-", "-", "-", "25.0"]
    detector = metrics_text(Metrics({"AP": -1.0, "AP50": math.nan}, {"a": {"AP": -1.0, "num_objects": 0.0}}))
    assert [line.split() for line in detector.splitlines() if "-" in line and "\u2500" not in line] == [
        ["-", "-"],
        ["a", "-", "0"],
    ]
    classifier = metrics_text(Metrics({"top1": -1.0, "top5": -1.0}, {}))
    assert ["-", "-"] in [line.split() for line in classifier.splitlines()]


def test_a_table_is_the_same_in_a_terminal_as_on_a_page():
    table = Table(["name", "boxes", "share"], [["[b]a", 12345, 0.25], ["b", None, math.nan], ["c", 1, 1.0]])
    lines = as_text(rich_table(table, listed=2), width=40).splitlines()
    assert [line.split() for line in lines if "\u2500" not in line] == [
        ["name", "boxes", "share"],
        ["[b]a", "12,345", "0.250"],
        ["b", "-", "-"],
    ]
    assert [cell.text for cell in table.cells[0]] == ["[b]a", "12,345", "0.250"]


def test_text_has_the_width_that_was_asked_for_and_neither_colours_nor_empty_lines():
    table = RichTable("a" * 30, "b" * 30, box=None)
    table.add_row("[red]x", "y")
    text = as_text(table, width=30)
    assert max(map(len, text.splitlines())) <= 30
    assert "\x1b" not in text
    assert all(line.strip() for line in text.splitlines())
