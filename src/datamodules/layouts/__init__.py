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


@contextmanager
def hint(root: Path, reader: str) -> Generator[None]:
    """Adds to a NoAnnotationsError what `root` holds instead; `reader` is the one that asks, `coco` or `voc`."""
    try:
        yield
    except NoAnnotationsError as error:
        text = ""
        with suppress(OSError):  # of a file that is not for us
            text = told(root, reader)
        raise DataError(f"{error}{text}") from error


def told(root: Path, reader: str) -> str:
    """Says on a line of its own what lies in `root` and what to type; empty if nothing is recognised."""
    layout = recognise(root)
    if layout is None:
        return ""
    text = f"\n{root} holds {layout.what}"
    if layout.reader is None:
        return f"{text}, which can't be read: {layout.remedy}"
    text += f"{layout.remedy and f', {layout.remedy}'}"
    if layout.reader == reader:
        return f"{text}; to read it, add\n  {typed(layout.settings)}"
    return f"{text}; to read it, type in place of data={reader}\n  data={layout.reader} {typed(layout.settings)}"


def recognise(root: Path) -> Layout | None:
    """Recognises the data set in a folder; one that can be read comes before one that can't."""
    there = list(folders(root))
    found = (find(root, there) for find in (*READABLE, *FOREIGN))
    return next((layout for layout in found if layout is not None), None)
