"""Ids of images and categories in annotation files: what is one, and sides that name the same things differently."""

from collections import Counter
from collections.abc import Iterable
from typing import TypeGuard

from datamodules.errors import DataError
from evaluation.wording import first_few

_LONGEST = 1000  # characters of an id, far beyond any name of a file

Id = int | str
KINDS = {int: "integers", str: "text"}


def integer(value: object) -> int | None:
    """Reads an integer; JSON has one kind of number, so 7.0 is 7. None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def is_int64(value: int | None) -> TypeGuard[int]:
    return value is not None and -(2**63) <= value < 2**63


def image_id(value: object) -> Id | None:
    """Reads the id of an image, an integer of 64 bits or a text; None for anything else."""
    if isinstance(value, str):
        return value if 0 < len(value) <= _LONGEST and "\0" not in value else None
    number = integer(value)
    return number if is_int64(number) else None


def kind_of(ids: Iterable[Id | None]) -> type[Id]:
    """Tells what most ids are; `int` where there are none, or as many of either kind."""
    counts = Counter(map(type, ids))
    return str if counts[str] > counts[int] else int


def refuse_one_sided(file: str, of: str, listed: Iterable[Id], named: Iterable[object]) -> None:
    """DataError where the images or categories (`of`) of a file have ids of one kind, and all its annotations name them
    by the other."""
    known = list(listed)
    found = {stated: None for stated in named if type(stated) in KINDS}
    kinds = {*map(type, found)}
    if not known or len(kinds) != 1 or (kind := kinds.pop()) is (ours := kind_of(known)):
        return
    raise DataError(
        f"{file}: its {of} have {KINDS[ours]} as ids ({first_few(known)}), its annotations name them by {KINDS[kind]} "
        f"({first_few(found)}); write the same on both sides"
    )
