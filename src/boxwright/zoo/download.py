"""The file of a published checkpoint: where it lies, and how it comes there."""

import logging
import os
import re
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch

from boxwright.config.errors import ConfigError
from boxwright.zoo.entry import Entry, Trunk
from datamodules.download.transfer import SAID, TIMEOUT, Digest, is_page, reason, receive
from detectors.weights.network import unreachable

log = logging.getLogger(__name__)


def digest_of(entry: Entry | Trunk, file: Path) -> Digest:
    """Returns that of an entry; where it is published beside the file (`md5:.md5sum`), the one that was downloaded with
    `file`."""
    algorithm, _, first = entry.digest.partition(":")
    beside = file.with_name(file.name + first)
    if first.startswith("."):
        first = beside.read_text().strip() if beside.is_file() else ""
    return Digest(algorithm, first)


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
    elif problem := digest_of(entry, file).differs(file):
        raise ConfigError(f"{key}={entry.name}: {file} is not the published file, {problem}; remove it")
    return file


def _download(entry: Entry | Trunk, file: Path, key: str) -> None:
    """Downloads an entry's file: it is there, whole and with the published digest, or not at all."""
    try:
        if why := unreachable(entry.url):  # which `urlopen` would wait for, address by address
            raise OSError(why)
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = digest_of(entry, file)
        suffix = entry.digest.partition(":")[2]
        if suffix.startswith("."):
            with urlopen(entry.url + suffix, timeout=TIMEOUT) as answer:
                found = re.match(rb"[0-9a-f]{32}\b", answer.read(1000).strip())
            if found is None:
                raise OSError(f"{entry.url}{suffix} has no {SAID[digest.algorithm]}")
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
            urlopen(url, timeout=TIMEOUT) as answer,
            tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part,
        ):
            temporary = Path(part.name)
            log.info("downloading %s to %s", url, file)  # only now: a script that cannot begin leaves no log
            length = answer.headers.get("Content-Length")
            receive(answer, part, None if length is None else int(length))
        problem, found_page = digest.differs(temporary), is_page(temporary)
        if problem or found_page:
            page = "a page in place of the file, perhaps of a proxy" if found_page else ""
            raise OSError(f"what came is not the published file: {', '.join(filter(None, (problem, page)))}")
        temporary.chmod(0o644)
        os.replace(temporary, file)
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _refused(entry: Entry | Trunk, file: Path, error: Exception, key: str) -> str:
    algorithm, _, first = entry.digest.partition(":")
    known = f"its {SAID[algorithm]} begins with {first}" if first else "no digest of it is published"
    if first.startswith("."):
        known = f"its {SAID[algorithm]} is at that address with {first} behind it"
    return (
        f"{key}={entry.name} could not be downloaded ({reason(error)}). Fetch {entry.url} by other means ({known}) and "
        f"put it at {file}, or give {key}={f'{entry.name}=FILE' if key != 'model.backbone.weights' else 'FILE'}"
    )
