"""Words of messages that depend on a number. Imports nothing heavy."""

from typing import SupportsIndex


def counted(number: SupportsIndex, noun: str, plural: str | None = None) -> str:
    """Writes a number with its noun: "1 box", "2 boxes"; the plural has an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
