"""Where a file lies that annotations name differently, and how the two paths differ.

Names are compared by what is left of them when slashes, URL quotes, letter case and Unicode form don't count.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

from datamodules.endings import PICTURES
from datamodules.images import shown

_MOST_MISSING, _MOST_ENTRIES, _DEPTH = 10, 300_000, 6
QUERY, QUOTES = "a URL's query behind the name", "URL quotes, as %20 for a space"
_QUERY = re.compile(r"(?<=\w)[?][^/?]*=[^/?]*$")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_DRIVE = re.compile(r"(?:^|/)[A-Za-z]:/")


@dataclass(frozen=True)
class Near:
    """A file that fits a missing path."""

    missing: str
    found: str
    causes: tuple[str, ...]
    """How the path of `found` differs, in words."""

    def __str__(self) -> str:
        return f"nearest to {shown(self.missing)} is {shown(self.found)}: {', '.join(self.causes)}"


def nearest(missing: Sequence[str], root: Path) -> Near | None:
    """Looks under `root` for the first of some missing files that is there by another name; None if none is."""
    if not missing:
        return None
    there: dict[str, list[str]] = {_stem(_parts(path)[-1]): [] for path in missing[:_MOST_MISSING]}
    for path in _files(root):
        if (stem := _stem(_parts(os.path.basename(path))[-1])) in there:
            there[stem].append(path)
    for path in missing[:_MOST_MISSING]:
        if fits := there[_stem(_parts(path)[-1])]:
            found = max(fits, key=partial(_fit, path))
            return Near(path, found, tuple(_causes(path, found, str(root))))
    return None


def _files(root: Path) -> Iterator[str]:
    """Lists files below a folder, the nearest first."""
    level, left = [str(root)], _MOST_ENTRIES
    for _ in range(_DEPTH):
        below: list[str] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        left -= 1
                        if left < 0:
                            return
                        if entry.is_file():  # not a link to nothing
                            yield entry.path
                        elif entry.is_dir() and not entry.name.startswith("."):
                            below.append(entry.path)
            except OSError:
                continue
        level = below


def _parts(path: str) -> list[str]:
    return [part for part in _unquoted(path).replace("\\", "/").split("/") if part != "."]


def _unquoted(path: str) -> str:
    return unquote(_QUERY.sub("", path), errors="surrogateescape")


def _folded(text: str) -> str:
    """What is compared of a part of a path."""
    return unicodedata.normalize("NFC", text.casefold()).strip()


def _stem(name: str) -> str:
    """A name, folded, without zeros before numbers and the ending of a picture."""
    stem, ending = os.path.splitext(_folded(name))
    stem = _ZEROS.sub("", stem)
    return stem if ending in PICTURES else stem + ending


def _shared(parts: Sequence[str], others: Sequence[str]) -> int:
    """Counts the parts at the start of two paths that are the same when folded."""
    same = takewhile(lambda pair: _folded(pair[0]) == _folded(pair[1]), zip(parts, others, strict=False))
    return sum(1 for _ in same)


def _fit(missing: str, found: str) -> tuple[int, int, int]:
    """The larger, the better: the same ending, folders in common at the end, a short path."""
    parts, others = _parts(missing), _parts(found)
    return _folded(parts[-1]) == _folded(others[-1]), _shared(parts[-2::-1], others[-2::-1]), -len(found)


def _causes(missing: str, found: str, root: str) -> Iterator[str]:
    if "\\" in missing:
        yield "backslashes in place of slashes"
    if _QUERY.search(missing):
        yield QUERY
    if unquote(missing) != missing and "%" not in found:
        yield QUOTES
    elif _unquoted(found) != found:
        yield "URL quotes in the name of the file itself"
    parts, others = _parts(missing), _parts(found)
    tail = 1 + _shared(parts[-2::-1], others[-2::-1])
    start = _shared(parts[:-tail], others[:-tail])
    stated, real = ("/".join(path[start : len(path) - tail]) for path in (parts, others))
    ends = [os.path.splitext(path[-1].strip())[1] for path in (parts, others)]
    if _folded(ends[0]) != _folded(ends[1]):
        if ends[0] and ends[1]:
            yield f"the ending {ends[1]} in place of {ends[0]}"
        else:
            yield f"the ending {ends[0]} is one too many" if ends[0] else f"the ending {ends[1]} is lacking"
        parts[-1], others[-1] = (os.path.splitext(path[-1])[0] for path in (parts, others))
    pairs = list(zip(parts[-tail:], others[-tail:], strict=True))
    if any(a.strip() != a or b.strip() != b for a, b in pairs if a != b):
        yield "spaces around a name"
    pairs = [(a.strip(), b.strip()) for a, b in pairs]
    if _folded(pairs[-1][0]) != _folded(pairs[-1][1]):
        yield "zeros before a number"
        pairs[-1] = (_ZEROS.sub("", pairs[-1][0]), _ZEROS.sub("", pairs[-1][1]))
    if any(a.casefold() != b.casefold() for a, b in pairs):
        yield "another Unicode form of a letter (NFC, NFD)"
    if any(unicodedata.normalize("NFC", a) != unicodedata.normalize("NFC", b) for a, b in pairs):
        yield "other letter case"
    if _DRIVE.search("/".join(parts)) or not Path(missing).is_relative_to(root):
        yield "an absolute path of another machine"
    elif stated and real:
        yield f"the folder {real} in place of {stated}"
    elif stated:
        yield f"the folder {stated} is one too many"
    elif real:
        yield f"the folder {real} is lacking"
