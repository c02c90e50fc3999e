"""The figures of the report, in the colours of the theme; names of classes stay outside, in the page's own text.

A `Figure` of its own, never pyplot: no global state, no window system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evaluation.curves import RECALLS, Curve
from reports.lines import Drawn, draw_lines
from reports.theme import PLACEHOLDERS as COLORS

_POINTS = 300
"""Points of a line at most; longer ones are averaged to so many."""


@dataclass(frozen=True)
class Line:
    """Values over steps."""

    steps: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray
    color: str
    """A key of `theme.THEME`."""
    name: str = ""
    """Entry of the legend, which the page draws."""
    dashed: bool = False
    dots: bool = False
    """Mark each value: there are few, or they are what was measured."""


def empty(description: str, x: str, y: str, height: float = 2.9) -> tuple[Figure, Axes]:
    """Makes a figure 4.6 inches wide with its axes; `description` is read out where it can't be seen."""
    figure = Figure(figsize=(4.6, height), layout="constrained")
    figure.set_label(description)
    axes = figure.add_subplot()
    style(axes)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def style(axes: Axes, colors: Mapping[str, str] = COLORS) -> None:
    """Draws two spines, a faint grid and quiet ticks; `colors` by the names of the theme."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colors["line"])
    axes.tick_params(colors=colors["muted"], labelsize=9, length=3, width=0.8)
    axes.grid(color=colors["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=colors["muted"], size=9)
    axes.yaxis.label.set(color=colors["muted"], size=9)


def over_steps(lines: Sequence[Line], description: str, y: str, fraction: bool = False) -> Figure:
    """Draws lines over steps; a few high values at the start don't set the scale.

    `fraction`: the axis starts at 0 and ends at most at 1.
    """
    figure, axes = empty(description, "step", y)
    found = [(line, *_binned(np.asarray(line.steps, float), np.asarray(line.values, float))) for line in lines]
    late = [values[len(values) // 20 :] if len(values) > 40 else values for _, _, values in found if len(values)]
    top = 1.06 * max((float(values.max()) for values in late), default=1.0)
    drawn = [
        Drawn(steps, values, COLORS[line.color], line.dashed, 4.0 if line.dots or len(values) == 1 else 0.0)
        for line, steps, values in found
        if len(values)
    ]
    draw_lines(axes, drawn, 1.6, max(top, 0.0), clip=not fraction)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))
    axes.set_xlim(left=0)
    if fraction:
        axes.set_ylim(0, 1 if top > 0.8 else max(top, 0.1))
    elif top > 0:
        axes.set_ylim(0, top)
    return figure


def precision_recall(curves: Mapping[int, Curve], colors: Mapping[int, str]) -> Figure:
    """Draws a line for each class, with a dot where F1 is best."""
    figure, axes = _recall_axes("precision against recall of each class at IoU 0.5")
    lines: list[Drawn] = []
    for label, curve in curves.items():
        reached, best = _reached(curve), curve.best
        at = np.flatnonzero(np.isclose(RECALLS, best.recall)) if best.f1 > 0 else np.zeros(0, int)
        lines.append(Drawn(RECALLS[reached], curve.precision[reached], colors[label], mark=6.5, marked=at))
    draw_lines(axes, lines, 1.7, 1.0, markeredgecolor=COLORS["ground"], markeredgewidth=1.2)
    return figure


def mean_precision_recall(curves: Sequence[Curve]) -> Figure:
    """Draws the mean over classes, the middle half and eight tenths of them as bands."""
    figure, axes = _recall_axes("precision against recall at IoU 0.5, mean over the classes")
    precision = np.stack([np.maximum(curve.precision, 0) for curve in curves])
    for low, high, alpha in ((10, 90, 0.16), (25, 75, 0.22)):
        band = np.percentile(precision, [low, high], axis=0)
        axes.fill_between(RECALLS, *band, color=COLORS["series1"], alpha=alpha, linewidth=0, zorder=2)
    axes.plot(RECALLS, precision.mean(axis=0), color=COLORS["series1"], linewidth=2, zorder=3)
    return figure


def matrix(shares: Float[np.ndarray, "K1 K1"], rows: str, columns: str) -> Figure:
    """Draws a confusion matrix of many classes; the last row and column are the background."""
    figure, axes = empty("confusion matrix", columns, rows, 4.6)
    red, green, blue = (value / 255 for value in (46, 109, 212))  # seen on light and on dark ground
    image = np.empty((*shares.shape, 4))
    image[..., :3] = red, green, blue
    image[..., 3] = np.sqrt(shares)  # a few confusions in a hundred objects shall be seen
    axes.imshow(image, interpolation="none", aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    border = len(shares) - 1.5
    axes.axhline(border, color=COLORS["muted"], linewidth=0.6)
    axes.axvline(border, color=COLORS["muted"], linewidth=0.6)
    return figure


def _recall_axes(description: str) -> tuple[Figure, Axes]:
    figure, axes = empty(description, "recall", "precision", 3.6)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    recalls = np.linspace(0.001, 1, 1000)
    for f1 in (0.2, 0.4, 0.6, 0.8):  # lines of equal F1: precision = f1 r / (2 r - f1)
        beyond = recalls[recalls > f1 / 2]
        precision = f1 * beyond / (2 * beyond - f1)
        inside = precision <= 1.02
        axes.plot(beyond[inside], precision[inside], color=COLORS["muted"], linewidth=0.7, linestyle=":", zorder=1)
        axes.annotate(
            f"F1 {f1}", (1.0, f1 / (2 - f1)), xytext=(3, 0), textcoords="offset points", size=7.5,
            color=COLORS["muted"], va="center", annotation_clip=False,
        )  # fmt: skip
    return figure, axes


def _reached(curve: Curve) -> Int[np.ndarray, " r"]:
    """Finds the indices of the recalls that the class reaches, and one more at precision 0."""
    return np.arange(min(curve.num_reached + 1, len(RECALLS)))


def _binned(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Drops values that are not finite, and averages neighbours where there are too many to see."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) <= _POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), _POINTS)
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 10_000 else f"{number:g}"
