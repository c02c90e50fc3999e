"""Modules and data modules under the user's own Trainer, as docs/library.md shows."""

import contextlib
import csv
import io
import json
import math
import re
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from composing import random_batch
from pytorch_lightning.callbacks import ModelCheckpoint
from running import assert_equal_bits
from scripts import Script
from torch.utils.data import DataLoader

from boxwright import load_detector
from boxwright.checkpoints.init_from import start_from
from boxwright.config import from_checkpoint
from boxwright.config.errors import ConfigError
from datamodules.shapes import ShapesDataModule
from lit_modules.fcos import FCOSModule
from lit_modules.schedules import constant

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's scripts were run, one after the other; NAME.txt holds what each printed."""
    folder = tmp_path_factory.mktemp("library")
    scripts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, script in zip(("script", "pictures"), scripts, strict=True):
            Path(f"{name}.py").write_text(script)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                runpy.run_path(f"{name}.py", run_name="__main__")
            Path(f"{name}.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The functions of the page's script, in its folder."""
    monkeypatch.chdir(folder)
    return runpy.run_path("script.py", run_name="script")


def quiet(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **settings
    )


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda file: int(file.stem.partition("=")[2]))


def test_a_users_logger_has_each_curve(folder: Path) -> None:
    (file,) = folder.glob("logs/lightning_logs/version_0/metrics.csv")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 12  # one a step
    assert all(float(row["lr"]) > 0 for row in rows if row.get("lr"))
    assert sum(bool(row["val/AP"]) for row in rows) >= 2
    assert sum(bool(row["val/loss"]) for row in rows) >= 2


def test_validate_and_test_return_the_numbers(script: dict[str, Any], folder: Path) -> None:
    module, data = FCOSModule.load_from_checkpoint(checkpoints(folder)[-1]), script["make_data"]()
    (val,) = quiet().validate(module, data, verbose=False)
    (test,) = quiet().test(module, data, verbose=False)
    assert {"val/AP", "val/AP50", "val/loss", "val/loss_cls", "val/AP_class/disc"} <= val.keys()
    assert test["test/AP"] == pytest.approx(val["val/AP"])  # the data set has no separate test split
    assert 0 <= val["val/AP"] <= val["val/AP50"] <= 1
    stored = torch.load(checkpoints(folder)[-1], weights_only=True)["boxwright"]["metrics"]
    assert val["val/AP"] == pytest.approx(stored["AP"])


def test_a_resumed_training_equals_an_uninterrupted_one(script: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    half, whole = checkpoints(folder)
    pl.seed_everything(1)
    trainer = script["make_trainer"](ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1))
    trainer.fit(script["make_module"](), script["make_data"](), ckpt_path=half, weights_only=True)
    (ours,) = tmp_path.glob("*.ckpt")
    first, second = (torch.load(file, weights_only=True) for file in (whole, ours))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal_bits(second[key], first[key], key)


def test_predictions_are_those_of_the_detector(script: dict[str, Any], folder: Path) -> None:
    file, data = checkpoints(folder)[-1], script["make_data"]()
    batches = quiet().predict(FCOSModule.load_from_checkpoint(file), data)
    found = {one.image_id: one for batch in batches or () for one in batch}
    assert len(found) == 6
    detector = load_detector(file)
    assert detector.class_names == data.class_names
    image_id = min(found)
    alone = detector(data.image("test", image_id))
    count = len(found[image_id].scores)
    assert count > 0
    assert torch.as_tensor(found[image_id].scores).tolist() == pytest.approx(alone.scores[0].tolist(), abs=1e-5)


def test_detections_on_pictures_of_ones_own_are_those_of_the_detector(folder: Path) -> None:
    detector = load_detector(checkpoints(folder)[-1], score_threshold=0.02)
    lines = (folder / "pictures.txt").read_text().splitlines()
    pictures = sorted((folder / "data" / "shapes" / "val").glob("*.jpg"))
    assert len(lines) == len(pictures) == 6
    for line, picture in zip(lines, pictures, strict=True):
        alone = detector(picture)
        names = [detector.class_names[label] for label in alone.labels[0].tolist()]
        assert line.startswith(f"{picture.name} {names} [")
        assert json.loads(line[len(f"{picture.name} {names} ") :]) == pytest.approx(alone.boxes[0].numpy(), abs=0.06)
    assert any("'" in line for line in lines)  # some objects are detected


def test_loaders_without_a_data_module_train_and_score(script: dict[str, Any]) -> None:
    data = script["make_data"]()
    data.setup("fit")
    trainer = quiet(max_epochs=1, limit_val_batches=1, enable_checkpointing=False)
    trainer.fit(script["make_module"](), data.train_dataloader(), data.val_dataloader())
    assert math.isfinite(trainer.callback_metrics["val/AP"])


def batches_of(label: int) -> DataLoader[Any]:
    batch = random_batch(2, 5)
    batch.labels[1, 0] = label
    return DataLoader([batch], batch_size=None)  # pyright: ignore[reportArgumentType]


def test_a_users_loader_trains_and_cannot_be_scored_without_its_data(script: dict[str, Any]) -> None:
    quiet(max_steps=1, enable_checkpointing=False).fit(script["make_module"](), batches_of(0))
    with pytest.raises(ValueError, match=r"class names and true boxes are not known .*loader\.data = data"):
        quiet().validate(script["make_module"](), batches_of(0))


@pytest.mark.parametrize("label", [5, 81, -2])
def test_a_label_out_of_range_reaches_no_loss(script: dict[str, Any], label: int) -> None:
    with pytest.raises(ValueError, match=rf"label.*{label}"):
        quiet(max_steps=1, enable_checkpointing=False).fit(script["make_module"](), batches_of(label))


def test_another_number_of_classes_is_refused(script: dict[str, Any]) -> None:
    module = script["make_module"]()
    other = FCOSModule(module.network.backbone, 3, module.make_optimizer, module.make_schedule, lr=0.1)
    with pytest.raises(ValueError, match=r"num_classes=3, but its data 5 classes: "):
        quiet(max_steps=1).fit(other, script["make_data"]())


def test_what_a_checkpoint_cannot_store_must_be_given(script: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    module = FCOSModule.load_from_checkpoint(
        checkpoints(folder)[0], optimizer=lambda network, lr: torch.optim.SGD(network.parameters(), lr)
    )
    trainer = quiet(max_steps=1, limit_val_batches=0, callbacks=[ModelCheckpoint(tmp_path, filename="own")])
    trainer.fit(module, script["make_data"]())
    assert load_detector(tmp_path / "own.ckpt").class_names  # prediction needs no optimizer
    with pytest.raises(ConfigError, match=r"could not store the optimizer .*; give optimizer= with one of adamw, sgd"):
        from_checkpoint.run([f"checkpoint={tmp_path / 'own.ckpt'}"])
    assert "schedule=cosine" in from_checkpoint.run([f"checkpoint={tmp_path / 'own.ckpt'}", "optimizer=sgd"])
    again = FCOSModule.load_from_checkpoint(tmp_path / "own.ckpt", schedule=partial(constant))
    with pytest.raises(ValueError, match=r"optimizer.* to load_from_checkpoint"):
        quiet(max_steps=1).fit(again, script["make_data"]())


def test_a_module_of_other_classes_starts_from_its_weights(script: dict[str, Any], folder: Path) -> None:
    file, module = checkpoints(folder)[-1], script["make_module"]()
    other = FCOSModule(
        module.network.backbone,
        3,
        module.make_optimizer,
        module.make_schedule,
        lr=0.1,
        pyramid_channels=32,
        num_convs=1,
    )
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    start_from(other, str(file), ["a", "b", "c"])
    stored, after = torch.load(file, weights_only=True)["state_dict"], other.state_dict()
    of_classes = {name for name, tensor in after.items() if not torch.equal(tensor, stored[name])}
    assert of_classes == {"network.head.logits.weight", "network.head.logits.bias"}
    assert all(torch.equal(after[name], before[name]) for name in of_classes)


# The scripts on such a checkpoint


def test_a_file_name_of_lightning_completes_a_command_line(folder: Path) -> None:
    """`=` within a value must be quoted for Hydra, which is done where the file exists."""
    file = checkpoints(folder)[-1]
    assert file.name == "step=12.ckpt"
    assert "data=shapes" in from_checkpoint.data_set([f"checkpoint={file}", "data.num_workers=0"])
    completed = from_checkpoint.run([f"checkpoint={file}", "data.num_workers=0"])
    assert {"model=fcos", "data=shapes", "optimizer=adamw", "schedule=cosine"} <= set(completed)
    assert any(line.startswith("model/backbone=resnet") for line in completed)


def run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, *overrides: str) -> str:
    ended = Script(f"{name}.py", tmp_path, monkeypatch, capfd)(*overrides, "output=out")
    assert ended.status == 0, ended.said
    return ended.said


@pytest.mark.slow
def test_benchmark_measures_it_as_it_was_trained(
    script: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    trainer = quiet(
        max_steps=1, limit_val_batches=0, accumulate_grad_batches=2, gradient_clip_val=5,
        callbacks=[ModelCheckpoint(tmp_path, filename="one")],
    )  # fmt: skip
    trainer.fit(script["make_module"](), script["make_data"]())
    root = folder / "data" / "shapes"
    run(
        "benchmark", tmp_path, monkeypatch, capfd, f"checkpoint={tmp_path / 'one.ckpt'}", f"data.root={root}",
        "parts=[step,inference]", "rounds=1", "warmup=0", "trainer.accelerator=cpu", "data.eval_batch_size=2",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert (found["step"]["images"], found["step"]["micro_batches"]) == (4, 2)
    assert [way["batch"] for way in found["inference"]] == [2, 1]
    config = found["config"]
    assert config["trainer"]["gradient_clip_val"] == 5
    assert config["scale_schedule"] is False
    assert config["optimizer"] == config["model"]["optimizer"]
    assert config["optimizer"] == {"_target_": "lit_modules.optimizers.adamw", "_partial_": True}
    assert config["schedule"] == {"_target_": "lit_modules.schedules.cosine", "_partial_": True, "warmup_steps": 2}
    assert config["model"]["lr"] == 1e-3
    assert config["model"]["backbone"]["depth"] == 18
    assert config["data"]["batch_size"] == 4


@pytest.mark.slow
def test_benchmark_takes_another_optimizer_than_its(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    run(
        "benchmark", tmp_path, monkeypatch, capfd, f"checkpoint={checkpoints(folder)[-1]}", "parts=[step]", "rounds=1",
        f"data.root={folder / 'data' / 'shapes'}", "warmup=0", "trainer.accelerator=cpu", "optimizer=sgd",
        "schedule.warmup_steps=1",
    )  # fmt: skip
    config = json.loads((tmp_path / "out" / "benchmark.json").read_text())["config"]
    assert config["model"]["optimizer"]["_target_"] == "lit_modules.optimizers.sgd"
    assert config["model"]["optimizer"]["momentum"] == 0.9
    assert config["model"]["schedule"]["warmup_steps"] == 1


@pytest.mark.slow
def test_evaluate_scores_it_as_the_trainer_did(
    script: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    file = checkpoints(folder)[-1]
    (val,) = quiet().validate(FCOSModule.load_from_checkpoint(file), script["make_data"](), verbose=False)
    root = f"data.root={folder / 'data' / 'shapes'}"
    run("evaluate", tmp_path, monkeypatch, capfd, f"checkpoint={file}", root, "accelerator=cpu")
    scalars = json.loads((tmp_path / "out" / "metrics.json").read_text())["scalars"]
    assert scalars["AP"] == pytest.approx(val["val/AP"], abs=1e-7)
    assert scalars["AP50"] == pytest.approx(val["val/AP50"], abs=1e-7)


@pytest.mark.slow
def test_predict_finds_with_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    file, picture = checkpoints(folder)[-1], folder / "data" / "shapes" / "val" / "000000.jpg"
    run(
        "predict", tmp_path, monkeypatch, capfd, f"checkpoint={file}", f"source={picture}", "score_threshold=0.02",
        "accelerator=cpu", "draw=false",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    alone = load_detector(file, "cpu", score_threshold=0.02)(picture)
    assert len(found["annotations"]) == len(alone.scores[0]) > 0


@pytest.mark.slow
def test_two_ranks_score_as_one(script: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    file, root = checkpoints(folder)[-1], folder / "data/shapes"
    (alone,) = quiet().validate(FCOSModule.load_from_checkpoint(file), script["make_data"](), verbose=False)
    trainer = quiet(devices=2, strategy="ddp_spawn")
    data = ShapesDataModule(root=str(root), train_images=24, val_images=6, image_size=96, resize=96, num_workers=0)
    (together,) = trainer.validate(FCOSModule.load_from_checkpoint(file), data, verbose=False)
    assert together["val/AP"] == alone["val/AP"]
