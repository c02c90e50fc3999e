"""The scripts take a published checkpoint by its name: evaluate.py and train.py (predict.py: test_zoo_torchvision)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_files
from scripts import Script
from tiers import slow_but
from torchvision_files import BUILDERS

from boxwright.checkpoints.building import build_module
from boxwright.checkpoints.init_from import start_from
from boxwright.checkpoints.reading import read_checkpoint
from boxwright.config import from_checkpoint
from lit_modules.stored import without_weights

FCOS = "torchvision/fcos_resnet50_fpn"
SMALL = ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0", "logger=csv")


@pytest.fixture(scope="module")
def fcos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torchvision_files.write_file("fcos_resnet50_fpn", tmp_path_factory.mktemp("published") / "fcos.pth")


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py", "train.py", "benchmark.py"])
def test_a_wrong_name_is_answered_before_anything_is_made(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "init_from" if script == "train.py" else "checkpoint"
    more = {"evaluate.py": ["data=coco", "data.root=."], "predict.py": ["source=."]}.get(script, ["data=shapes"])
    more = [] if script == "benchmark.py" else more
    ended = Script(script, tmp_path, monkeypatch, capfd)(f"{key}=torchvision/fcos_resnet50_fp", *more)
    assert ended.status == 2
    assert f"nearest are {FCOS}" in ended.said
    assert list(tmp_path.iterdir()) == []


def test_evaluating_a_name_without_data_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = Script("evaluate.py", tmp_path, monkeypatch, capfd)(f"checkpoint={FCOS}")
    assert ended.status == 2
    assert "data=coco data.root=FOLDER" in ended.said


@pytest.mark.slow
def test_a_name_is_scored_on_cocos_layout_with_its_own_sizes_and_thresholds(
    fcos: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate = Script("evaluate.py", tmp_path, monkeypatch, capfd)
    ended = evaluate(
        f"checkpoint={FCOS}={fcos}", "data=coco", f"data.root={shared_data / 'coco_small'}", "data.val_split=val",
        "data.test_split=val", "data.resize=96", "data.num_workers=0", "accelerator=cpu", "output=scored",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    assert "interpolation=bilinear" in ended.said
    assert "rounding=down" in ended.said
    metrics = json.loads((tmp_path / "scored" / "metrics.json").read_text())["scalars"]
    assert 0 <= metrics["AP"] < 0.05
    assert "published/AP" not in metrics


def module_like(contents: dict[str, Any], **changes: Any) -> Any:
    config = without_weights({**contents["boxwright"]["config"]["model"], **changes})
    return build_module(config)


@pytest.mark.parametrize("name", slow_but("fcos_resnet50_fpn", of=BUILDERS.keys()))
def test_a_run_starts_from_all_but_the_layers_that_count_classes(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = torchvision_files.write_file(name, tmp_path / f"{name}.pth")
    given = f"torchvision/{name}={file}"
    contents = read_checkpoint(given)
    assert "model.spare_columns=10" not in from_checkpoint.start([f"init_from={given}"])
    spare = {"spare_columns": 0} if name.startswith("fasterrcnn") else {}
    module = module_like(contents, num_classes=3, **spare)
    with caplog.at_level("INFO"):
        start_from(module, given, ["a", "dog", "c"])
    assert "checkpoint's (1): dog" in caplog.text
    assert "left out (79)" in caplog.text
    ours, dog = module.state_dict(), 16
    if spare:
        assert torch.equal(module.network.logits.weight[2], contents["state_dict"]["network.logits.weight"][1 + dog])
    of_classes = {
        key for key, value in contents["state_dict"].items() if not torch.equal(value, _like(ours[key], value))
    }
    layers = {key.removeprefix("network.").removeprefix("head.").partition(".")[0] for key in of_classes}
    assert layers == ({"logits", "deltas"} if spare else {"logits"})
    if spare:  # all of its classes again: the same rows, without the spare ones
        module = module_like(contents, **spare)
        start_from(module, given, contents["boxwright"]["class_names"])
        assert torch.equal(module.network.logits.weight, contents["state_dict"]["network.logits.weight"][:81])
        assert torch.equal(module.network.deltas.bias, contents["state_dict"]["network.deltas.bias"][:324])


def _like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return value if value.shape == other.shape else torch.full_like(other, torch.nan)


@pytest.mark.slow
def test_a_recipe_of_another_network_trains_from_a_name(
    fcos: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """small_dataset has another backbone, pyramid and head; the name brings what its weights need."""
    train = Script("train.py", tmp_path, monkeypatch, capfd)
    ended = train(
        "experiment=small_dataset", f"init_from={FCOS}={fcos}", "data=coco", f"data.root={shared_data / 'coco_small'}",
        "data.classes=[person,dog]", "data.train_split=val", "data.val_split=val", "data.resize=64",
        "data.batch_size=2", "trainer.max_steps=1", "trainer.val_check_interval=1", "name=started", "test=false",
        *SMALL,
    )  # fmt: skip
    assert ended.status == 0, ended.said
    assert "starts from the weights of" in ended.said
    assert "classes that start from the checkpoint's (2): person, dog" in ended.said
    (best,) = tmp_path.glob("runs/started/*/checkpoints/best.ckpt")
    model = read_checkpoint(best)["boxwright"]["config"]["model"]
    assert (model["backbone"]["depth"], model["pyramid_channels"], model["grid_offset"]) == (50, 256, 0.0)
