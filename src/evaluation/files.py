"""Files that are there whole or not at all."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system where the disk, the user's quota or the size of a file is used up."""


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file in one step; on failure the old one stays as it was, and nothing remains beside it."""
    with _replaced(path) as file:
        file.write(content)


def copy_whole(source: Path, path: Path) -> None:
    """Replaces a file by a copy of another, in the same way."""
    with source.open("rb") as original, _replaced(path) as file:
        shutil.copyfileobj(original, file, 2**20)


@contextmanager
def _replaced(path: Path) -> Generator[BinaryIO]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        remedy = "free some space on its disk" if error.errno in FULL else "see that its folder can be written"
        raise OSError(error.errno, f"can't write {path} ({error.strerror or error}); {remedy}") from error
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Replaces a small file in one step."""
    write_whole(file, text.encode())
