"""Mistakes in the chosen files that Hydra would answer with a traceback, or without their names. Imports nothing heavy.

Invalid YAML, names in a `defaults` list that do not exist, lists that are none: told with file, entry and remedy.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from yaml import MarkedYAMLError, YAMLError

from boxwright.config import files
from boxwright.config.files import (
    find_file,
    folders,
    groups,
    has_group,
    hidden_file,
    is_shipped,
    name_file,
    nearest,
    options,
    plain,
)

_KEYWORDS = ("override", "optional")


def read(file: Path) -> dict[str, Any]:
    """Reads the settings of a file; YAMLError, UnicodeDecodeError or OSError where it can't be."""
    content = OmegaConf.load(file)
    if not OmegaConf.is_dict(content):
        raise OSError("expected settings, each as `key: value`, and not a list")
    return plain(content)


def unreadable(file: Path) -> str:
    """Says why a file can't be read; empty where it can."""
    where = name_file(file)
    try:
        read(file)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        return f"{place}: not valid YAML: {error.problem}"
    except YAMLError as error:
        return f"{where}: not valid YAML: {' '.join(str(error).split())}"
    except UnicodeDecodeError as error:
        return f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
    except OSError as error:
        return f"{where}: {error.strerror or error}"
    return ""


class Chosen:
    """Walks the files that a command line chooses and those that they start from; see `problems`."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._within: list[str] = []
        """The file that is looked at, behind those that it was named by."""
        self._added: dict[str, list[tuple[Path, str, str]]] = {}
        """Of each group, where it is chosen without `override`: file, group as it is written, choice."""

    def problems(self, path: str, group: str) -> Iterator[str]:
        """Yields what is wrong with a file, and with those that its `defaults` name.

        `path` is the file's without folder and ending; names in it are below `group`.
        """
        file = find_file("", path)
        if path in self._within:
            yield f"{name_file(find_file('', self._within[-1]))}, defaults: {path} starts from this file itself"
        if path in self._within or (path, group) in self._seen or not file.is_file():
            return
        self._seen.add((path, group))
        self._within.append(path)
        yield from self._problems_of(path, file, group)
        self._within.pop()

    def _problems_of(self, path: str, file: Path, group: str) -> Iterator[str]:
        if said := unreadable(file) or _hidden(path):
            yield said
            return
        entries, where = read(file).get("defaults", []), f"{name_file(file)}, defaults"
        if not isinstance(entries, list):
            yield f"{where}: expected a list, with lines such as `- override /model: retinanet`"
            return
        for entry in cast("list[Any]", entries):
            if isinstance(entry, str):
                yield from self._base(where, entry, group)
            elif isinstance(entry, dict) and len(cast(dict[str, Any], entry)) == 1:
                ((key, choice),) = cast(dict[str, Any], entry).items()
                yield from self._choice(file, str(key), choice, group)
            else:
                yield f"{where}, {entry}: expected a file's name, or one `group: choice` behind each `-`"

    def _base(self, where: str, entry: str, group: str) -> Iterator[str]:
        name, _, _ = entry.partition("@")
        path = _below(group, name)
        if name == "_self_" or "${" in name or "???" in name or path.startswith("hydra/"):
            return
        above = path.rpartition("/")[0]
        if find_file("", path).is_file():
            yield from self.problems(path, above)
        elif entry.split(" ")[0] in _KEYWORDS or has_group(path):
            yield f"{where}, {entry}: expected `{entry}: CHOICE`"
        else:
            known = {f"{prefix}{choice}" for prefix in ("", f"{name.rpartition('/')[0]}/") for choice in options(above)}
            absolute = (
                "" if not find_file("", name).is_file() else f"; write /{name} for a file that is not below {group}"
            )
            yield f"{where}, {entry}: there is no {path}.yaml in {_searched()}{absolute or nearest(name, known)}"

    def _choice(self, file: Path, key: str, choice: Any, group: str) -> Iterator[str]:
        *keywords, name = key.split(" ")
        name, _, package = name.partition("@")
        where = f"{name_file(file)}, defaults, {key}"
        chosen = cast("list[Any]", choice) if isinstance(choice, list) else [choice]
        is_override, path = "override" in keywords, _below(group, name)
        if path.startswith("hydra/"):
            return
        if set(keywords) - {*_KEYWORDS}:
            yield f"{where}: expected `group: choice`, with `override` or `optional` before it"
        elif not name.startswith("/") and group and not has_group(path) and has_group(name):
            yield f"{where}: write override /{name}"
        elif not has_group(path):
            known = groups()
            near = nearest(path, known) or f"; there are {', '.join(known)}"
            yield f"{where}: there is no group {path} in {_searched()}{near}"
        else:
            if not is_override and not package:
                self._added.setdefault(path, []).append((file, name, str(cast(object, choice))))
            for one in chosen:
                yield from self._file(where, path, one, is_override, "optional" in keywords)

    def _file(self, where: str, group: str, choice: Any, is_override: bool, is_optional: bool) -> Iterator[str]:
        if "${" in str(choice) or choice == "???" or (choice is None and not is_override):
            return
        if isinstance(choice, str) and find_file(group, choice).is_file():
            yield from self.problems(f"{group}/{choice}".removesuffix(".yaml"), group)
        elif not is_optional:
            near = nearest(str(choice), options(group)) or f"; there are {', '.join(options(group))}"
            yield f"{where}: {'null' if choice is None else choice}: no such choice{near}"

    def explained(self, error: Exception) -> str:
        """Writes Hydra's answer to a `defaults` list with the file that it is about; empty where it names none."""
        text = str(error).partition("\nConfig search path:")[0]
        if named := re.match(r"In '?([^':]+?)'?: ", text):
            file = find_file("", named[1])
            said = " ".join(text[named.end() :].split())
            return f"{name_file(file)}: {said}" if file.is_file() else ""
        twice = re.match(r"Multiple values for (\S+?)\.|(\S+) appears more than once", text)
        group = (twice[1] or twice[2]) if twice else ""
        while group:  # of which one chosen twice may be met first in the files of a group below it
            for file, name, choice in reversed(self._added.get(group, [])):
                if not is_shipped(file):
                    return f"{name_file(file)}, defaults, {name}: write override /{name.removeprefix('/')}: {choice}"
            group = group.rpartition("/")[0]
        return ""


def hidden(paths: Iterable[str]) -> list[str]:
    """Lists files of the user's, among those of a composed config, in whose place one of conf/ is read."""
    return [said for path in paths if (said := _hidden(path))]


def lacking(script: str, config: dict[str, Any]) -> str:
    """Says what a primary config of the user's lacks of the script's own; empty where it has all of it."""
    if missing := read(files.CONF / f"{script}.yaml").keys() - {"defaults", "hydra"} - config.keys():
        return f"no primary config, since it has no {', '.join(sorted(missing))}; begin its defaults with `- {script}`"
    return ""


def _hidden(path: str) -> str:
    own = hidden_file("", path)
    if own is None:
        return ""
    return f"{name_file(own)} is not read, since {name_file(find_file('', path))} comes first: give it another name"


def _below(group: str, name: str) -> str:
    return name[1:] if name.startswith("/") else f"{group}/{name}".removeprefix("/")


def _searched() -> str:
    return ", ".join(map(name_file, folders()))
