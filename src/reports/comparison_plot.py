"""A comparison of runs as one picture: results against settings, and against what they cost."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from reports.comparison import RESIZE, RULE, Comparison, Row, shown
from reports.plots import style
from reports.theme import LIGHT

_COLORS = [LIGHT[f"series{number}"] for number in range(1, 7)]
_MARKERS = "osD^vP"
_DPI = 150
"""Dots per inch: 1920 pixels at 12.8 inches; text of 9 points is legible at 1280, too."""


@dataclass(frozen=True)
class _Axis:
    """A figure of rows times `scale`."""

    figure: str
    title: str
    scale: float = 1.0


_UP = (
    _Axis("AP", "AP (%)", 100.0),
    _Axis("AP50", "AP50 (%)", 100.0),
    _Axis("AR100", "AR100 (%)", 100.0),
    _Axis("top1", "top-1 accuracy (%)", 100.0),
    _Axis("top5", "top-5 accuracy (%)", 100.0),
    _Axis("val/loss", "validation loss"),
)


@dataclass(frozen=True)
class _Series:
    """Rows that differ in what is on the x axis alone, in its order."""

    name: str
    rows: Sequence[Row]
    color: str
    marker: str


class _Point(NamedTuple):
    row: Row
    x: float
    y: float
    spread: float


def plot(comparison: Comparison) -> bytes:
    """Draws a PNG with a column of panels for each metric and for the loss.

    From top to bottom they stand against the swept setting, milliseconds per image, and training time, as far as these
    are known. The swept setting is the size of the pictures if that differs, else the first setting of numbers; each
    series has its own other settings and rule of resizing. Only finished runs are drawn.
    """
    rows = [row for row in comparison.rows if row.is_finished]
    key = _swept(comparison, rows)
    series = list(_series(comparison, rows, key))
    panels = [axis for axis in _UP if any(axis.figure in row.figures for row in rows)]
    across = [_Axis("ms_per_image", "ms per image"), _time(rows)]
    across = [axis for axis in across if any(axis.figure in row.figures for row in rows)]
    height = 1 + len(across)
    canvas = Canvas(figsize=(12.8, 0.7 + 3.1 * height), layout="constrained", facecolor="white")
    if not panels:
        canvas.text(0.5, 0.5, "no run is finished", ha="center", color=LIGHT["muted"])
        return _png(canvas)
    grid = canvas.subplots(height, len(panels), squeeze=False)
    for column, up in enumerate(panels):
        _against_setting(grid[0, column], key, series, up)
        for line, along in enumerate(across, start=1):
            _against_cost(grid[line, column], along, key, series, up)
    if handles := [
        Line2D([], [], color=one.color, marker=one.marker, label=one.name, markersize=6) for one in series if one.name
    ]:
        canvas.legend(
            handles=handles, loc="outside upper left", ncols=6, frameon=False, fontsize=10, labelcolor=LIGHT["ink"]
        )
    return _png(canvas)


def _swept(comparison: Comparison, rows: Sequence[Row]) -> str | None:
    """The setting on the x axis; None where the rows differ by words only, or not at all."""
    for key in (RESIZE, *comparison.columns):
        values = [row.setting(key) for row in rows]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == len(values) and len(set(numbers)) > 1:
            return key
    return None


def _series(comparison: Comparison, rows: Sequence[Row], key: str | None) -> Iterator[_Series]:
    """Groups rows by all that isn't on the x axis; each by itself where nothing is."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        parts = [shown(row.setting(RULE)) if key == RESIZE else row.size] if row.size else []
        parts += [f"{column}={shown(row.setting(column))}" for column in comparison.columns if column != key]
        parts += [] if comparison.rows_are_distinct else [row.results[0].folder]
        groups.setdefault(" ".join(parts), []).append(row)
    looks = cycle(zip(_COLORS, _MARKERS, strict=True))
    for name, members in groups.items():
        yield _Series(name, sorted(members, key=lambda row: _x(row, key)), *next(looks))


def _x(row: Row, key: str | None) -> float:
    return float(row.setting(key)) if key is not None else 0.0


def _against_setting(axes: Axes, key: str | None, series: Sequence[_Series], up: _Axis) -> None:
    _style(axes, up)
    if key is None:  # words: side by side, in the order of the legend
        axes.set_xticks([])
        axes.set_xlim(-0.5, len(series) - 0.5)
        for place, one in enumerate(series):
            _draw(axes, one, up, lambda _, place=place: float(place))
        return
    axes.set_xlabel("resize (pixels)" if key == RESIZE else key)
    values = sorted({_x(row, key) for one in series for row in one.rows})
    is_wide = values[0] > 0 and values[-1] / values[0] > 30
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if is_wide or min(b - a for a, b in pairwise(values)) > 0.07 * (values[-1] - values[0]):  # room for each
        axes.set_xticks(values, [f"{value:g}" for value in values])
    for one in series:
        _draw(axes, one, up, lambda row: _x(row, key))


def _against_cost(axes: Axes, along: _Axis, key: str | None, series: Sequence[_Series], up: _Axis) -> None:
    """Joins points where the size was swept, which sets the cost, and labels them with what was swept."""
    _style(axes, up)
    axes.set_xlabel(along.title)

    def x(row: Row) -> float | None:
        return row.figures[along.figure].mean * along.scale if along.figure in row.figures else None

    found = [_points(one, up, x) for one in series]
    highest = max((point.y for points in found for point in points), default=0.0)
    for one, points in zip(series, found, strict=True):
        _draw(axes, one, up, x, is_joined=key == RESIZE)
        if key is not None and points:
            _label(axes, points, key, one.color, above=any(point.y == highest for point in points))
    axes.margins(x=0.2, y=0.16)  # room for the labels


def _label(axes: Axes, points: Sequence[_Point], key: str, color: str, above: bool) -> None:
    """Labels each point on the side where its own line isn't."""
    rises = points[-1].y >= points[0].y
    side, sign = ("right", -1) if rises == above else ("left", 1)
    for point in points:
        axes.annotate(  # the rule of a size is in the legend
            shown(point.row.setting(key)), (point.x, point.y), xytext=(4 * sign, 4 if above else -4),
            textcoords="offset points", ha=side, va="bottom" if above else "top", size=8, color=color, zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _draw(axes: Axes, one: _Series, up: _Axis, x: Callable[[Row], float | None], is_joined: bool = True) -> None:
    points = _points(one, up, x)
    spreads = [point.spread for point in points]
    axes.errorbar(
        [point.x for point in points], [point.y for point in points], yerr=spreads, color=one.color, marker=one.marker,
        markersize=5.5, linewidth=1.5 if is_joined else 0, elinewidth=1, capsize=2.5 if any(spreads) else 0, zorder=3,
    )  # fmt: skip


def _points(one: _Series, up: _Axis, x: Callable[[Row], float | None]) -> list[_Point]:
    """Places the rows that have both values."""
    places = ((row, x(row), row.figures.get(up.figure)) for row in one.rows)
    return [
        _Point(row, place, figure.mean * up.scale, (figure.spread or 0.0) * up.scale)
        for row, place, figure in places
        if place is not None and figure is not None
    ]


def _time(rows: Sequence[Row]) -> _Axis:
    """Training time in a unit that suits the longest."""
    longest = max((row.figures["train_seconds"].mean for row in rows if "train_seconds" in row.figures), default=0.0)
    unit, seconds = next(((n, s) for n, s in (("hours", 3600), ("minutes", 60)) if longest >= 2 * s), ("seconds", 1))
    return _Axis("train_seconds", f"training time ({unit})", 1 / seconds)


def _style(axes: Axes, up: _Axis) -> None:
    style(axes, LIGHT)
    axes.set_title(up.title, loc="left", size=10, color=LIGHT["ink"])
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
