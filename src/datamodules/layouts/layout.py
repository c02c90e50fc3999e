"""What a layout is, and what finding one takes."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from xml.sax.saxutils import unescape

Setting = str | float | list[str]

_DEPTH, _MOST_FOLDERS, _MOST_XML = 3, 500, 2000
_ROLES = ("train", "val", "test")
_ROLE = re.compile(
    r"(?<![a-z])(?:(train(?:ing|val)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?))\d*(?![a-z])", re.IGNORECASE
)
"""The part of a path that tells what its images are for."""
_OBJECT_NAME = re.compile(r"<object>.*?<name>\s*(.*?)\s*</name>", re.DOTALL)
_NO_TEXT = re.compile(r"[0-9_.+-]*\d[0-9_.+-]*(e[0-9_+-]+)?|null|true|false|nan|[+-]?inf", re.IGNORECASE)
"""What Hydra takes for something else than text."""


@dataclass(frozen=True)
class Layout:
    """A data set that was recognised."""

    what: str
    reader: str | None = None
    """`coco` or `voc`: which `data=` reads it; None: none does."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Of `data.`, with which it is read."""
    remedy: str = ""
    """What makes it readable, where it is not; else what it lacks, if anything."""


def typed(settings: Mapping[str, Setting]) -> str:
    """Writes settings of `data.` for a command line, quoted for Hydra and for the shell where either needs it."""
    return " ".join(map(for_shell, words(settings)))


def words(settings: Mapping[str, Setting]) -> list[str]:
    """Writes settings of `data.` as Hydra takes them."""
    return [f"data.{key}={_for_hydra(value)}" for key, value in settings.items()]


def for_shell(word: str) -> str:
    """Quotes a word for the shell, in double quotes where it has single ones and nothing that the shell would read."""
    quoted = shlex.quote(word)
    return f'"{word}"' if quoted != word and "'" in word and not set('"$`\\!') & set(word) else quoted


def _for_hydra(value: Setting) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_for_hydra, value))}]"
    if not isinstance(value, str) or (re.fullmatch(r"[A-Za-z0-9_./-]+", value) and not _NO_TEXT.fullmatch(value)):
        return str(value)
    # Between quotes Hydra takes a backslash for itself, unless a quote follows.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (r"\'" if found[2] else ""), value) + "'"


def folders(root: Path) -> Iterator[Path]:
    """Lists `root` and folders in it, the nearest first."""
    level, left = [root], _MOST_FOLDERS
    for _ in range(_DEPTH + 1):
        yield from level
        left -= len(level)
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    below += sorted(folder / e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            except OSError:  # no folder, or not for us
                continue
        level = below[:left]


def files_in(folders: Iterable[Path], *patterns: str) -> Iterator[Path]:
    """Finds files in folders, not below them, by patterns of their names; those of earlier patterns come first."""
    for folder in folders:
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
        except OSError:
            continue
        yield from (folder / name for pattern in patterns for name in names if fnmatchcase(name, pattern))


def head(file: Path, size: int = 4096) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(size).decode(errors="replace")
    except OSError:
        return ""


def below(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def splits_of(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Finds a pattern with {split} that most of some paths share, and the text in its place for each role.

    Without a path for training, both are empty.
    """
    patterns: dict[str, dict[str, str]] = {}
    for name in names:
        for found in list(_ROLE.finditer(name))[-1:]:
            role = next(role for role, text in zip(_ROLES, found.groups(), strict=True) if text)
            patterns.setdefault(braced(name, found[0]), {}).setdefault(role, found[0])
    complete = [(pattern, splits) for pattern, splits in patterns.items() if "train" in splits]
    return max(complete, key=lambda item: len(item[1]), default=("", {}))


def braced(name: str, split: str) -> str:
    return re.sub(rf"(?<![A-Za-z]){re.escape(split)}(?![A-Za-z0-9])", "{split}", escaped(name))


def escaped(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")


def roles(splits: Mapping[str, str]) -> dict[str, Setting]:
    """The settings of splits; without one to validate on, a tenth of training is held out."""
    train = splits["train"]
    val = splits.get("val", splits.get("test", train))
    roles: dict[str, Setting] = {"train_split": train, "val_split": val, "test_split": splits.get("test", val)}
    return roles | ({"val_fraction": 0.1} if val == train else {})


def class_names(folder: Path) -> list[str]:
    """Lists the names of objects in the XML files of a folder and below it, or in the first ones of many."""
    texts = (head(file, 2**20) for file in islice(files_in(folders(folder), "*.xml"), _MOST_XML))
    return sorted({unescape(name) for text in texts for name in _OBJECT_NAME.findall(text)} - {""})
