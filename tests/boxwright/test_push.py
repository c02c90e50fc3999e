"""push.py: what of a checkpoint is published, what its card says, and how it comes to the Hub and back."""

import re
import runpy
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback_hub
import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import Hub
from PIL import Image
from scripts import Script
from tiny_checkpoint import CLASSES, write_checkpoint

from boxwright.checkpoints.reading import read_checkpoint
from boxwright.push import contents as parts
from boxwright.push.card import Asked, make_card, scores
from boxwright.push.contents import personal, without_private_parts
from boxwright.zoo.names import NO_DATA

REPO = "anna/cells"
GIVEN = (f"repo={REPO}", "license=mit")
SCALARS = {"AP": 0.512345, "AP50": 0.75, "AP_large": -1.0, "mAP_voc": float("nan")}
PER_CLASS = {name: {"AP": 0.5, "AP50": 0.75, "num_objects": 12.0} for name in CLASSES}
HOME = "/home/berta smith"


def trained(file: Path, **changes: Any) -> Path:
    """A checkpoint as a run writes it at its best step, full of what belongs to its machine."""
    contents = torch.load(file, weights_only=True)
    stored = contents["boxwright"]
    stored["config"] |= {
        "name": "secret-client",
        "init_from": f"{HOME}/runs/first/best.ckpt",
        "trusted_packages": ["mine"],
        "logger": {"wandb": {"_target_": "lit_modules.loggers.WandbLogger", "entity": "berta-team", "id": "w4ndb1d"}},
    }
    stored["config"]["data"] |= {"root": f"{HOME}/data", "cache_dir": "/scratch/berta"}
    stored["config"]["model"]["backbone"]["weights"] = f"{HOME}/weights/mobilenet.pth"
    stored["config"]["callbacks"]["report"] = {"_target_": "mine.Report", "folder": f"{HOME}/www"}
    stored |= {"metrics": SCALARS, "thresholds": dict.fromkeys(CLASSES, 0.2), "versions": {"torch": "2.15"}}
    state = {"best_step": 8, "best_metrics": SCALARS, "best_per_class": PER_CLASS, "best_of": "val/AP"}
    contents |= {
        "epoch": 1, "global_step": 8, "callbacks": {"Checkpoints": state}, "loops": {"x": HOME}, "lr_schedulers": [{}],
        "optimizer_states": [{"state": torch.ones(3)}], "current_model_state": contents["state_dict"],
        "hyper_parameters": {"user": "berta"},
    }  # fmt: skip
    torch.save(contents | changes, file)
    return file


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt"))


@pytest.fixture
def checkpoint(best: Path) -> dict[str, Any]:
    return torch.load(best, weights_only=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with loopback_hub.serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Script:
    (tmp_path / "here").mkdir()
    return Script("push.py", tmp_path / "here", monkeypatch, capfd)


# What is published


def test_what_belongs_to_the_run_or_its_machine_is_left_out(checkpoint: dict[str, Any]) -> None:
    contents, left_out = without_private_parts(checkpoint, "cells")
    assert contents.keys() == {"state_dict", "boxwright", "epoch", "global_step"}
    config = contents["boxwright"]["config"]
    text = repr({**contents, "state_dict": None})
    for private in ("/home", "berta", "smith", "scratch", "secret", "w4ndb1d", "mine", "wandb", "Optimizer"):
        assert private not in text, private
    assert (config["name"], config["data"]["root"], config["data"]["cache_dir"]) == ("cells", NO_DATA, None)
    assert config["model"]["backbone"]["weights"] == "mobilenet.pth"
    assert config["init_from"] == "best.ckpt"
    assert "started_from" not in contents["boxwright"]
    assert config["callbacks"].keys() == {"averaging"}
    told = ("logger", "data.root", "model.backbone.weights", "init_from", "name")
    assert {"optimizer_states", *(f"config.{key}" for key in told)} <= set(left_out)


def test_what_a_reader_needs_stays(checkpoint: dict[str, Any], best: Path, tmp_path: Path) -> None:
    contents, _ = without_private_parts(checkpoint, "cells")
    torch.save(contents, tmp_path / "model.ckpt")
    ours, theirs = read_checkpoint(tmp_path / "model.ckpt"), read_checkpoint(best)
    assert ours["boxwright"]["class_names"] == list(CLASSES)
    assert ours["boxwright"]["thresholds"] == theirs["boxwright"]["thresholds"]
    assert all(torch.equal(value, theirs["state_dict"][name]) for name, value in ours["state_dict"].items())
    before, after = theirs["boxwright"]["config"], ours["boxwright"]["config"]
    assert {**after["model"], "backbone": 0} == {**before["model"], "backbone": 0}
    assert {**after["data"], "root": 0, "cache_dir": 0} == {**before["data"], "root": 0, "cache_dir": 0}


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("/data/b c/labels_{split}.json", "labels_{split}.json"),
        ("~/data/a", "a"),
        (r"C:\Users\berta\x.pth", "x.pth"),
        (r"\\server\share\x.pth", "x.pth"),
        ("file:///home/berta/x", "x"),
        ("../../berta/x", "x"),
        ("mean of /home/berta/a.npy, /srv/b.npy", "mean of a.npy, b.npy"),
        ("annotations/instances_{split}.json", "annotations/instances_{split}.json"),
        ("2007_trainval+2012_trainval", "2007_trainval+2012_trainval"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("1/2", "1/2"),
    ],
)
def test_of_an_absolute_path_the_last_part_stays(checkpoint: dict[str, Any], text: str, published: str) -> None:
    checkpoint["boxwright"]["config"]["data"]["annotations"] = text
    contents, left_out = without_private_parts(checkpoint, "cells")
    assert contents["boxwright"]["config"]["data"]["annotations"] == published
    assert ("config.data.annotations" in left_out) == (text != published)


@pytest.mark.parametrize(
    ("given", "started", "kept"),
    [
        ("hf://b/c", "hf://b/c@0123", "hf://b/c@0123"),
        ("hf://b/c", None, "hf://b/c"),
        ("torchvision/fcos_resnet50_fpn=/home/x.pth", None, "torchvision/fcos_resnet50_fpn"),
        ("best.ckpt", "best.ckpt", None),
        (None, None, None),
    ],
)
def test_what_it_started_from_stays_where_it_is_public(
    checkpoint: dict[str, Any], given: str | None, started: str | None, kept: str | None
) -> None:
    checkpoint["boxwright"]["config"]["init_from"] = given
    if started is not None:
        checkpoint["boxwright"]["started_from"] = started
    assert without_private_parts(checkpoint, "cells").contents["boxwright"].get("started_from") == kept


def test_names_of_user_and_machine_are_asked_about(checkpoint: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_names", lambda: {"Berta", "node7", "root", "ab"})
    data = checkpoint["boxwright"]["config"]["data"]
    data |= {"train_split": "of_berta", "val_split": "bertamax", "images": "root/ab", "classes": ["berta"]}
    contents, _ = without_private_parts(checkpoint, "berta-cells")
    assert personal(contents) == [("data.train_split", "of_berta", "Berta")]
    assert personal(contents, ("data.train_split",)) == []


# The card


def card_of(checkpoint: dict[str, Any], dataset: str | None = "BCCD") -> ModelCard:
    contents, _ = without_private_parts(checkpoint, "cells")
    return ModelCard(make_card(contents, scores(checkpoint), Asked(REPO, "mit", dataset)))


def test_a_card_has_the_facts_of_its_checkpoint(checkpoint: dict[str, Any]) -> None:
    card = card_of(checkpoint)
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("mit", "boxwright", "object-detection")
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "BCCD", "type": "BCCD"}
    assert {metric["name"]: metric["value"] for metric in result["metrics"]} == {"AP": 0.5123, "AP50": 0.75}
    for fact in (
        "FCOS with the backbone MobileNetV2, for 5 classes of BCCD", "| AP | 0.512 |", "| disc | 0.500 | 0.750 | 12 |",
        "Validation after step 8, on the validation split of BCCD, short side 96 pixels",
        "| started from | the weights of another run |", "| steps | 8 |", "| versions | torch 2.15 |",
        "disc, square, triangle, star, cross", "python predict.py checkpoint=hf://anna/cells source=photos",
    ):  # fmt: skip
        assert fact in card.text, fact
    assert "AP_large" not in str(card)
    assert "None" not in str(card)


def test_what_is_unknown_is_not_on_the_card(checkpoint: dict[str, Any]) -> None:
    """As of a program that trained without a config, and by a file that says nothing of a validation."""
    stored = checkpoint["boxwright"]
    for key in ("callbacks", "global_step"):
        del checkpoint[key]
    for key in ("callbacks", "init_from", "seed", "scale_schedule", "optimizer", "schedule"):
        del stored["config"][key]
    stored |= {"versions": {}, "thresholds": {}}
    for key in ("optimizer", "schedule"):
        stored["config"]["model"][key] = {"_target_": f"lit_modules.{key}s.not_stored", "_partial_": True}
    card = card_of(checkpoint, None)
    assert card.data.to_dict().keys() == {"license", "library_name", "pipeline_tag", "tags"}
    for word in ("Scores", "steps", "seed", "optimizer", "schedule", "evaluated", "started", "versions", "None"):
        assert word not in card.text.partition("## Files")[0], word
    assert "score_threshold=0.3" in card.text


def test_scores_are_those_of_the_weights_or_none(checkpoint: dict[str, Any]) -> None:
    assert scores(checkpoint) == ({"AP": 0.512345, "AP50": 0.75}, PER_CLASS)
    assert scores({**checkpoint, "global_step": 10}) is None  # last.ckpt, two steps after the best validation
    assert scores({**checkpoint, "callbacks": {"ModelCheckpoint": {"best_model_score": 0.5}}}) is None
    assert scores({"state_dict": {}}) is None


def test_scores_without_a_name_of_the_data_are_on_the_page_alone(checkpoint: dict[str, Any]) -> None:
    checkpoint["boxwright"]["config"]["data"] |= {
        "_target_": "datamodules.coco.CocoDataModule", "val_split": "val", "train_split": "train",
    }  # fmt: skip
    card = card_of(checkpoint, None)
    assert "model-index" not in card.data.to_dict()
    assert "on split val, short side" in card.text
    assert "| data | split train, COCO JSON |" in card.text


def test_a_part_of_the_split_is_called_so(checkpoint: dict[str, Any]) -> None:
    checkpoint["boxwright"]["config"]["trainer"]["limit_val_batches"] = 2
    card = card_of(checkpoint)
    assert "a part (trainer.limit_val_batches=2) of the validation split" in card.text
    assert "model-index" not in card.data.to_dict()


def test_public_sources_are_linked(checkpoint: dict[str, Any]) -> None:
    checkpoint["boxwright"]["started_from"] = "hf://b/base@0123"
    data = card_of(checkpoint, "b/cells").data.to_dict()
    assert (data["base_model"], data["datasets"]) == ("b/base", ["b/cells"])
    checkpoint["boxwright"] |= {"started_from": "caffe2/e2e_faster_rcnn_R-50-FPN_1x"}
    assert "R-50-FPN_1x (licence: CC BY-SA 3.0) |" in card_of(checkpoint).text


def test_names_of_classes_do_not_break_the_page(checkpoint: dict[str, Any]) -> None:
    odd = ["a|b", "<b>", "*c*", "d\n# e", "`f`"]
    checkpoint["boxwright"]["class_names"] = odd
    checkpoint["callbacks"]["Checkpoints"]["best_per_class"] = {name: {"AP": 0.5} for name in odd}
    text = card_of(checkpoint).text
    assert r"a\|b, \<b\>, \*c\*, d \# e, \`f\`" in text
    assert r"| a\|b | 0.500 |" in text


def test_a_package_of_the_users_is_named_with_how_to_trust_it(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "berta_losses.py").write_text("from detectors.fcos import FCOSLoss\n\n\nclass Loss(FCOSLoss): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BOXWRIGHT_TRUSTED_PACKAGES", "berta_losses")
    checkpoint["boxwright"]["config"]["model"]["loss"] = {"_target_": "berta_losses.Loss"}
    text = card_of(checkpoint).text
    assert "made of classes in berta_losses, not part of Boxwright: to load it, have that code, and trust it." in text
    assert "score_threshold=\"best_f1\", trusted=['berta_losses'])" in text
    assert "checkpoint=hf://anna/cells source=photos 'trusted_packages=[berta_losses]'" in text


# The command


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
