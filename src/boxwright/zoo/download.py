"""The file of a published checkpoint: where it lies, and how it comes there."""

import hashlib
import logging
import os
import re
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch

from boxwright.config.errors import ConfigError
from boxwright.zoo.entry import Entry, Trunk
from detectors.weights.network import unreachable

log = logging.getLogger(__name__)

_PORTION = 1 << 20
_TIMEOUT = 30  # seconds without an answer
_SAID = {"sha256": "SHA-256", "md5": "MD5"}


class Digest(NamedTuple):
    """The first digits of a file's digest; empty where none is known."""

    algorithm: str
    first: str

    @classmethod
    def of(cls, entry: Entry | Trunk, file: Path) -> "Digest":
        """That of an entry; where it is published beside the file (`md5:.md5sum`), that which was downloaded with
        `file`."""
        algorithm, _, first = entry.digest.partition(":")
        beside = file.with_name(file.name + first)
        if first.startswith("."):
            first = beside.read_text().strip() if beside.is_file() else ""
        return cls(algorithm, first)

    def differs(self, file: Path) -> str:
        """Says in what a file differs; empty where it does not, or nothing is known."""
        if not self.first:
            return ""
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, self.algorithm).hexdigest()
        first = found[: len(self.first)]
        return "" if first == self.first else f"its {_SAID[self.algorithm]} begins with {first}, not {self.first}"


def place(entry: Entry | Trunk) -> Path:
    """Where the file is kept: the folder of torch.hub, where torchvision keeps its own."""
    return Path(torch.hub.get_dir()) / "checkpoints" / entry.file


def local_file(entry: Entry | Trunk, key: str = "checkpoint") -> Path:
    """The file of an entry, downloaded once; its digest is compared each time, since the folder is shared.

    ConfigError where it can't be had, with URL, path, digest and what to do; `key` is the setting that names it.
    """
    file = place(entry)
    if not file.is_file():
        _download(entry, file, key)
    elif problem := Digest.of(entry, file).differs(file):
        raise ConfigError(f"{key}={entry.name}: {file} is not the published file, {problem}; remove it")
    return file


def _download(entry: Entry | Trunk, file: Path, key: str) -> None:
    """Downloads an entry's file: it is there, whole and with the published digest, or not at all."""
    try:
        if reason := unreachable(entry.url):  # which `urlopen` would wait for, address by address
            raise OSError(reason)
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = Digest.of(entry, file)
        suffix = entry.digest.partition(":")[2]
        if suffix.startswith("."):
            with urlopen(entry.url + suffix, timeout=_TIMEOUT) as answer:
                found = re.match(rb"[0-9a-f]{32}\b", answer.read(1000).strip())
            if found is None:
                raise OSError(f"{entry.url}{suffix} has no {_SAID[digest.algorithm]}")
            digest = Digest(digest.algorithm, found[0].decode())
        _fetch(entry.url, file, digest)
        if suffix.startswith("."):
            file.with_name(file.name + suffix).write_text(digest.first)
    except (OSError, ValueError, HTTPException) as error:
        raise ConfigError(_refused(entry, file, error, key)) from error


def _fetch(url: str, file: Path, digest: Digest) -> None:
    temporary: Path | None = None
    try:
        with (
            urlopen(url, timeout=_TIMEOUT) as answer,
            tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part,
        ):
            temporary = Path(part.name)
            log.info("downloading %s to %s", url, file)  # only now: a script that cannot begin leaves no log
            length, size = answer.headers.get("Content-Length"), 0
            while portion := answer.read(_PORTION):
                size += len(portion)
                part.write(portion)
        if length is not None and size != int(length):
            raise OSError(f"it ended after {size} of {length} bytes")
        problem, is_page = digest.differs(temporary), _is_page(temporary)
        if problem or is_page:
            page = "a page in place of the file, perhaps of a proxy" if is_page else ""
            raise OSError(f"what came is not the published file: {', '.join(filter(None, (problem, page)))}")
        temporary.chmod(0o644)
        os.replace(temporary, file)
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _is_page(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(512).lstrip()[:1] == b"<"


def _refused(entry: Entry | Trunk, file: Path, error: Exception, key: str) -> str:
    reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    algorithm, _, first = entry.digest.partition(":")
    known = f"its {_SAID[algorithm]} begins with {first}" if first else "no digest of it is published"
    if first.startswith("."):
        known = f"its {_SAID[algorithm]} is at that address with {first} behind it"
    return (
        f"{key}={entry.name} could not be downloaded ({reason}). Fetch {entry.url} by other means ({known}) and put it "
        f"at {file}, or give {key}={f'{entry.name}=FILE' if key != 'model.backbone.weights' else 'FILE'}"
    )
