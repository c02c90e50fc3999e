"""A checkpoint is a path or a name: what a wrong one is told, and how a file comes from its address."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from boxwright.checkpoints.reading import CheckpointError, read_checkpoint
from boxwright.config import from_checkpoint
from boxwright.config.command_line import with_quotes
from boxwright.config.errors import ConfigError
from boxwright.zoo import download
from boxwright.zoo.catalogue import CATALOGUE
from boxwright.zoo.entry import Entry
from boxwright.zoo.names import name_problem, published

NAME = "torchvision/fcos_resnet50_fpn"


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_name_is_its_entry_alone_and_with_a_file(name: str, tmp_path: Path) -> None:
    assert published(name) == (CATALOGUE[name], None)
    assert published(f"{name}={tmp_path}/a=b.pth") == (CATALOGUE[name], tmp_path / "a=b.pth")
    assert not name_problem("checkpoint", name)


def test_a_file_that_exists_is_a_path_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).parent.mkdir()
    Path(NAME).touch()
    assert published(NAME) is None
    assert published(Path(NAME)) is None


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("torchvision/fcos_resnet50_fp", NAME),
        ("torchvison/fcos_resnet50_fpn", NAME),
        ("torchvision/FCOS_resnet50_FPN", NAME),
        ("fcos_resnet50_fpn", NAME),
        ("torchvision/fcos_resnet50_fp=some.pth", NAME),
        ("torchvision/retinanet_resnet50_fpn_v3", "torchvision/retinanet_resnet50_fpn_v2"),
        ("torchvision/unheard_of", "those of torchvision, detectron2, fcos, caffe2"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong: str, nearest: str) -> None:
    said = name_problem("checkpoint", wrong)
    assert nearest in said
    assert "no such file" in said
    assert "no published checkpoint" in said
    with pytest.raises(CheckpointError, match="no published checkpoint"):
        read_checkpoint(wrong)
    with pytest.raises(ConfigError, match="no published checkpoint"):
        from_checkpoint.run([f"checkpoint={wrong}"])
    with pytest.raises(ConfigError, match="no published checkpoint"):
        from_checkpoint.start([f"init_from={wrong}"])


@pytest.mark.parametrize("path", ["runs/fcos/2026/checkpoints/best.ckpt", "best.ckpt", "x", "/a/b/fcos_resnet50_fpn"])
def test_what_looks_like_a_path_is_told_of_the_path_alone(path: str) -> None:
    assert not name_problem("checkpoint", path)


def test_a_file_of_a_name_must_exist(tmp_path: Path) -> None:
    assert f"{tmp_path}/absent.pth is no file" in name_problem("checkpoint", f"{NAME}={tmp_path}/absent.pth")


def test_a_name_with_a_file_is_quoted_for_hydra() -> None:
    assert with_quotes(f"checkpoint={NAME}=/a/b.pth") == f"checkpoint='{NAME}=/a/b.pth'"
    assert with_quotes(f"init_from={NAME}=b.pth") == f"init_from='{NAME}=b.pth'"
    assert with_quotes(f"checkpoint={NAME}") == f"checkpoint={NAME}"
    assert with_quotes(f"checkpoint='{NAME}=b.pth'") == f"checkpoint='{NAME}=b.pth'"


def test_starting_from_a_name_adds_the_settings_that_its_weights_need() -> None:
    given = [f"init_from={NAME}", "model.num_convs=4", "data=voc"]
    added = from_checkpoint.start(given)[len(given) :]
    assert "model=fcos" in added
    assert "model.normalize_targets=true" in added
    assert not [line for line in added if line.startswith(("model.num_convs", "data", "model.decoder"))]
    with pytest.raises(ConfigError, match=rf"model=retinanet: init_from={NAME} holds the weights of model=fcos"):
        from_checkpoint.start([f"init_from={NAME}", "model=retinanet"])
    assert from_checkpoint.start(["init_from=some.ckpt"]) == ["init_from=some.ckpt"]


# Downloads

CONTENT = b"weights" * 1000


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"/whole.pth": CONTENT, "/short.pth": CONTENT, "/page.pth": b"<html>sign in</html>"}.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100] if self.path == "/short.pth" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "checkpoints"


def entry(url: str, algorithm: str = "sha256", content: bytes = CONTENT) -> Entry:
    digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()[:8]}"
    return replace(CATALOGUE[NAME], url=url, digest=digest, file="x/file.pth")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_downloaded_once_to_the_folder_of_torch_hub(site: str, hub: Path, algorithm: str) -> None:
    one = entry(f"{site}/whole.pth", algorithm)
    assert download.local_file(one) == hub / "x" / "file.pth"
    assert (hub / "x" / "file.pth").read_bytes() == CONTENT
    assert files(hub) == ["file.pth"]
    assert download.local_file(replace(one, url=f"{site}/gone.pth")) == hub / "x" / "file.pth"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone.pth", "HTTP Error 404"),
        ("short.pth", "ended after 100 of 7000 bytes|IncompleteRead"),
        ("page.pth", "not the published file: its SHA-256 begins with [0-9a-f]{8}, not .*a page in place of the file"),
    ],
)
def test_a_download_that_fails_says_how_to_go_on_and_leaves_nothing(site: str, hub: Path, path: str, why: str) -> None:
    one = entry(f"{site}/{path}")
    with pytest.raises(ConfigError, match=why) as raised:
        download.local_file(one)
    said = str(raised.value)
    assert one.url in said
    assert str(hub / "x" / "file.pth") in said
    assert f"its SHA-256 begins with {one.digest.partition(':')[2]}" in said
    assert f"checkpoint={NAME}=FILE" in said
    assert files(hub) == []


def test_without_a_network_the_message_has_address_place_and_digest(
    hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged before, as a line would make the script's log.txt, and with it keep its folder."""
    caplog.set_level(logging.INFO)
    one = entry("http://127.0.0.1:9/file.pth")
    with pytest.raises(ConfigError, match=r"could not be downloaded \(.*refused\)\. Fetch http://127"):
        download.local_file(one)
    assert files(hub) == []
    assert caplog.messages == []


def test_a_changed_file_in_the_shared_folder_is_refused(site: str, hub: Path) -> None:
    one = entry(f"{site}/whole.pth")
    file = download.local_file(one)
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ConfigError, match=r"is not the published file, its SHA-256 begins with .*; remove it"):
        download.local_file(one)
