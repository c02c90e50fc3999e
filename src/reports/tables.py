"""One kind of table for pages and terminals: numbers and texts, written as they are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

NOTHING = "-"
"""Stands for a number that there is none of."""
_LONG = 28
"""Letters of a text that stays on one line."""


class Cell(NamedTuple):
    """A value as it is shown."""

    kind: str
    """`number`, `text`, or `long` for a text that may be broken into lines."""
    text: str
    sort_key: str | None = None
    """A number with its digits, empty for none; None for texts, which are sorted as they are shown."""
    bar: float | None = None
    """Per cent, in a column of bars."""


@dataclass(frozen=True)
class Table:
    """Columns that hold numbers or texts; None and nan are shown as a dash, fractions with three decimals."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    bars: Sequence[str] = ()
    """Columns of fractions of 1 with a bar beside each number."""

    @cached_property
    def numeric(self) -> list[bool]:
        """Tells of each column whether it holds numbers, or nothing at all."""
        return [
            name in self.bars or all(value is None or _is_number(value) for value in self._column(at))
            for at, name in enumerate(self.columns)
        ]

    @cached_property
    def cells(self) -> list[list[Cell]]:
        """The rows as they are shown."""
        formats = [
            _format([value for value in self._column(at) if _is_number(value)]) for at in range(len(self.columns))
        ]
        return [
            [
                _number(value, formats[at], self.columns[at] in self.bars) if self.numeric[at] else _text(value)
                for at, value in enumerate(row)
            ]
            for row in self.rows
        ]

    def _column(self, at: int) -> list[object]:
        return [row[at] for row in self.rows]


def known(value: float | None) -> float | None:
    """Gives a metric, or None where there was nothing to find: -1 (COCO), nan (VOC)."""
    return None if value is None or math.isnan(value) or value < 0 else value


def fraction(value: float | None) -> str:
    """Writes a metric with three decimals; a dash where there is none."""
    return NOTHING if known(value) is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Writes a metric in per cent with one decimal; a dash where there is none."""
    return f"{100 * found:.1f}" if (found := known(value)) is not None else NOTHING


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


def _format(numbers: Sequence[Any]) -> str:
    is_whole = all(isinstance(number, int | np.integer) for number in numbers)
    return ".3f" if not is_whole and all(not number > 1 for number in numbers) else ".4g"


def _number(value: Any, form: str, has_bar: bool) -> Cell:
    if value is None or not math.isfinite(value):
        return Cell("number", NOTHING, "")
    text = f"{value:,}" if isinstance(value, int | np.integer) else f"{value:{form}}"
    return Cell("number", text, f"{value:.12g}", 100 * min(max(value, 0), 1) if has_bar else None)


def _text(value: object) -> Cell:
    text = "" if value is None else str(value)
    return Cell("text" if len(text) <= _LONG else "long", text)
