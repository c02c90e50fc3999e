"""The file of a published checkpoint: where it lies, and how it comes there."""

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch

from boxwright.config.errors import ConfigError
from boxwright.zoo.catalogue import Entry

log = logging.getLogger(__name__)

_PORTION = 1 << 20
_TIMEOUT = 30  # seconds without an answer


def place(entry: Entry) -> Path:
    """Where the file is kept: the folder of torch.hub, where torchvision keeps its own."""
    return Path(torch.hub.get_dir()) / "checkpoints" / entry.file


def local_file(entry: Entry) -> Path:
    """The file of an entry, downloaded once; its digest is compared each time, since the folder is shared.

    ConfigError where it can't be had, with URL, path, digest and what to do.
    """
    file = place(entry)
    if not file.is_file():
        download(entry, file)
    elif problem := differs(entry, digest(file, entry)):
        raise ConfigError(f"checkpoint {entry.name}: {file} is not the published file, {problem}; remove it")
    return file


def differs(entry: Entry, found: str) -> str:
    """Says in what a file's digest differs from the published one; empty where it does not, or none is published."""
    algorithm, _, expected = entry.digest.partition(":")
    return (
        ""
        if found.startswith(expected)
        else f"its {_said(algorithm)} begins with {found[: len(expected)]}, not {expected}"
    )


def digest(file: Path, entry: Entry) -> str:
    """The digest of a file by the entry's algorithm, in hexadecimal digits; empty where none is published."""
    if not entry.digest:
        return ""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, entry.digest.partition(":")[0]).hexdigest()


def download(entry: Entry, file: Path) -> None:
    """Downloads an entry's file: it is there, whole and with the published digest, or not at all."""
    log.info("downloading %s to %s", entry.url, file)
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            urlopen(entry.url, timeout=_TIMEOUT) as answer,
            tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part,
        ):
            temporary = part.name
            length, size = answer.headers.get("Content-Length"), 0
            while portion := answer.read(_PORTION):
                size += len(portion)
                part.write(portion)
        if length is not None and size != int(length):
            raise OSError(f"it ended after {size} of {length} bytes")
        if problem := differs(entry, digest(Path(temporary), entry)):
            page = ", a page in place of the file, perhaps of a proxy" if _is_page(Path(temporary)) else ""
            raise OSError(f"what came is not the published file: {problem}{page}")
        if not entry.digest and _is_page(Path(temporary)):
            raise OSError("what came is a page, not the file")
        os.replace(temporary, file)
    except (OSError, ValueError, HTTPException) as error:
        raise ConfigError(_refused(entry, file, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


def _is_page(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(512).lstrip()[:1] == b"<"


def _refused(entry: Entry, file: Path, error: Exception) -> str:
    is_http = isinstance(error, HTTPError) or not isinstance(error, URLError)
    reason = error if is_http else error.reason
    algorithm, _, first = entry.digest.partition(":")
    known = f"its {_said(algorithm)} begins with {first}" if first else "no digest of it is published"
    return (
        f"checkpoint {entry.name} could not be downloaded ({reason}). Fetch {entry.url} by other means ({known}) and "
        f"put it at {file}, or give checkpoint={entry.name}=FILE"
    )


def _said(algorithm: str) -> str:
    return {"sha256": "SHA-256", "md5": "MD5"}.get(algorithm, algorithm)
