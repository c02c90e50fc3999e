"""A checkpoint is a path, a published name or an address on the Hub; what is wrong with one that is none of them.

Imports nothing heavy.
"""

import re
from difflib import get_close_matches
from pathlib import Path

from boxwright.config.errors import ConfigError
from boxwright.zoo.address import address_problem, is_address
from boxwright.zoo.catalogue import CATALOGUE, SOURCES, TRUNKS, out_of_scope
from boxwright.zoo.entry import Entry, Trunk

NO_DATA = "NO_DATA"
"""Stands for the folder of the data in a checkpoint that brings none: one of the catalogue, or from push.py."""
_FILES = (".ckpt", ".pth", ".pt", ".pkl", ".safetensors")


def published(checkpoint: str | Path) -> tuple[Entry, Path | None] | None:
    """The catalogue's entry that a name means, with the file that is given with it (`NAME=FILE`); None for a path.

    A file that exists is a path, whatever it is called.
    """
    given = str(checkpoint)
    if Path(given).exists():
        return None
    name, equals, file = given.partition("=")
    entry = CATALOGUE.get(name)
    return None if entry is None else (entry, Path(file).expanduser() if equals else None)


def is_named(checkpoint: object) -> bool:
    """Whether a checkpoint is no path: a published name, or an address on the Hub."""
    return checkpoint is not None and (is_address(checkpoint) or published(str(checkpoint)) is not None)


def trunk(weights: object) -> Trunk | None:
    """The published backbone that `model.backbone.weights` names; None for a path."""
    return TRUNKS.get(str(weights)) if weights is not None and not Path(str(weights)).exists() else None


def refuse_unknown(key: str, checkpoint: str | Path | None) -> None:
    """Raises ConfigError for what is neither a file nor a published name nor an address; one that looks like a path is
    left to its reader, which says it as well."""
    if problem := name_problem(key, checkpoint):
        raise ConfigError(problem)


def name_problem(key: str, checkpoint: str | Path | None) -> str:
    """Says what is wrong with a published name, with the file that is given with it, or with an address; empty if
    nothing is."""
    if checkpoint is None:
        return ""
    given = str(checkpoint)
    if is_address(given):
        return address_problem(key, given)
    if (found := published(given)) is not None:
        entry, file = found
        if file is not None and not file.is_file():
            return f"{key}={given}: {file} is no file, seen from {Path.cwd()}; give {key}={entry.name}=FILE"
        return ""
    name = given.partition("=")[0]
    if Path(given).exists() or Path(name).suffix in _FILES or Path(name).is_absolute():
        return ""
    near = nearest_names(name)
    if not near and not name.startswith(tuple(f"{source}/" for source in SOURCES)):
        return ""
    if why := out_of_scope(name):
        near = [*near, "docs/zoo.md"]
        return f"{key}={given}: {why}; nearest are {', '.join(near)}"
    listed = f"nearest are {', '.join(near)}" if near else f"there are those of {', '.join(SOURCES)}"
    return (
        f"{key}={given}: there is no such file, seen from {Path.cwd()}, and no published checkpoint of that name; "
        f"{listed}; docs/zoo.md lists all"
    )


def nearest_names(name: str) -> list[str]:
    """The published names nearest to one, at most three: of its source, or with the same last part."""
    if not re.fullmatch(r"[\w./-]{3,200}", name):
        return []
    lower = {entry.lower(): entry for entry in CATALOGUE}
    whole = get_close_matches(name.lower(), lower, n=3, cutoff=0.7)
    if not whole:
        of_last = {entry.rpartition("/")[2]: entry for entry in lower}
        whole = [
            of_last[last] for last in get_close_matches(name.lower().rpartition("/")[2], of_last, n=3, cutoff=0.75)
        ]
    return [lower[found] for found in whole]
