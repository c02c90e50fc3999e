"""Words of messages that depend on a number. Imports nothing heavy."""

from typing import SupportsIndex


def counted(number: SupportsIndex, noun: str, plural: str | None = None) -> str:
    """Writes a number with its noun: "1 box", "2 boxes"; the plural has an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def scored(metric: str, score: float) -> str:
    """Writes a monitored metric with its value: a loss as it is, all else in percent, or that it has none."""
    if metric.startswith("val/loss"):
        return f"{metric} {score:.4f}"
    return f"{metric} {100 * score:.2f} %" if score >= 0 else f"{metric} without a value (nothing to find)"
