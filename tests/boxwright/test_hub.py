"""A checkpoint by its address on the Hub: which file that is, how it comes here, and what a stranger's may not do."""

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback_hub
import pytest
import torch
from loopback_hub import Hub
from tiny_checkpoint import write_checkpoint

from boxwright.checkpoints.detector import load_detector
from boxwright.checkpoints.reading import CheckpointError, read_checkpoint, source_of
from boxwright.config import from_checkpoint
from boxwright.config.command_line import with_quotes
from boxwright.config.trusted import users_packages
from boxwright.zoo import address as addresses
from boxwright.zoo import hub as reading
from boxwright.zoo.address import Address, address_of, is_address
from boxwright.zoo.names import is_named, name_problem

REPO = "anna/cells"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("hub") / "model.ckpt")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with loopback_hub.serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture(autouse=True)
def _never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """`huggingface_hub` sleeps between its attempts, half a minute in all."""

    def sleep(seconds: float) -> None:
        assert seconds < 0.1, f"waits {seconds} seconds"

    monkeypatch.setattr(time, "sleep", sleep)


# Addresses


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("hf://anna/cells", Address("anna/cells")),
        ("hf://anna/cells@v1.0", Address("anna/cells", "v1.0")),
        ("hf://anna/cells/old/best.ckpt", Address("anna/cells", None, "old/best.ckpt")),
        ("hf://anna/cells@v1/best.ckpt", Address("anna/cells", "v1", "best.ckpt")),
        ("hf://anna/cells@refs/pr/3/best.ckpt", Address("anna/cells", "refs/pr/3", "best.ckpt")),
        ("hf://anna/cells@a%2Fb", Address("anna/cells", "a/b")),
        ("hf://models/anna/cells", Address("anna/cells")),
    ],
)
def test_an_address_has_repository_revision_and_file(given: str, parsed: Address) -> None:
    assert address_of(given) == parsed
    assert address_of(str(parsed)) == parsed
    assert address_of(Path(given)) == parsed
    assert is_named(given)
    assert not name_problem("checkpoint", given)


@pytest.mark.parametrize(
    "wrong",
    [
        "hf://", "hf://cells", "hf://anna/", "hf://anna/cells@", "hf://anna/cells@v1@v2", "hf://an na/cells",
        "hf://anna/cells/", "hf://anna/cells/../../x.ckpt", "hf://anna/ce..lls", "hf://datasets/anna/cells",
    ],
)  # fmt: skip
def test_a_malformed_address_is_told_the_forms(wrong: str) -> None:
    assert is_address(wrong)
    assert f"checkpoint={wrong}: " in (said := name_problem("checkpoint", wrong))
    assert "expected hf://USER/REPO, hf://USER/REPO@REVISION or hf://USER/REPO/FILE" in said
    with pytest.raises(CheckpointError, match="expected hf://USER/REPO"):
        read_checkpoint(wrong)


def test_an_address_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_PACKAGE", "no_such_package")
    assert "not installed; pip install 'boxwright[hub]'" in name_problem("init_from", f"hf://{REPO}")


def test_an_address_stands_on_a_command_line() -> None:
    assert with_quotes(f"checkpoint=hf://{REPO}@v1/a.ckpt") == f"checkpoint=hf://{REPO}@v1/a.ckpt"
    assert with_quotes(f"checkpoint=hf://{REPO}/lr=1.ckpt") == f"checkpoint='hf://{REPO}/lr=1.ckpt'"
    assert from_checkpoint.start([f"init_from=hf://{REPO}"]) == [f"init_from=hf://{REPO}"]


# Reading


def test_a_checkpoint_is_read_at_its_revision_which_is_told_by_commit(hub: Hub, file: Path) -> None:
    first = hub.add(REPO, model__ckpt=file, other__ckpt=file)
    hub.repositories[REPO].names["v1"] = first
    second = hub.add(REPO, model__ckpt=b"broken")
    for given in (f"hf://{REPO}@v1", f"hf://{REPO}@{first}"):
        contents = read_checkpoint(given)
        assert source_of(contents, given) == f"hf://{REPO}@{first}"
    assert load_detector(f"hf://{REPO}/other.ckpt", device="cpu").source == f"hf://{REPO}@{second}/other.ckpt"
    with pytest.raises(CheckpointError, match=rf"^hf://{REPO}: .*{second}/model\.ckpt can't be read as a checkpoint"):
        read_checkpoint(f"hf://{REPO}")
    assert load_detector(file, device="cpu").source is None


def test_a_commit_that_is_here_is_read_without_asking(hub: Hub, file: Path) -> None:
    oid = hub.add(REPO, model__ckpt=file)
    read_checkpoint(f"hf://{REPO}")
    hub.asked.clear()
    assert source_of(read_checkpoint(f"hf://{REPO}@{oid}"), "") == f"hf://{REPO}@{oid}"
    assert hub.asked == []


@pytest.mark.parametrize("gone", ["offline", "unreachable", "unavailable", "private"])
def test_the_copy_of_an_earlier_download_is_read_where_the_hub_is_not_to_be_had(
    hub: Hub, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gone: str
) -> None:
    from huggingface_hub import constants

    oid = hub.add(REPO, model__ckpt=file)
    read_checkpoint(f"hf://{REPO}")
    if gone == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif gone == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif gone == "unavailable":
        hub.broken["/"] = 503
    else:
        hub.repositories[REPO].private = True
    assert source_of(read_checkpoint(f"hf://{REPO}"), "") == f"hf://{REPO}@{oid}"
    (said,) = [record.getMessage() for record in caplog.records if record.name == reading.__name__]
    assert said.startswith(f"hf://{REPO}: ")
    assert said.endswith("; read is the copy of an earlier download")


def test_without_a_network_or_a_copy_the_message_comes_at_once_and_says_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged before, as a line would make the script's log.txt, and with it keep its folder."""
    caplog.set_level(logging.INFO, "boxwright")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        CheckpointError, match=r"http://127\.0\.0\.1:9 could not be reached \(.*refused.*\)\. "
    ) as raised:
        read_checkpoint(f"hf://{REPO}@v1")
    said = str(raised.value)
    assert f"No copy is in {tmp_path / 'cache'} either" in said
    assert (
        f"fetch http://127.0.0.1:9/{REPO}/resolve/v1/model.ckpt by other means and give the file in its place" in said
    )
    assert caplog.messages == []


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(reading, "TIMEOUT", 0.2)
        with pytest.raises(CheckpointError, match=r"could not be reached \(.*timed out.*\)"):
            read_checkpoint(f"hf://{REPO}")


@pytest.mark.parametrize(
    ("address", "token", "says"),
    [
        ("hf://anna/cell", None, r"there is no repository http\S+/anna/cell, or it is private: then set HF_TOKEN"),
        ("hf://anna/cell", loopback_hub.TOKEN, r"no repository \S+, or this token's account does not see it"),
        ("hf://anna/secret", None, "or it is private: then set HF_TOKEN to a token .* `hf auth login`"),
        (
            "hf://anna/gated",
            loopback_hub.READER,
            r"is gated: ask for access on its page, \S+/anna/gated, and set HF_TO",
        ),
        ("hf://anna/cells", "hf_expired", r"http\S+ does not accept the token \(HF_TOKEN\)"),
        ("hf://anna/cells@v2", None, "anna/cells has no branch, tag or commit 'v2'"),
        ("hf://anna/cells/best.ckpt", None, r"no file best\.ckpt; it has model\.ckpt: give hf://anna/cells/FILE"),
        ("hf://anna/texts", None, r"no file model\.ckpt; it has README\.md: give hf://anna/texts/FILE"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_remedy(
    hub: Hub, file: Path, monkeypatch: pytest.MonkeyPatch, address: str, token: str | None, says: str
) -> None:
    for name in ("cells", "secret", "gated"):
        hub.add(f"anna/{name}", model__ckpt=file, README__md=b"#")
    hub.add("anna/texts", README__md=b"#")
    hub.repositories["anna/secret"].private = hub.repositories["anna/gated"].gated = True
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=rf"^{address}: .*{says}"):
        read_checkpoint(address)


def test_a_private_repository_is_read_with_a_token(hub: Hub, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, model__ckpt=file)
    hub.repositories[REPO].private = True
    monkeypatch.setenv("HF_TOKEN", loopback_hub.READER)
    read_checkpoint(f"hf://{REPO}")


def test_a_page_in_place_of_the_hub_is_no_checkpoint(hub: Hub, file: Path) -> None:
    """As of a proxy that answers everything."""
    hub.add(REPO, model__ckpt=file)
    hub.broken[f"/{REPO}"] = 302
    with pytest.raises(CheckpointError, match=rf"^hf://{REPO}: http"):
        read_checkpoint(f"hf://{REPO}")


# A stranger's file


def changed(file: Path, to: Path, **config: Any) -> Path:
    contents = torch.load(file, weights_only=True)
    contents["boxwright"]["config"] |= config
    torch.save(contents, to)
    return to


def test_a_file_from_the_hub_is_trusted_no_more_than_any_other(hub: Hub, file: Path, tmp_path: Path) -> None:
    """Also where it says itself which packages are to be trusted."""
    model = torch.load(file, weights_only=True)["boxwright"]["config"]["model"]
    hostile = changed(file, tmp_path / "a.ckpt", model={**model, "_target_": "json.dumps"}, trusted_packages=["json"])
    hub.add(REPO, model__ckpt=hostile)
    before = users_packages()
    with pytest.raises(
        CheckpointError, match=rf"^hf://{REPO}: .*model\._target_ is 'json\.dumps'.*use another checkpoint"
    ):
        read_checkpoint(f"hf://{REPO}")
    hub.add(REPO, model__ckpt=changed(file, tmp_path / "b.ckpt", trusted_packages=["json"]))
    load_detector(f"hf://{REPO}", device="cpu")
    assert users_packages() == before


def test_an_object_in_it_is_not_made(hub: Hub, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "boxwright": {"x": torch.nn.Linear(1, 1)}}, tmp_path / "a.ckpt")
    hub.add(REPO, model__ckpt=tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"it contains torch\.nn\.modules\.linear\.Linear, not only tensors"):
        read_checkpoint(f"hf://{REPO}")


def test_no_file_says_itself_where_it_is_from(file: Path, tmp_path: Path) -> None:
    contents = torch.load(file, weights_only=True)
    contents["boxwright"]["read_from"] = "hf://somebody/else"
    torch.save(contents, tmp_path / "a.ckpt")
    assert source_of(read_checkpoint(tmp_path / "a.ckpt"), "a.ckpt") == "a.ckpt"
