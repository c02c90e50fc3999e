"""Published figures beside measured ones, for terminals and pages."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.expected import Compared
from reports.tables import NOTHING, Table
from reports.terminal import as_text, rich_table

_WITHIN = {True: "yes", False: "no", None: NOTHING}


@dataclass(frozen=True)
class ExpectedView:
    """What a page shows of published figures."""

    table: Table
    """Fractions of 1."""
    remarks: Sequence[str]


def expected_view(expected: Sequence[Compared]) -> ExpectedView | None:
    """Lays out the comparison in fractions of 1; None without figures."""
    return ExpectedView(_table(expected, 1, 4), _remarks(expected)) if expected else None


def expected_text(expected: Sequence[Compared]) -> str:
    """Lays out the comparison in percent for terminals; in a line for each reason where nothing is compared."""
    if all(one.measured is None for one in expected):
        return "\n".join(_remarks(expected))
    table = as_text(rich_table(_table(expected, 100, 2)), width=140)
    return "\n".join(["expected, in percent", table, *_remarks(expected)])


def _table(expected: Sequence[Compared], factor: int, decimals: int) -> Table:
    columns = ["metric", "measured", "published", "difference", "tolerance", "within", "source"]
    rows: list[list[object]] = []
    for one in expected:
        figure, signed = one.figure, one.difference
        rows.append(
            [
                figure.metric,
                _text(one.measured, factor, decimals),
                f"{factor * figure.value:.6g}",
                NOTHING if signed is None else f"{factor * signed:+.{decimals}f}",
                f"{factor * figure.tolerance:.4g} + {factor * figure.rounding:.4g}",
                _WITHIN[one.within],
                figure.source or "given",
            ]
        )
    return Table(columns, rows)


def _text(value: float | None, factor: int, decimals: int) -> str:
    return NOTHING if value is None else f"{factor * value:.{decimals}f}"


def _remarks(expected: Sequence[Compared]) -> list[str]:
    """Lists what is to be known of figures, each with the metrics that it is said of."""
    of: dict[str, list[str]] = {}
    for one in expected:
        if one.remark:
            of.setdefault(one.remark, []).append(f"{one.figure.metric} {100 * one.figure.value:.6g} %")
    return [f"{', '.join(metrics)}: {remark}" for remark, metrics in of.items()]
