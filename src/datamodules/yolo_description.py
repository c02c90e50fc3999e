"""The description of a YOLO data set: the names of its classes, and where the images of its splits lie.

Ultralytics' `data.yaml`, darknet's `obj.data`, and Label Studio's `classes.txt` beside a folder `images`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import DataError, NoAnnotationsError
from datamodules.images import shown

ROLES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What a split may be called in the YAML file."""

_YAML, _OTHERS = (".yaml", ".yml"), ("obj.data", "classes.txt")


@dataclass(frozen=True)
class Description:
    """What such a file says."""

    file: Path
    names: tuple[str, ...]
    content: dict[str, Any]

    def sources(self, split: str) -> list[Path]:
        """Returns the folders and lists of a split; DataError where it has none, or one does not exist."""
        keys = next((keys for keys in ROLES.values() if split in keys), (split,))
        key = next((key for key in (split, *keys) if self.content.get(key)), None)
        if key is None:
            there = [name for keys in ROLES.values() for name in keys if self.content.get(name)]
            raise DataError(
                f"{self.file} has no {split!r}, it has {', '.join(there) or 'no split'}; name its folder there"
            )
        stated = self.content[key]
        return [self._found(key, str(one)) for one in (stated if isinstance(stated, list) else [stated])]

    def _found(self, key: str, stated: str) -> Path:
        """Finds a path as Ultralytics does: from `path`, then from the YAML's own folder; Roboflow writes `../train`
        for what lies in `train`."""
        start = Path(str(self.content.get("path") or "."))
        tried = [home / name for home in (self.file.parent / start, self.file.parent) for name in _spellings(stated)]
        for path in tried:
            if path.exists():
                return Path(os.path.abspath(path))
        raise NoAnnotationsError(
            f"{self.file}: {key}={stated} is at none of {', '.join(dict.fromkeys(map(os.path.normpath, tried)))}; "
            "correct it, or `path` in that file"
        )


def _spellings(stated: str) -> tuple[str, ...]:
    """A path as it is stated, and without a first folder that is not there: Roboflow writes `../train` for `train`,
    CVAT `data/train`."""
    return tuple(dict.fromkeys((stated, re.sub(r"^(\./)?(\.\.|data)/", "", stated))))


def place_of(line: str, file: Path) -> Path:
    """Returns the path of an image that a list names, from the folder of the list."""
    tried = [file.parent / name for name in _spellings(line)]
    return Path(os.path.normpath(next((path for path in tried if path.is_file()), tried[0])))


def find_description(root: Path) -> Path:
    """Finds the description of a data set: `root` itself, or the file in it that has the names of classes."""
    if root.is_file():
        return root
    files = sorted(path for path in root.glob("*") if path.suffix in _YAML) if root.is_dir() else []
    named = [path for path in files if re.search(r"^names\s*:", path.read_text(errors="replace"), re.MULTILINE)]
    named = named or [root / name for name in _OTHERS if (root / name).is_file()][:1]
    if not named:
        there = f"it has {', '.join(path.name for path in files)}" if files else "it has no YAML file"
        raise NoAnnotationsError(
            f"{root} has no data.yaml with `names`, {there if root.is_dir() else 'since it does not exist'}; give the "
            "file itself as data.root=FILE.yaml, or write one (docs/data.md)"
        )
    if len(named) > 1 and (root / "data.yaml") not in named:
        listed = ", ".join(path.name for path in named)
        raise DataError(f"{root} has several descriptions of data, {listed}: give one as data.root=FILE.yaml")
    return root / "data.yaml" if root / "data.yaml" in named else named[0]


def read_description(file: Path) -> Description:
    """Reads names and paths; DataError where they are of another form."""
    try:
        content = _content(file)
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} can't be read as {'YAML' if file.suffix in _YAML else 'text'}: {_line(error)}"
        ) from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise DataError(
            f"{file}: `names` is {shown(str(names))[:200]}; expected a list of names, or a name for each number from 0"
        )
    names = [str(name).strip() for name in names]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file}: `names` has {', '.join(doubled)} twice; make each unique")
    if isinstance(number := content.get("nc"), int) and number != len(names):
        raise DataError(f"{file}: nc is {number}, but `names` has {len(names)}; correct one of them")
    return Description(file, tuple(names), content)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _content(file: Path) -> Any:
    if file.suffix in _YAML:
        return yaml.safe_load(file.read_bytes())
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if file.name == "classes.txt":
        return {"names": lines, "train": "images"}
    content: dict[str, Any] = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    names = place_of(content.pop("names", "obj.names"), file)
    content["names"] = [name for name in map(str.strip, names.read_text(encoding="utf-8-sig").splitlines()) if name]
    return {"val": content.pop("valid", None), **content}
