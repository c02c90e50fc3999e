"""Recognises what lies in a folder where a reader found no annotations, and says what to type so that it is read.

By names and content: exports of Roboflow, CVAT and Label Studio, YOLO's folders, and what a reader here knows but
elsewhere. Only asked when something is missing.
"""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.errors import DataError, NoAnnotationsError
from datamodules.layouts.foreign import FOREIGN
from datamodules.layouts.layout import Layout, folders, typed
from datamodules.layouts.readable import READABLE

_LISTED = 8


@contextmanager
def hint(root: Path, reader: str) -> Generator[None]:
    """Adds to a NoAnnotationsError what `root` holds instead; `reader` is the one that asks, `coco` or `voc`."""
    try:
        yield
    except NoAnnotationsError as error:
        text = ""
        with suppress(OSError):  # of a file that is not for us
            text = told(root, reader, or_all=reader == "voc" or isinstance(error.__cause__, OSError))
        raise DataError(f"{error}{text}") from error


def told(root: Path, reader: str, or_all: bool = True) -> str:
    """Says on a line of its own what lies in `root` and what to type; of no layout that is known, `or_all` of it."""
    layout = recognise(root)
    if layout is None:
        return _unknown(root) if or_all else ""
    text = f"\n{root} holds {layout.what}"
    if layout.reader is None:
        return f"{text}, which can't be read: {layout.remedy}"
    text += f"{layout.remedy and f', {layout.remedy}'}"
    then = "to read it" if not layout.remedy else "then, to read it"
    if layout.reader == reader:
        return f"{text}; {then}, add\n  {typed(layout.settings)}"
    return f"{text}; {then}, type in place of data={reader}\n  data={layout.reader} {typed(layout.settings)}"


def _unknown(root: Path) -> str:
    """What lies in a folder of no layout that is known; empty of one that is not there."""
    if not root.is_dir():
        return ""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir() if path.name[0] != ".")
    more = ", ..." if len(names) > _LISTED else ""
    there = f"has {', '.join(names[:_LISTED])}{more}" if names else "is empty"
    return f"\n{root} {there}; docs/data.md has the layouts that are read, and how others become one of them"


def recognise(root: Path) -> Layout | None:
    """Recognises the data set in a folder; one that can be read comes before one that can't."""
    there = list(folders(root))
    found = (find(root, there) for find in (*READABLE, *FOREIGN))
    return next((layout for layout in found if layout is not None), None)
