"""A checkpoint that was verified once and is read again next: its contents, kept for one reading."""

from pathlib import Path
from typing import Any

_remembered: dict[object, dict[str, Any]] = {}


def remember(path: str | Path, contents: dict[str, Any]) -> None:
    """Keeps verified contents for the next `read_checkpoint` of this file, if it is unchanged by then.

    Verifying takes a pass over all bytes and all weights. They are handed out once, since the caller may change them,
    and so that no run keeps them for long.
    """
    _remembered.clear()
    _remembered[_identity(Path(path))] = contents


def recalled(path: str | Path) -> dict[str, Any] | None:
    """Hands out the contents that were kept of a file, or of a name or address; None where there are none."""
    return _remembered.pop(_identity(Path(path)), None)


def _identity(path: Path) -> object:
    """Gives a value that changes with the file at a path; the path itself where there is none."""
    try:
        found = path.stat()
    except OSError:
        return path
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
