"""A small Hugging Face Hub on this machine: as much of its API as reading a file and pushing a folder need.

It answers as the Hub does, its headers with the kind of error among them; what it holds and what it was asked can be
looked at.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_writes"
READER = "hf_reads"
LICENSES = ("mit", "apache-2.0", "other")


@dataclass
class Repository:
    """Commits, oldest first, each all files of its time; names of branches and tags by commit."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    names: dict[str, str] = field(default_factory=dict[str, str])
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], name: str = "main") -> str:
        before = self.commits.get(self.names.get(name, ""), {})
        whole = {**before, **files}
        oid = hashlib.sha1(repr((len(self.commits), sorted(whole))).encode()).hexdigest()
        self.commits[oid], self.names[name] = whole, oid
        return oid


class Hub:
    """What the server holds and was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.broken: dict[str, int] = {}
        """Statuses to answer, by the beginning of a path."""
        self.url = ""

    def add(self, repo: str, **files: bytes | Path) -> str:
        """Commits files to a repository, a dot in a name written as `__`; returns the commit."""
        contents = {
            name.replace("__", "."): content if isinstance(content, bytes) else content.read_bytes()
            for name, content in files.items()
        }
        return self.repositories.setdefault(repo, Repository()).commit(contents)


class Answer(Exception):  # noqa: N818
    """Ends the handling of a request with a status that is an error."""

    def __init__(self, status: int, code: str = "", message: str = "", body: Any = None) -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}
        self.body = json.dumps(body or {}).encode()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{self.command} {path}")
        try:
            for start, status in self.hub.broken.items():
                if path.startswith(start):
                    raise Answer(status)
            headers, content = self._post(path, body) if self.command == "POST" else self._get(path)
            self._send(200, headers, content)
        except Answer as error:
            self._send(error.status, error.headers, error.body)

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def token(self) -> str | None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given not in (TOKEN, READER):
            raise Answer(401, message="Invalid credentials in Authorization header")
        return given or None

    def _repository(self, name: str) -> Repository:
        token, found = self.token, self.hub.repositories.get(name)
        if found is None or (found.private and token is None):
            raise Answer(404 if token else 401, "RepoNotFound", "Repository not found")
        return found

    def _files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repository(name)
        oid = found.names.get(revision, revision)
        if oid not in found.commits:
            raise Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid, found.commits[oid]

    def _get(self, path: str) -> tuple[dict[str, str], bytes]:
        parts = path.split("/")[1:]
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
            if not self._repository(name).commits:
                return {}, json.dumps({"id": name, "siblings": []}).encode()
            oid, files = self._files(name, revision)
            told = {"id": name, "sha": oid, "siblings": [{"rfilename": file} for file in files]}
            return {}, json.dumps(told).encode()
        name, rest = "/".join(parts[:2]), "/".join(parts[3:])
        found = self._repository(name)
        if found.gated:
            raise Answer(403, "GatedRepo", "Access to this model is restricted")
        names = [known for known in (*found.names, *found.commits) if rest.startswith(f"{known}/")]
        revision, file = (names[0], rest[len(names[0]) + 1 :]) if names else rest.split("/", 1)
        oid, files = self._files(name, revision)
        if file not in files:
            raise Answer(404, "EntryNotFound", "Entry not found")
        digest = hashlib.sha256(files[file]).hexdigest()
        return {"ETag": f'"{digest}"', "X-Repo-Commit": oid}, files[file]

    def _post(self, path: str, body: bytes) -> tuple[dict[str, str], bytes]:
        if path == "/api/validate-yaml":
            card = json.loads(body)["content"]
            if not any(f"\nlicense: {license}\n" in card for license in LICENSES):
                raise Answer(400, body={"errors": [{"message": '"license" must be one of [...]'}], "warnings": []})
            return {}, json.dumps({"errors": [], "warnings": []}).encode()
        if self.token is None:
            raise Answer(401, message="Invalid username or password.")
        if self.token == READER:
            raise Answer(403, message="You don't have the rights to write")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.repositories[name] = Repository(private=private)
            return {}, json.dumps({"url": f"{self.hub.url}/{name}", "name": name}).encode()
        parts = path.split("/")[1:]
        name, action = "/".join(parts[2:4]), parts[4]
        found = self._repository(name)
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return {}, json.dumps({"files": files}).encode()
        assert action == "commit", path
        lines = [json.loads(line) for line in body.splitlines()]
        added = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        oid = found.commit(added)
        told = {"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"}
        return {}, json.dumps(told).encode()


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Serves an empty Hub, and lets `huggingface_hub` know no other, with an empty cache and without a token."""
    from huggingface_hub import close_session, constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    try:
        yield hub
    finally:
        close_session()
        server.shutdown()
        server.server_close()
        thread.join()
