"""Lines of plots that coincide are all visible."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from evaluation.curves import RECALLS, Curve
from reports import plots
from reports.lines import Drawn, draw_lines
from reports.plots import Line

STEPS = np.arange(101.0)


def styles(*lines: Drawn, height: float = 1.0) -> list[list[tuple[str, float, float]]]:
    """The parts of each line: dashes, first and last x."""
    axes = Figure().add_subplot()
    draw_lines(axes, lines, 1.0, height)
    parts: dict[str, list[tuple[str, float, float]]] = {line.color: [] for line in lines}
    for drawn in axes.lines:
        dashes = drawn._unscaled_dash_pattern
        text = "-" if dashes[1] is None else f"{dashes[0]:g}: {' '.join(f'{part:g}' for part in dashes[1])}"
        x = np.asarray(drawn.get_xdata())
        parts[str(drawn.get_color())].append((text, x[0], x[-1]))
    return list(parts.values())


def constant(value: float, color: str, dashed: bool = False) -> Drawn:
    return Drawn(STEPS, np.full(101, value), color, dashed)


def test_lines_that_coincide_alternate():
    assert styles(*(constant(0.5, color) for color in ("C0", "C1", "C2"))) == [
        [("0: 3 6", 0, 100)], [("6: 3 6", 0, 100)], [("3: 3 6", 0, 100)],
    ]  # fmt: skip


def test_lines_next_to_each_other_are_whole():
    assert styles(constant(0.5, "C0"), constant(0.52, "C1")) == [[("-", 0, 100)], [("-", 0, 100)]]


def test_only_the_part_that_coincides_alternates():
    other = Drawn(STEPS, np.where(STEPS < 60, 0.5, 0.9), "C1")
    assert styles(constant(0.5, "C0"), other) == [
        [("0: 3 3", 0, 59), ("-", 59, 100)], [("3: 3 3", 0, 59), ("-", 59, 100)],
    ]  # fmt: skip


def test_lines_that_cross_are_whole():
    lines = Drawn(STEPS, STEPS, "C0"), Drawn(STEPS, 100 - STEPS, "C1")
    assert {dashes for parts in styles(*lines, height=400.0) for dashes, _, _ in parts} == {"-"}


def test_dashed_lines_alternate_among_themselves():
    assert styles(constant(0.5, "C0"), constant(0.5, "C1", True), constant(0.5, "C2", True)) == [
        [("-", 0, 100)], [("0: 4 8", 0, 100)], [("6: 4 8", 0, 100)],
    ]  # fmt: skip


def test_dashed_lines_leave_room_for_all_full_lines_below_them():
    full = [constant(0.5, color) for color in ("C0", "C1", "C2")]
    for number in (2, 3):
        found = styles(*full[:number], constant(0.5, "C3", True), constant(0.5, "C4", True))
        step = 4 + 3 * number  # between two dashes there is a dash of each full line
        assert found[number:] == [
            [(f"0: 4 {2 * step - 4}", 0, 100)], [(f"{step}: 4 {2 * step - 4}", 0, 100)],
        ]  # fmt: skip


def test_marks_of_lines_that_coincide_are_rings():
    lines = [Line([1, 2], [0.2, value], color, dots=True) for color, value in (("series1", 0.5), ("series2", 0.7))]
    (axes,) = plots.over_steps([*lines, Line([1, 2], [0.9, 0.8], "series3", dots=True)], "", "AP", fraction=True).axes
    marks = [line.get_markersize() for line in axes.lines if line.get_marker() == "o"]
    assert marks[0] > marks[1] == marks[2]


@pytest.mark.parametrize("number", [2, 10])
def test_coinciding_curves_of_perfect_classes_are_all_visible(number):
    curves = {label: Curve(np.ones(101), np.full(101, 0.5)) for label in range(number)}
    (axes,) = plots.precision_recall(curves, {label: f"C{label}" for label in curves}).axes
    lines = [line for line in axes.lines if line.get_color() in {f"C{label}" for label in curves}]
    dashed = [line for line in lines if line.get_marker() != "o"]
    assert len({line._unscaled_dash_pattern[0] for line in dashed}) == number
    assert all(len(np.asarray(line.get_xdata())) == len(RECALLS) for line in dashed)
    assert max(line.get_markersize() for line in lines) < 30


def test_lines_with_one_value_and_with_none_are_drawn():
    plots.over_steps([Line([3], [0.5], "series1"), Line([], [], "series2")], "", "AP")
