"""Configs of version 0.1.0 in today's keys: the table against conf/, stored configs, checkpoints, runs, messages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from composing import MODELS, built, composed
from omegaconf import OmegaConf
from tiny_checkpoint import write_checkpoint

from boxwright.checkpoints.reading import CheckpointError, load_module, read_checkpoint
from boxwright.config.command_line import command_line_problems
from boxwright.config.earlier import ADDED, FIXED, MOVED, NODES, moved_to, renamed_line, translated
from boxwright.config.files import flat, plain
from boxwright.runs.compare import read
from boxwright.runs.folder import given_overrides, load_config
from lit_modules.stored import FORMAT
from reports.comparison import compare

RUNS = Path(__file__).parents[1] / "earlier_runs" / "runs"
STORED = {name: next((RUNS / name).glob("*/config.yaml")) for name in ("fcos", "retinanet", "rpn", "faster_rcnn")}


def stored(name: str) -> dict[str, Any]:
    return yaml.safe_load(STORED[name].read_text())


def as_stored(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config as version 0.1.0 stored it."""
    target = model["_target_"]
    flat_model = {key: value for key, value in model.items() if key not in NODES[target]}
    for old, new in MOVED[target].items():
        _, node, name = new[0].split(".")
        flat_model[old.removeprefix("model.")] = model[node][name]
    return flat_model


@pytest.mark.parametrize("name", STORED)
def test_a_translated_config_has_todays_keys_and_every_value(name: str) -> None:
    old = stored(name)
    new = translated(old)
    today = composed(f"model={name}", "data=shapes", f"model/backbone={'mobilenet_v2'}")
    of_model = {key for key in flat(today) if key.startswith("model.") and "optimizer" not in key}
    of_model = {key for key in of_model if "schedule" not in key and "backbone" not in key}
    found = flat(OmegaConf.create(new))
    assert of_model <= found.keys()
    assert not {key.removeprefix("model.") for key in MOVED[old["model"]["_target_"]]} & new["model"].keys()
    for key, places in MOVED[old["model"]["_target_"]].items():
        assert {str(found[place]) for place in places} == {str(old["model"][key.removeprefix("model.")])}
    assert {key: found[key] for key in FIXED.get(old["model"]["_target_"], {})} == FIXED.get(
        old["model"]["_target_"], {}
    )
    assert {key: new["model"][key] for key in ADDED.get(old["model"]["_target_"], {})} == {
        key: plain(today)["model"][key] for key in ADDED.get(old["model"]["_target_"], {})
    }
    assert translated(new) == new
    assert old == stored(name)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_fits_conf(name: str) -> None:
    model = plain(composed(f"model={name}", "data=shapes"))["model"]
    nodes = {key: node["_target_"] for key, node in model.items() if isinstance(node, dict)}
    nodes = {key: target for key, target in nodes.items() if key not in ("backbone", "optimizer", "schedule")}
    assert nodes == NODES.get(model["_target_"], {})
    moved = [place for places in MOVED.get(model["_target_"], {}).values() for place in places]
    fixed = list(FIXED.get(model["_target_"], {}))
    of_nodes = {f"model.{node}.{key}" for node in nodes for key in model[node] if key != "_target_"}
    assert sorted([*moved, *fixed]) == sorted(of_nodes)
    if nodes:
        assert translated({"model": as_stored(model)})["model"] == model


def test_what_is_not_a_model_of_0_1_0_is_returned_unchanged() -> None:
    for config in ({}, {"model": None}, {"model": {"_target_": ["a"]}}, {"model": {"_target_": "mine.Model", "lr": 1}}):
        assert translated(config) == config


def test_an_override_of_0_1_0_is_renamed() -> None:
    fcos = "lit_modules.fcos.FCOSModule"
    assert renamed_line(fcos, "model.box_loss=giou") == "model.loss.box_loss=giou"
    assert renamed_line(fcos, "+model.nms_threshold=0.5") == "+model.decoder.nms_threshold=0.5"
    assert renamed_line(fcos, "~callbacks.report") == "~callbacks.report"
    assert renamed_line(fcos, "model.lr=1") == "model.lr=1"
    assert renamed_line(None, "model.box_loss=giou") == "model.box_loss=giou"
    assert moved_to("lit_modules.retinanet.RetinaNetModule", "model.box_weights") == "model.loss.box_weights"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["model.box_loss=giou"], "model.box_loss (command line, model.box_loss=giou): is now model.loss.box_loss"),
        (["+model.box_loss=giou"], "is now model.loss.box_loss"),
        (["resume=last", "name=x", "model.score_threshold=0.1"], "is now model.decoder.score_threshold"),
        (["model=faster_rcnn", "model.nms_threshold=0.3"], "is now model.decoder.nms_threshold"),
        (["model=faster_rcnn", "model.proposals=300"], "is now model.proposer.max_proposals"),
        (["model=retinanet", "model.fast_decode=true"], "is now model.decoder.top_class_only"),
        (["model.low_quality=false"], "is now model.loss.allow_low_quality of model=retinanet"),
        (["model=rpn", "model.max_detections=9"], "is now model.decoder.max_proposals"),
    ],
)
def test_the_old_spelling_of_a_key_is_answered_with_the_new(argv: list[str], says: str) -> None:
    (problem,) = command_line_problems("train", [*argv, "data=shapes"])
    assert problem.endswith(says)


@pytest.fixture
def of_0_1_0(tmp_path: Path) -> Path:
    """A checkpoint as version 0.1.0 wrote it."""
    file = write_checkpoint(tmp_path / "new.ckpt", f"data.root={tmp_path}", "model.decoder.score_threshold=0.01")
    contents = torch.load(file, weights_only=True)
    about = contents["boxwright"]
    about["config"]["model"] = as_stored(about["config"]["model"])
    about["format"] = 1
    torch.save(contents, tmp_path / "old.ckpt")
    return tmp_path / "old.ckpt"


def test_a_checkpoint_of_format_1_is_read_as_one_of_today(of_0_1_0: Path) -> None:
    old, new = read_checkpoint(of_0_1_0), read_checkpoint(of_0_1_0.with_name("new.ckpt"))
    assert old["boxwright"]["format"] == new["boxwright"]["format"] == FORMAT == 2
    assert old["boxwright"]["config"] == new["boxwright"]["config"]
    module = load_module(old)
    assert module.decoder.score_threshold == 0.01
    assert module.run["format"] == FORMAT


def test_a_checkpoint_of_format_2_may_not_have_the_keys_of_format_1(of_0_1_0: Path) -> None:
    contents = torch.load(of_0_1_0, weights_only=True)
    contents["boxwright"]["format"] = 2
    torch.save(contents, of_0_1_0)
    with pytest.raises(CheckpointError, match="has no such parameter"):
        read_checkpoint(of_0_1_0)


def test_the_settings_of_a_stored_run_reach_its_parts() -> None:
    module: Any = built(OmegaConf.create(translated(stored("faster_rcnn"))), device="meta")
    assert (module.proposer.max_proposals, module.proposer.candidates_per_level) == (50, 50)
    assert module.proposer.nms_threshold == module.train_proposer.nms_threshold == 1.0
    assert (module.sample_regions.num_samples, module.sample_regions.positive_fraction) == (2000, 1.0)


def test_old_and_new_runs_have_the_same_columns(tmp_path: Path) -> None:
    folder = STORED["fcos"].parent
    config = plain(load_config(folder / "config.yaml"))
    assert config["model"]["loss"]["box_loss"] == "iou"
    (tmp_path / "old").mkdir()
    old = stored("fcos")
    old["model"]["box_loss"] = "giou"
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(old))
    (tmp_path / "old" / "overrides.json").write_text(json.dumps({"overrides": ["model.box_loss=giou"], "choices": {}}))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(yaml.safe_dump(config))
    results = [read(tmp_path / name, tmp_path) for name in ("old", "new")]
    assert compare(results).columns == ["model.loss.box_loss"]
    assert given_overrides(tmp_path / "old") == {"model.box_loss": "giou"}  # as it was typed
