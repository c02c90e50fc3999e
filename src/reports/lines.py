"""Lines of a plot that don't hide one another: where some coincide, their colours alternate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes

_SHORTEST = 0.04
"""Part of the axis; where lines coincide for less they cross."""
_NEAR = 0.006
"""Part of the axis between lines that hide each other; a line is about as thick."""
_DASHES = {False: (3.0, 3.0), True: (4.0, 6.0)}
"""In widths of the line: the dash of a full or a dashed line among those that coincide, and how far on that of the next
one begins; of dashed lines over several full ones it is further, so that all of these are seen between."""
_RING = 2.5
"""Points by which the marks of a line are larger than those that coincide with and lie on them."""
_RINGS = 3
"""Marks that are seen around another at most."""


@dataclass(frozen=True)
class Drawn:
    """A line as it is drawn."""

    x: Float[np.ndarray, " n"]
    """Rising."""
    y: Float[np.ndarray, " n"]
    color: str
    dashed: bool = False
    mark: float = 0.0
    """Size of the marks of its points; 0: none."""
    marked: Int[np.ndarray, " m"] | None = None
    """The points that are marked; None: all."""

    @property
    def marks(self) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """The places of the marks."""
        return (self.x, self.y) if self.marked is None else (self.x[self.marked], self.y[self.marked])


def draw_lines(
    axes: Axes, lines: Sequence[Drawn], width: float, height: float, clip: bool = False, **marks: Any
) -> None:
    """Draws lines of a width in points on axes of a height in units of y; `marks`: how marks look."""
    extent = max((line.x[-1] for line in lines if len(line.x)), default=0.0)
    for at, line in enumerate(lines):
        near = np.array([_near(line, other, _NEAR * height) for other in lines], bool).reshape(len(lines), -1)
        alike = np.array([other.dashed == line.dashed for other in lines])
        for part, place, number, below in _parts(line, near, alike, at, _SHORTEST * extent):
            axes.plot(
                line.x[part], line.y[part], color=line.color, linewidth=width, zorder=3, clip_on=clip,
                linestyle=_style(line.dashed, place, number, below), solid_capstyle="butt", dash_capstyle="butt",
            )  # fmt: skip
        if line.mark:
            covered = [_marks_meet(line, other, _NEAR * height) for other in lines[at + 1 :] if other.mark]
            ring = _RING + 2 * marks.get("markeredgewidth", 0)
            size = line.mark + ring * min(sum(covered), _RINGS)
            axes.plot(*line.marks, "o", color=line.color, markersize=size, zorder=4, clip_on=clip, **marks)


def _near(line: Drawn, other: Drawn, tolerance: float) -> Bool[np.ndarray, " n"]:
    """Tells at which points another line passes, too near to be seen beside it; a dashed one hides no full one."""
    if other is line or (other.dashed and not line.dashed) or not len(other.x):
        return np.zeros(len(line.x), bool)
    inside = (line.x >= other.x[0]) & (line.x <= other.x[-1])
    return inside & (np.abs(np.interp(line.x, other.x, other.y) - line.y) <= tolerance)


def _parts(
    line: Drawn, near: Bool[np.ndarray, "l n"], alike: Bool[np.ndarray, " l"], at: int, shortest: float
) -> Iterator[tuple[slice, int, int, int]]:
    """Cuts a line where others join or leave it: points, its place among those of its kind that coincide, their number,
    and that of full lines below a dashed one."""
    if len(line.x) < 2:
        yield slice(0, len(line.x)), 0, 1, 0
        return
    segments = near[:, 1:] & near[:, :-1]
    own, full = segments & alike[:, None], segments & ~alike[:, None]
    kinds = np.stack((own[:at].sum(axis=0), 1 + own.sum(axis=0), full.sum(axis=0)), axis=1)
    ends = [0, *(1 + np.flatnonzero((kinds[1:] != kinds[:-1]).any(axis=1))).tolist(), len(kinds)]
    for first, last in pairwise(ends):
        place, number, below = kinds[first].tolist()
        if line.x[last] - line.x[first] < shortest:
            place, number, below = 0, 1, 0
        yield slice(first, last + 1), place, number, below


def _style(dashed: bool, place: int, number: int, below: int = 0) -> str | tuple[float, tuple[float, float]]:
    dash, step = _DASHES[dashed]
    if below > 1:
        step = dash + below * _DASHES[False][1]
    elif number == 1:
        return (0, (4, 2)) if dashed else "-"
    return -step * place % (step * number), (dash, step * number - dash)


def _marks_meet(line: Drawn, other: Drawn, tolerance: float) -> bool:
    """Tells whether any mark of one lies on a mark of the other."""
    (x, y), (other_x, other_y) = line.marks, other.marks
    return bool((np.isclose(x[:, None], other_x) & (np.abs(y[:, None] - other_y) <= tolerance)).any())
