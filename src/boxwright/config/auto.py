"""`data=auto`: looks at what lies in `data.root`, and puts the settings that read it in its place."""

import sys
from collections.abc import Sequence
from pathlib import Path

from boxwright.config.errors import listed
from boxwright.config.places import parsed

_AUTO, _ROOT = "data=auto", "data.root"
_OF_CLASSES = ("data.classes", "data.num_classes")


def recognised(argv: Sequence[str]) -> list[str]:
    """Returns a command line without `data=auto`, and says what was found; ends with status 2 where nothing was.

    What the command line itself sets stays as it is.
    """
    lines = parsed(argv).overrides
    if _AUTO not in lines:
        return list(argv)
    given = dict(line.partition("=")[::2] for line in lines)
    try:
        found, settings = _look(given.get(_ROOT))
    except ValueError as error:
        print(listed([str(error)]), file=sys.stderr)
        sys.exit(2)
    print(f"{_AUTO}: {found}", file=sys.stderr)
    kept = [line for line in settings if not _is_given(line.partition("=")[0], given)]
    rest = [
        line for line in lines if line.partition("=")[0] != _ROOT or not any(s.startswith(f"{_ROOT}=") for s in kept)
    ]
    at = rest.index(_AUTO)
    return [*argv[: len(argv) - len(lines)], *rest[:at], *kept, *rest[at + 1 :]]


def _is_given(key: str, given: dict[str, str]) -> bool:
    """Whether the command line has a setting, or another that decides it."""
    if key in _OF_CLASSES:
        return any(one in given for one in _OF_CLASSES)
    return key in given and key not in ("data", _ROOT)


def _look(stated: str | None) -> tuple[str, list[str]]:
    """Returns what lies in a folder, in words, and the overrides that read it; ValueError where none do."""
    from datamodules import layouts  # only here: other command lines need none of it
    from datamodules.layouts.layout import words

    if not stated or "," in stated:
        raise ValueError(f"{_AUTO}: give the one folder to look at, {_ROOT}=FOLDER")
    root = Path(stated.strip("'\"")).expanduser()
    if not root.is_dir():
        raise ValueError(f"{_AUTO}: {_ROOT}={root} is not a folder")
    layout = layouts.recognise(root.absolute())
    if layout is None:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
        raise ValueError(
            f"{_AUTO}: no annotations were recognised in {root}, which has {there}; expected COCO's JSON, Pascal VOC's "
            "ImageSets and Annotations, a YOLO data.yaml, or text lists of boxes (docs/data.md)"
        )
    if layout.reader is None:
        raise ValueError(f"{_AUTO}: {root} holds {layout.what}, which can't be read: {layout.remedy}")
    lines = [f"data={layout.reader}", *words(layout.settings)]
    said = f"{root} holds {layout.what}{layout.remedy and f', {layout.remedy}'}; read as\n  {' '.join(lines)}"
    return said, lines
