"""Words of messages that depend on a number or on values. Imports nothing heavy."""

from collections.abc import Iterable
from itertools import islice
from typing import SupportsIndex


def counted(number: SupportsIndex, noun: str, plural: str | None = None) -> str:
    """Writes a number with its noun: "1 box", "2 boxes"; the plural has an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def first_few(values: Iterable[object]) -> str:
    """Writes the first five values as in Python, so that the number 17 and the text '17' differ, shortened."""
    shown = [text if len(text := repr(value)) <= 80 else f"{text[:77]}..." for value in islice(values, 6)]
    return ", ".join([*shown[:5], "..."] if len(shown) > 5 else shown)
