"""What every download needs: digests, the bytes of an answer, and why there is none. Imports nothing heavy."""

import hashlib
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.error import HTTPError, URLError

TIMEOUT = 30  # seconds without an answer
PORTION = 1 << 20
SAID = {"sha256": "SHA-256", "md5": "MD5"}


class Readable(Protocol):
    def read(self, amount: int, /) -> bytes: ...


class Writable(Protocol):
    def write(self, portion: bytes, /) -> int: ...


class Digest(NamedTuple):
    """The first digits of a file's digest; empty where none is known."""

    algorithm: str
    first: str

    def differs(self, file: Path, told: Callable[[int], None] | None = None) -> str:
        """Says in what a file differs; empty where it does not, or nothing is known. `told` gets the bytes read."""
        if not self.first:
            return ""
        computed, done = hashlib.new(self.algorithm, usedforsecurity=False), 0
        with file.open("rb") as opened:
            while portion := opened.read(PORTION):
                computed.update(portion)
                done += len(portion)
                if told:
                    told(done)
        first = computed.hexdigest()[: len(self.first)]
        return "" if first == self.first else f"its {SAID[self.algorithm]} begins with {first}, not {self.first}"


def receive(
    answer: Readable, file: Writable, total: int | None, done: int = 0, told: Callable[[int], None] | None = None
) -> None:
    """Writes an answer to a file that has `done` bytes of `total` already; OSError where it ends too early."""
    try:
        while portion := answer.read(PORTION):
            file.write(portion)
            done += len(portion)
            if told:
                told(done)
    except IncompleteRead as error:
        file.write(error.partial)
        done += len(error.partial)
    if total is not None and done != total:
        raise ConnectionError(f"it ended after {done} of {total} bytes")


def is_page(file: Path) -> bool:
    """Whether a file is a page of HTML, as proxies send in place of another."""
    with file.open("rb") as opened:
        return opened.read(512).lstrip()[:1] == b"<"


def reason(error: BaseException) -> object:
    """Returns why nothing came, without the words that urllib puts around it."""
    return error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
