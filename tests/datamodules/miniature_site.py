"""A server on this machine that has miniature archives, with the faults that a test asks for."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules.download import fetching
from datamodules.download.catalogue import Archive
from datamodules.download.transfer import Digest

IMAGES = {f"val2017/{number}.jpg": bytes([number]) * 5000 for number in range(4)}


class Site:
    """What the server has, and what it was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        """ETags; a file without one has none."""
        self.has_ranges = True
        self.states_length = True
        self.breaks_at: list[int] = []
        """After how many bytes of a body the next answers break off."""
        self.asked: list[tuple[str, str | None]] = []
        """Names and ranges of all requests."""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, name = self.site, self.path.lstrip("/")
        wanted = self.headers.get("Range")
        site.asked.append((name, wanted))
        content, tag = site.files.get(name), site.tags.get(name)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and site.has_ranges and self.headers.get("If-Range") in (None, tag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if tag:
            self.send_header("ETag", tag)
        body = content[start:]
        if site.states_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: site.breaks_at.pop(0)] if site.breaks_at else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Serves on loopback, past any proxy; downloads do not wait between their attempts."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "_WAIT", 0.0)

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.site = Site(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Handler.site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def zipped(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w", links: dict[str, str] | None = None) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as archive:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return held.getvalue()


def offered(site: Site, name: str, content: bytes, tag: str | None = '"one"', **options: object) -> Archive:
    """Puts an archive on the server; the entry of it states its true size and digest, unless told otherwise."""
    site.files[name] = content
    if tag:
        site.tags[name] = tag
    known = {"size": len(content), "digest": Digest("sha256", hashlib.sha256(content).hexdigest())}
    return Archive(f"{site.address}{name}", **{**known, "folders": (("val2017", 4),), **options})  # pyright: ignore[reportArgumentType]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
