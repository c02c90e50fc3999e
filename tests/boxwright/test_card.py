"""What of a checkpoint is published, and what its card says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from best_checkpoint import PER_CLASS, trained
from huggingface_hub import ModelCard
from tiny_checkpoint import CLASSES, write_checkpoint

from boxwright.checkpoints.reading import read_checkpoint
from boxwright.push import contents as parts
from boxwright.push.card import Asked, make_card, scores
from boxwright.push.contents import personal, without_private_parts
from boxwright.zoo.names import NO_DATA

REPO = "anna/cells"


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(write_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt"))


@pytest.fixture
def checkpoint(best: Path) -> dict[str, Any]:
    return torch.load(best, weights_only=True)


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
