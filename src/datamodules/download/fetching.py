"""Downloads an archive to its place: whole and with the published digest, or in part, to continue from."""

import contextlib
import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from datamodules.download.catalogue import Archive
from datamodules.download.progress import Progress, written
from datamodules.download.transfer import SAID, TIMEOUT, is_page, reason, receive
from datamodules.errors import DataError
from evaluation.files import FULL

_TRIES = 4  # in a row that bring no byte
_WAIT = 3.0  # seconds before the next


class _OtherFileError(Exception):
    """What a server offers is not the file; trying again would not help."""


def part_of(file: Path) -> Path:
    """Where a download is kept until it is whole; beside it lies the name that the server gives to this version."""
    return file.with_name(f"{file.name}.part")


def fetch(archive: Archive, file: Path) -> None:
    """Brings an archive to `file`, unless it is there, and compares size and digest; continues with what came before.

    DataError where it can't be had, with address, path, digest and what to do. What came so far stays, for the next
    time, unless it is wrong.
    """
    if file.is_file():
        if problem := _problem(archive, file):
            raise DataError(
                f"{file} is not the published {archive.name}: {problem}. Remove it, and give the same command again"
            )
        return
    part, failed = part_of(file), _TRIES - 1  # what can't even begin is not tried again
    while True:
        before = _size(part)
        try:
            _go_on(archive, part)
            break
        except (OSError, ValueError, HTTPException, _OtherFileError) as error:
            size = _size(part)
            if isinstance(error, OSError) and error.errno in FULL:
                raise DataError(
                    f"no space is left for {part}, of which {written(size)} have come; free some, and give the same "
                    "command again: it continues from there"
                ) from error
            failed = 0 if size > before else failed + 1
            if failed >= _TRIES or isinstance(error, HTTPError | _OtherFileError):
                if not size:
                    part.unlink(missing_ok=True)
                    _version(part).unlink(missing_ok=True)
                raise DataError(_refused(archive, file, error)) from error
            print(f"{archive.name}: {reason(error)}; trying again", flush=True)
            time.sleep(_WAIT)
    problem = _problem(archive, part)
    _version(part).unlink(missing_ok=True)
    if problem:
        part.unlink()
        raise DataError(
            f"what came from {archive.url} is not the published file: {problem}. It was removed; give the same "
            f"command again. If it happens twice, a proxy or the server has another file: {_by_hand(archive, file)}"
        )
    part.rename(file)


def _go_on(archive: Archive, part: Path) -> None:
    """Makes one request for what is missing of an archive, and adds it to `part`."""
    done, version = _size(part), _version(part)
    if done and done == archive.size:
        return
    known = version.read_text() if version.is_file() else ""
    if not (known or archive.digest) or (archive.size is not None and done > archive.size):
        done = 0  # nothing would tell whether the server still has the same file
    headers = {"Range": f"bytes={done}-", **({"If-Range": known} if known else {})} if done else {}
    try:
        answer: HTTPResponse = urlopen(Request(archive.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if not done or error.code != 416:  # "range not satisfiable": it begins at the end, or behind it
            raise
        if error.headers.get("Content-Range") != f"bytes */{done}":
            part.unlink()
            _go_on(archive, part)
        return
    with answer:
        start, total = _extent(answer)
        if start not in (0, done):
            raise _OtherFileError(f"the server answers with bytes from {start}, not from {done}")
        if archive.size is not None and total not in (None, archive.size):
            raise _OtherFileError(f"the server has a file of {total} bytes, the published one has {archive.size}")
        version.write_text(_name_of_version(answer))
        progress = Progress(f"downloading {archive.name}", total or archive.size, start)
        try:
            with part.open("ab" if start else "wb") as opened:
                receive(answer, opened, total or archive.size, start, progress)
        finally:
            progress.close()


def _extent(answer: HTTPResponse) -> tuple[int, int | None]:
    """Returns which byte an answer starts at, and how many the whole file has, where that is known."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range") or "")
    if answer.status == 206 and found:
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length and length.isdigit() else None


def _name_of_version(answer: HTTPResponse) -> str:
    """Returns what If-Range takes: a strong ETag, else the date, else nothing."""
    tag = answer.headers.get("ETag") or ""
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified") or ""


def _version(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _problem(archive: Archive, file: Path) -> str:
    """Says in what a file differs from the published one: its size first, which costs nothing."""
    size = _size(file)
    if archive.size is not None and size != archive.size:
        return f"it has {size} bytes, not {archive.size}"
    if archive.digest is None:
        print(f"{archive.name}: no checksum of it is published, so it is taken as it is", flush=True)
        return "it is a page of HTML, perhaps of a proxy" if is_page(file) else ""
    progress = Progress(f"checking {archive.name}", size)
    problem = archive.digest.differs(file, progress)
    progress.close()
    return f"{problem}; it is a page of HTML, perhaps of a proxy" if problem and is_page(file) else problem


def _refused(archive: Archive, file: Path, error: Exception) -> str:
    part = part_of(file)
    kept = f" What came so far is kept in {part}; give the same command again to continue." if _size(part) else ""
    return f"{archive.name} could not be downloaded ({reason(error)}).{kept} Or {_by_hand(archive, file)}"


def _by_hand(archive: Archive, file: Path) -> str:
    known = [f"{archive.size} bytes"] if archive.size is not None else []
    known.append(
        f"{SAID[archive.digest.algorithm]} {archive.digest.first}" if archive.digest else "no sum is published"
    )
    return (
        f"fetch {archive.url} by other means ({', '.join(known)}), put it at {file}, and give the same command again: "
        "it is checked and unpacked from there"
    )
