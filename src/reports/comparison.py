"""Finished and unfinished runs side by side, with the settings that they differ in, and their results."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

SEEDS = ("seed", "data.seed")
_LABELS = ("name", "logger", "expect", "data.num_workers", "data.cache_dir", "trainer.enable_progress_bar")
"""Settings that no result depends on, with all below them."""
RESIZE, RULE = "data.resize", "data.rule"
_COPIES = ("model.optimizer.", "model.schedule.", "model.num_classes", "model.decoder.box_weights")
"""Settings that follow from others."""
_MOST = 6
"""Columns at most of settings that no command line gave."""


@dataclass(frozen=True)
class Result:
    """One run, as read from its folder."""

    folder: str
    settings: Mapping[str, Any]
    """Leaves of the config by dotted key."""
    choices: Mapping[str, Any]
    """Choices of config groups: `model/backbone`."""
    overridden: frozenset[str]
    """Settings and groups that a command line gave."""
    state: Literal["finished", "unfinished", "failed"]
    step: int
    """The last one."""
    steps: int = -1
    """Steps of the whole run; -1 where they are not known."""
    reason: str = ""
    """Reason of a failure."""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    """Figures at the best step: metrics by name as fractions of 1, those of a test split of its own as `test/AP`, and
    `val/loss`; `ms_per_image`, `train_seconds`."""
    timed: str = ""
    """Device and precision of `ms_per_image`."""

    def setting(self, key: str) -> Any:
        """Finds a choice, a leaf, or all that lies below a key as a mapping; None where there is nothing."""
        if key in self.choices:
            return self.choices[key]
        start = f"{key}."
        below = {name.removeprefix(start): value for name, value in self.settings.items() if name.startswith(start)}
        return self.settings.get(key, below.get("_target_", below or None))


@dataclass(frozen=True)
class Figure:
    """A mean over runs; `spread` is the sample standard deviation, None for a single one."""

    mean: float
    spread: float | None = None

    @staticmethod
    def of(values: Sequence[float]) -> "Figure":
        return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seeds alone, whatever they are called."""

    results: Sequence[Result]

    @property
    def counted(self) -> list[Result]:
        """The runs that are averaged: of each seed the last finished one, or all if none is finished."""
        finished = [result for result in self.results if result.state == "finished"]
        return list({_text([result.setting(key) for key in SEEDS]): result for result in finished}.values()) or list(
            self.results
        )

    @property
    def is_finished(self) -> bool:
        return self.counted[0].state == "finished"

    @property
    def state(self) -> str:
        if len(self.results) == 1:
            result = self.results[0]
            of = f" of {result.steps}" if result.steps > 0 else ""
            return result.state if result.state == "finished" else f"{result.state} at step {result.step}{of}"
        states = [result.state for result in self.results]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    @property
    def steps(self) -> int:
        return max(result.step for result in self.counted)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Figures that every counted run has; those that could not be measured (-1, nan) are skipped."""
        names = dict.fromkeys(name for result in self.counted for name in result.figures)
        values = {name: [result.figures.get(name, math.nan) for result in self.counted] for name in names}
        return {name: Figure.of(column) for name, column in values.items() if all(value >= 0 for value in column)}

    def setting(self, key: str) -> Any:
        return self.results[0].setting(key)

    @property
    def size(self) -> str:
        """`short_side 400`; empty where the data know no rule."""
        return f"{self.setting(RULE)} {self.setting(RESIZE)}" if self.setting(RULE) is not None else ""


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of their settings."""

    rows: Sequence[Row]
    columns: Sequence[str]
    """Settings in which the rows differ, without the size of the pictures."""

    @property
    def results(self) -> list[Result]:
        return [result for row in self.rows for result in row.results]

    @property
    def figures(self) -> list[str]:
        """Names of the figures of any row."""
        return list(dict.fromkeys(name for row in self.rows for name in row.figures))

    @property
    def rows_are_distinct(self) -> bool:
        """Tells whether size and columns differ from row to row; else the folders must be shown."""
        return len({_text([row.setting(key) for key in (RULE, RESIZE, *self.columns)]) for row in self.rows}) == len(
            self.rows
        )


def compare(results: Iterable[Result]) -> Comparison:
    """Groups runs that differ only in seeds and names in rows, with columns for overridden settings that differ,
    and for a few others where the rows would look the same without."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        kept = {key: value for key, value in result.settings.items() if key not in SEEDS and not _is_label(key)}
        groups.setdefault(_text(kept), []).append(result)
    rows = [Row(sorted(group, key=lambda result: result.folder)) for group in groups.values()]

    def differing(keys: Iterable[str]) -> list[str]:
        known = (*SEEDS, RESIZE, RULE)
        keys = [key for key in keys if key not in known and not _is_label(key)]
        return [key for key in keys if len({_text(row.setting(key)) for row in rows}) > 1]

    columns = differing(sorted({key for row in rows for result in row.results for key in result.overridden}))
    if not Comparison(rows, columns).rows_are_distinct:
        leaves = dict.fromkeys(key for row in rows for result in row.results for key in result.settings)
        others = [key for key in differing(leaves) if key not in columns and not key.startswith(_COPIES)]
        columns += others if len(others) <= _MOST else []
    order = (*columns, RULE, RESIZE)
    return Comparison(sorted(rows, key=lambda row: [_rank(row.setting(key)) for key in order]), columns)


def _is_label(key: str) -> bool:
    return key in _LABELS or key.startswith(tuple(f"{label}." for label in _LABELS))


def shown(value: Any) -> str:
    """Writes a setting as it is typed."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _rank(value: Any) -> tuple[int, float, str]:
    """Sorts nothing first, then numbers, then words."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1, float(value), ""
    return (0, 0.0, "") if value is None else (2, 0.0, _text(value))
