"""Which class of a run starts from which class of a checkpoint, by their names."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boxwright.config.errors import ConfigError, few
from boxwright.config.files import nearest


@dataclass(frozen=True)
class Match:
    """The classes of a run and of a checkpoint, in the order of their labels."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    source: tuple[int | None, ...]
    """For each of ours the label of the one that it starts from; None where there is none."""

    @property
    def is_same(self) -> bool:
        """Whether the classes are the same in the same order."""
        return self.source == tuple(range(len(self.theirs)))

    def lines(self) -> list[str]:
        """Says which classes are kept, new and left out, each with their number and some of the names."""
        kept = [
            name if name == self.theirs[place] else f"{name} (from {self.theirs[place]})"
            for name, place in zip(self.ours, self.source, strict=True)
            if place is not None
        ]
        new = [name for name, place in zip(self.ours, self.source, strict=True) if place is None]
        left = [name for place, name in enumerate(self.theirs) if place not in self.source]
        parts = (
            ("classes that start from the checkpoint's", kept),
            ("new classes, whose weights are drawn anew", new),
            ("classes of the checkpoint that are left out", left),
        )
        hint = (
            [] if kept else ["none has the name of one of the checkpoint's; init_classes={NEW: OLD} pairs them by hand"]
        )
        return [*(f"{what} ({len(names)}): {few(names)}" for what, names in parts if names), *hint]


def match_classes(ours: Sequence[str], theirs: Sequence[str], given: Mapping[str, str | None] | None = None) -> Match:
    """Finds for each class of `ours` the one of `theirs` with its name: as it is written, else without regard to upper
    and lower case, spaces, hyphens and underscores.

    A name that is not unique on both sides has no counterpart, unless both lists are the same. `given` goes first: for
    some of `ours` the one of `theirs` to start from, or None for none; ConfigError where either does not exist.
    """
    chosen = _chosen(ours, theirs, given or {})
    if tuple(ours) == tuple(theirs) and not chosen:
        return Match(tuple(ours), tuple(theirs), tuple(range(len(ours))))
    exact, loose = _pairs(ours, theirs), _pairs([_plain(name) for name in ours], [_plain(name) for name in theirs])
    taken = set(exact.values())
    loose = {k: j for k, j in loose.items() if k not in exact and j not in taken}
    found = exact | loose | chosen
    return Match(tuple(ours), tuple(theirs), tuple(found.get(k) for k in range(len(ours))))


def _pairs(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Places of names that both sides have exactly once."""
    return {k: theirs.index(name) for k, name in enumerate(ours) if ours.count(name) == 1 and theirs.count(name) == 1}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())


def _chosen(ours: Sequence[str], theirs: Sequence[str], given: Mapping[str, str | None]) -> dict[int, int | None]:
    chosen: dict[int, int | None] = {}
    for name, other in ((str(name), None if other is None else str(other)) for name, other in given.items()):
        for one, there, whose in ((name, ours, "this run"), (other, theirs, "the checkpoint")):
            if one is not None and there.count(one) != 1:
                how_many = "no class" if one not in there else "several classes"
                known = nearest(one, there) or f"; there are {few(there)}"
                raise ConfigError(
                    f"init_classes={{{name}: {'null' if other is None else other}}}: {whose} has {how_many} of the "
                    f"name {one!r}{known if one not in there else ''}; expected a class of this run and, behind the "
                    "colon, the one of the checkpoint that it starts from, or null"
                )
        chosen[ours.index(name)] = None if other is None else theirs.index(other)
    return chosen
