"""push.py: a dry run, a push and its way back, and what is refused, without anything left behind."""

import re
import runpy
import socket
from collections.abc import Iterator
from pathlib import Path

import loopback_hub
import pytest
from best_checkpoint import trained
from loopback_hub import Hub
from PIL import Image
from scripts import Script
from tiny_checkpoint import CLASSES, write_checkpoint

from boxwright.push import contents as parts
from boxwright.zoo.names import NO_DATA

REPO = "anna/cells"
GIVEN = (f"repo={REPO}", "license=mit")


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with loopback_hub.serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Script:
    (tmp_path / "here").mkdir()
    return Script("push.py", tmp_path / "here", monkeypatch, capfd)


def test_a_dry_run_writes_the_folder_and_asks_nobody(hub: Hub, best: Path, push: Script) -> None:
    ended = push(f"checkpoint={best}", *GIVEN, "dataset=BCCD", "dry_run=true", "output=out")
    assert ended.status == 0, ended.said
    assert hub.asked == []
    assert {path.name for path in Path("out").iterdir()} == {"README.md", "model.ckpt", "config.yaml", "log.txt"}
    assert "nothing was uploaded" in ended.said
    assert "left out, or without its place: " in ended.said
    assert "model-index" in Path("out/README.md").read_text()
    assert NO_DATA in Path("out/config.yaml").read_text()
    for file in Path("out").iterdir():
        assert b"berta" not in file.read_bytes(), file


def test_pushed_it_is_read_back_and_the_cards_code_works(
    hub: Hub, best: Path, push: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", loopback_hub.TOKEN)
    ended = push(f"checkpoint={best}", *GIVEN, "private=true", "output=out")
    assert ended.status == 0, ended.said
    repository = hub.repositories[REPO]
    ((oid, files),) = repository.commits.items()
    assert repository.private
    assert files.keys() == {"README.md", "model.ckpt", "config.yaml"}
    assert f"checkpoint=hf://{REPO}@{oid}" in ended.said
    assert [path.name for path in Path("out").iterdir()] == ["log.txt"]
    Image.new("RGB", (80, 60), (200, 30, 30)).save("photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.DOTALL)
    Path("use.py").write_text(code)
    push.capfd.readouterr()
    left = runpy.run_path("use.py")
    assert left["detect"].source == f"hf://{REPO}@{oid}"
    printed = push.capfd.readouterr().out.splitlines()
    assert len(printed) == len(left["found"].scores[0]) > 0
    assert all(re.fullmatch(rf"({'|'.join(CLASSES)}) 0\.\d\d \[.*\]", line) for line in printed)


def test_files_that_are_there_are_replaced_only_when_asked(
    hub: Hub, best: Path, push: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    oid = hub.add(REPO, model__ckpt=b"old", other__txt=b"x")
    monkeypatch.setenv("HF_TOKEN", loopback_hub.TOKEN)
    ended = push(f"checkpoint={best}", *GIVEN)
    assert ended.status == 2
    assert f"repo={REPO} has model.ckpt already (commit {oid}): overwrite=true replaces" in ended.said
    assert list(Path().iterdir()) == []
    assert push(f"checkpoint={best}", *GIVEN, "overwrite=true").status == 0
    assert not any("repos/create" in line for line in hub.asked)
    assert hub.repositories[REPO].commits[oid]["model.ckpt"] == b"old"
    newest = hub.repositories[REPO].commits[hub.repositories[REPO].names["main"]]
    assert newest["model.ckpt"] != b"old"
    assert newest["other.txt"] == b"x"


@pytest.mark.parametrize(
    ("given", "token", "says"),
    [
        ([], None, "there is no token that may write to the Hub: set HF_TOKEN to a token .* `hf auth login`"),
        ([], "hf_expired", "does not accept the token"),
        ([], loopback_hub.READER, r"answered 403 .*the token must have write access"),
        (["license=MIT-ish"], loopback_hub.TOKEN, "the Hub refuses the card: .*license.* must be one of"),
        (["license=''"], loopback_hub.TOKEN, "license is empty"),
        (["license=???"], loopback_hub.TOKEN, r"license is missing; give license=\.\.\. \(of the weights, by the Hub"),
        (["repo=cells"], loopback_hub.TOKEN, "repo=cells: expected USER/REPO or ORGANIZATION/REPO"),
        (["checkpoint=none.ckpt"], loopback_hub.TOKEN, "checkpoint=none.ckpt: no such file"),
        (["checkpoint=hf://b/c"], loopback_hub.TOKEN, "checkpoint=hf://b/c is published already"),
        (["checkpoint=text.ckpt"], loopback_hub.TOKEN, "text.ckpt can't be read as a checkpoint"),
    ],
)
def test_a_refused_push_leaves_nothing_here_or_there(
    hub: Hub, best: Path, push: Script, monkeypatch: pytest.MonkeyPatch, given: list[str], token: str | None, says: str
) -> None:
    Path("text.ckpt").write_text("hello")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    keys = {line.partition("=")[0] for line in given}
    whole = [line for line in (f"checkpoint={best}", *GIVEN) if line.partition("=")[0] not in keys]
    ended = push(*whole, *given)
    assert ended.status == 2, ended.said
    assert re.search(says, ended.said), ended.said
    assert "Traceback" not in ended.said
    assert [path.name for path in Path().iterdir()] == ["text.ckpt"]
    assert hub.repositories == {}


def test_without_a_network_a_push_ends_at_once(best: Path, push: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_TOKEN", loopback_hub.TOKEN)
    ended = push(f"checkpoint={best}", *GIVEN)
    assert ended.status == 2
    assert re.search(rf"repo={REPO}: http\S+ could not be reached \(.*\)\. dry_run=true needs no network", ended.said)
    assert list(Path().iterdir()) == []


def test_an_upload_that_fails_says_what_is_left(
    hub: Hub, best: Path, push: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", loopback_hub.TOKEN)
    hub.broken[f"/api/models/{REPO}/commit"] = 500
    ended = push(f"checkpoint={best}", *GIVEN)
    assert ended.status == 2
    assert re.search(r"answered 500 .*the repository is there now, and empty: run the command again", ended.said)
    assert list(Path().iterdir()) == []
    assert hub.repositories[REPO].commits == {}


def test_the_name_of_the_user_is_published_only_when_told(
    best: Path, push: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_names", lambda: {"short_side", "area"})
    ended = push(f"checkpoint={best}", *GIVEN, "dry_run=true", "output=out", "publish=[data.interpolation]")
    assert ended.status == 2
    assert "data.rule='short_side' has 'short_side', the name of this user or machine" in ended.said
    assert "give 'publish=[data.interpolation,data.rule]'" in ended.said
    assert list(Path().iterdir()) == []
