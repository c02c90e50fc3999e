"""Unpacks zip and tar archives: nothing leaves the folder, and what appears in it is whole."""

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from datamodules.download.progress import Progress
from datamodules.errors import DataError

BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
"""What Python's readers raise on archives that are damaged, encrypted or of another kind."""


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    size: int
    is_plain: bool
    """Neither a link nor a device."""
    open: Callable[[], IO[bytes] | None]


def unpack(
    archive: Path, root: Path, staging: Path, place: Callable[[str], str | None], check_space: Callable[[int], None]
) -> int:
    """Unpacks an archive into `root` by way of `staging`, a folder on the same disk; returns the number of files.

    Each folder or file appears in `root` in one step. After a kill the same call continues: files that are in `staging`
    or in `root` already, with the size that they should have, are not written again. `place` gives the path of a
    member below `root`, or None to leave it out; `check_space` is asked with the bytes that are still to be written.
    DataError where a member would lie outside of `root` or is a link, before anything is written; where another file
    is in its way; where the archive is damaged.
    """
    try:
        with _members(archive) as members:
            wanted = _placed(archive, members, place)
            left = {
                path: member
                for path, member in wanted.items()
                if not _has(root / path, member.size) and not _has(staging / path, member.size)
            }
            _refuse_others(root, wanted, archive)
            total = sum(member.size for member in left.values())
            check_space(total)
            _write(left, staging, Progress(f"unpacking {archive.name}", total))
    except BROKEN as error:
        raise DataError(f"{archive} can't be unpacked ({error}); remove it and give the same command again") from error
    if staging.is_dir():
        _move(staging, root)
    return len(wanted)


def _placed(archive: Path, members: Iterable[Member], place: Callable[[str], str | None]) -> dict[str, Member]:
    found: dict[str, Member] = {}
    for member in members:
        path = PurePosixPath(member.name)
        why = (
            "is a link or no file" if not member.is_plain
            else "has an absolute path" if path.is_absolute()
            else "leads out of the folder" if ".." in path.parts
            else "has a character that no path has" if "\0" in member.name or "\\" in member.name
            else ""
        )  # fmt: skip
        if why:
            raise DataError(f"{archive} was not unpacked: its member {member.name!r} {why}. Is it the published file?")
        if (target := place(str(path))) is not None:
            found[target] = member
    return found


def _refuse_others(root: Path, wanted: dict[str, Member], archive: Path) -> None:
    for path, member in wanted.items():
        there = root / path
        if os.path.lexists(there) and not _has(there, member.size):
            kind = f"has {there.stat().st_size} bytes" if there.is_file() else "is no file"
            raise DataError(
                f"{archive} was not unpacked: {there} {kind}, and that in the archive has {member.size} bytes. Remove "
                "or rename it, and give the same command again"
            )


def _has(file: Path, size: int) -> bool:
    try:
        found = file.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _write(members: dict[str, Member], staging: Path, progress: Progress) -> None:
    done = 0
    for path, member in members.items():
        file = staging / path
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = member.open()
        assert opened is not None  # a plain file
        with opened, file.open("wb") as target:
            shutil.copyfileobj(opened, target, 1 << 20)
        if not _has(file, member.size):
            raise EOFError(f"its member {member.name!r} ends too early")
        done += member.size
        progress(done)
    progress.close()


def _move(source: Path, target: Path) -> None:
    """Moves what a folder holds into another one, and removes it."""
    for entry in sorted(source.iterdir()):
        there = target / entry.name
        if entry.is_dir() and there.is_dir():
            _move(entry, there)
        else:
            os.replace(entry, there)
    source.rmdir()


@contextmanager
def _members(archive: Path) -> Generator[Iterable[Member]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            yield list(_of_zip(opened))
    else:
        with tarfile.open(archive, "r:" if archive.suffix == ".tar" else "r:gz") as opened:
            yield list(_of_tar(opened))


def _of_zip(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() and kind in (0, stat.S_IFDIR):
            continue
        # `orig_filename`: `filename` has lost what is behind a null character
        name = info.orig_filename
        yield Member(name, info.file_size, kind in (0, stat.S_IFREG), lambda info=info: archive.open(info))


def _of_tar(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        if not info.isdir():
            yield Member(info.name, info.size, info.isreg(), lambda info=info: archive.extractfile(info))
