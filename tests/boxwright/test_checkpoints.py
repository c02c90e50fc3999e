"""Checkpoints: reading one runs nothing in it; its links, best score and step are right at any moment."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from tiny_checkpoint import write_checkpoint
from torch import nn

from boxwright.checkpoints import reading
from boxwright.checkpoints.reading import (
    AtomicCheckpointIO,
    build_module,
    load_module,
    read_checkpoint,
    refuse_unresumable,
    remember,
)
from boxwright.config import from_checkpoint
from lit_modules.callbacks.averaging import Averaging
from lit_modules.callbacks.checkpoints import Checkpoints, point, saved
from lit_modules.callbacks.early_stopping import EarlyStopping
from lit_modules.stored import without_weights


class Hostile:
    """An object that makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path):
    torch.save({"state_dict": {}, "boxwright": Hostile(tmp_path / "ran")}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt can't be read as a checkpoint.*use another checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


def test_truncated_foreign_and_missing_checkpoints_are_named(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1000)}, "boxwright": {}}, tmp_path / "whole.ckpt")
    data = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "short.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"short\.ckpt can't be read.*cut short"):
        read_checkpoint(tmp_path / "short.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(
        ValueError, match=r"foreign\.ckpt is not a checkpoint of this project.*model\.backbone\.weights"
    ):
        read_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"none\.ckpt does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("place", ["model._target_", "model.backbone._target_", "model.blocks[1]._target_"])
def test_a_checkpoint_cannot_name_a_foreign_class(place):
    config = {
        "_target_": "lit_modules.fcos.FCOSModule",
        "backbone": {"_target_": "detectors.backbones.ResNet"},
        "blocks": [{}, {"_target_": "torch.optim.SGD"}],
    }
    node = {"model._target_": config, "model.backbone._target_": config["backbone"]}.get(place, config["blocks"][1])
    node["_target_"] = "os.system"
    with pytest.raises(ValueError, match=r"'os\.system': a checkpoint may only name") as error:
        build_module(config)
    assert str(error.value).startswith(place)


def test_a_rebuilt_module_does_not_load_pretrained_weights():
    config = {"lr": 1, "backbone": {"weights": "imagenet", "depth": 50}}
    assert without_weights(config) == {"lr": 1, "backbone": {"weights": None, "depth": 50}}
    assert config["backbone"]["weights"] == "imagenet"


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "step_1.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "boxwright": {"a": 1}}, file)

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "boxwright": {"a": 2}}, file)
    assert list(tmp_path.iterdir()) == [file]
    assert torch.load(file, weights_only=True)["boxwright"] == {"a": 1}


def test_saved_files_are_ordered_by_step_and_a_link_is_replaced_in_one_step(tmp_path):
    for step in (20, 3, 10_000_000):
        (tmp_path / f"step_{step:07d}.ckpt").touch()
    (tmp_path / ".step_0000004.ckpt.1.part").touch()
    assert [step for step, _ in saved(tmp_path)] == [3, 20, 10_000_000]
    for target in ("step_0000003.ckpt", "step_0000020.ckpt"):
        point(tmp_path / "last.ckpt", target)
        assert os.readlink(tmp_path / "last.ckpt") == target  # relative: the folder can be moved


@pytest.mark.parametrize("keep", [0, -2])
def test_a_run_keeps_a_checkpoint_to_resume_from(keep):
    with pytest.raises(ValueError, match=rf"callbacks\.checkpoints\.keep={keep}: expected -1 for all, or 1 or more"):
        Checkpoints(keep=keep)


def test_the_best_score_of_another_metric_is_ignored():
    of_ap = Checkpoints(monitor="val/AP")
    of_ap.best_score, of_ap.best_step = 0.4, 20
    same, other = Checkpoints(monitor="val/AP"), Checkpoints(monitor="val/loss", mode="min")
    same.load_state_dict(of_ap.state_dict())
    other.load_state_dict(of_ap.state_dict())
    assert (same.best_score, same.best_step) == (0.4, 20)
    assert (other.best_score, other.best_step) == (float("inf"), -1)


class Trainer(SimpleNamespace):
    """A stand-in for the trainer of a fit, with the metrics of one validation after another."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        super().__init__(
            checkpoint_callback=checkpoints, sanity_checking=False, state=SimpleNamespace(fn="fit"), global_step=0,
            should_stop=False, callback_metrics={},
        )  # fmt: skip

    def validate(self, callback: pl.Callback, **metrics: float) -> None:
        self.global_step += 10
        self.callback_metrics = {f"val/{name}": torch.tensor(value) for name, value in metrics.items()}
        last = SimpleNamespace(metrics=SimpleNamespace(scalars=metrics, per_class={}))
        callback.on_validation_end(self, SimpleNamespace(last=last))


@pytest.fixture
def large(monkeypatch) -> Checkpoints:
    """A `Checkpoints` that monitors AP_large and saves nothing."""
    checkpoints = Checkpoints(monitor="val/AP_large")
    monkeypatch.setattr(checkpoints, "_save", lambda trainer: None)
    monkeypatch.setattr(checkpoints, "_stop_if_asked", lambda trainer, module: None)
    return checkpoints


def test_without_large_objects_ap_chooses_the_best_with_one_warning(large, caplog):
    trainer = Trainer(large)
    for ap in (0.1, 0.3, 0.2):
        trainer.validate(large, AP=ap, AP_large=-1.0)
    assert (large.best_step, large.best_of, large.best_text) == (20, "val/AP", "val/AP 30.00 %")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "monitor=val/AP_large: this validation has no such number" in caplog.text


def test_without_any_object_the_newest_is_best_and_its_value_a_dash(large):
    trainer = Trainer(large)
    for _ in range(2):
        trainer.validate(large, AP=-1.0, AP_large=-1.0)
    assert (large.best_step, large.best_text) == (20, "val/AP_large -")


def test_the_replacement_metric_is_kept_on_resume(large):
    Trainer(large).validate(large, AP=0.3, AP_large=-1.0)
    resumed = Checkpoints(monitor="val/AP_large")
    resumed.load_state_dict(large.state_dict())
    assert (resumed.best_step, resumed.best_text) == (10, "val/AP 30.00 %")


def test_an_undefined_best_score_of_an_earlier_version_is_computed_again(large):
    earlier = large.state_dict() | {"best_score": -1.0, "best_step": 10, "best_metrics": {"AP": 0.3, "AP_large": -1.0}}
    del earlier["best_of"]
    large.load_state_dict(earlier)
    Trainer(large).validate(large, AP=0.2, AP_large=-1.0)
    assert (large.best_step, large.best_text) == (10, "val/AP 30.00 %")


def test_early_stopping_follows_the_replacement_metric(large):
    trainer, stopping = Trainer(large), EarlyStopping(patience=2)
    stopping.setup(trainer, None, "fit")
    for ap in (0.1, 0.2, 0.3, 0.2):
        trainer.validate(stopping, AP=ap, AP_large=-1.0)
    resumed = EarlyStopping(patience=2)
    resumed.load_state_dict(stopping.state_dict())
    assert not resumed.reason
    trainer.validate(resumed, AP=0.3, AP_large=-1.0)
    assert trainer.should_stop
    assert resumed.reason == "no better val/AP in 2 validations: callbacks.early_stopping.patience=2"


@pytest.mark.parametrize("nothing", [-1.0, float("nan")])
def test_a_split_without_objects_does_not_stop_a_run_early(large, nothing):
    trainer, stopping = Trainer(large), EarlyStopping(patience=1)
    for _ in range(4):
        trainer.validate(stopping, AP=nothing, AP_large=nothing)
    assert not stopping.reason
    assert not trainer.should_stop


def test_early_stopping_continues_an_earlier_versions_count():
    checkpoints = Checkpoints(monitor="val/loss", mode="min")
    trainer, stopping = Trainer(checkpoints), EarlyStopping(patience=3)
    stopping.setup(trainer, None, "fit")
    stopping.load_state_dict({"wait_count": 2, "stopped_epoch": 0, "best_score": torch.tensor(0.5), "patience": 9})
    trainer.validate(stopping, loss=0.6)
    assert stopping.reason == "no better val/loss in 3 validations: callbacks.early_stopping.patience=3"
    fresh = EarlyStopping(patience=1)
    fresh.setup(trainer, None, "fit")
    fresh.load_state_dict(
        {"wait_count": 0, "stopped_epoch": 0, "best_score": torch.tensor(float("inf")), "patience": 1}
    )
    trainer.validate(fresh, loss=0.6)
    assert not fresh.reason


def test_the_average_is_the_one_worked_out_by_hand():
    """The decay at update n is (1 + n) / (10 + n), at most `decay`; the first update copies the weights."""
    module = pl.LightningModule()
    module.layer = nn.Linear(1, 1, bias=False)
    callback = Averaging(decay=0.2)
    callback.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), module, "fit")
    seen = []
    for weight in (1.0, 2.0, 4.0):
        module.layer.weight.data.fill_(weight)
        callback._average_model.update_parameters(module)
        seen.append(callback._average_model.module.layer.weight.item())
    # 1; then n = 1 is 2/11 = 0.1818: 0.1818 x 1 + 0.8182 x 2; then n = 2 is 3/12, more than 0.2: 0.2 x .. + 0.8 x 4
    assert seen == pytest.approx([1.0, 20 / 11, 0.2 * 20 / 11 + 0.8 * 4.0])


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were verified, in order."""
    files: list[Path] = []
    verify = reading._refuse_damaged
    monkeypatch.setattr(reading, "_refuse_damaged", lambda path: (files.append(path), verify(path))[1])
    return files


def test_a_checkpoint_is_verified_once_for_a_resume(tmp_path: Path, verified: list[Path]) -> None:
    file = write_checkpoint(tmp_path / "step_0000004.ckpt")
    contents = torch.load(file, weights_only=True)
    state = {"epoch": 0, "global_step": 4, "loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save(contents | state, file)
    module = load_module(contents)
    refuse_unresumable(file, module)
    resumed = AtomicCheckpointIO().load_checkpoint(file)
    assert resumed["global_step"] == 4
    assert verified == [file]
    AtomicCheckpointIO().load_checkpoint(file)  # the first load has emptied the cache
    assert verified == [file, file]


def test_a_checkpoint_is_verified_once_for_an_evaluation_with_settings(tmp_path: Path, verified: list[Path]) -> None:
    file = write_checkpoint(tmp_path / "a.ckpt")
    assert "data=shapes" in from_checkpoint.data_set([f"checkpoint={file}", "data.resize=64"])
    read_checkpoint(file)
    assert verified == [file]


def test_a_file_that_changed_is_read_again(tmp_path: Path, verified: list[Path]) -> None:
    file = write_checkpoint(tmp_path / "a.ckpt")
    remember(file, read_checkpoint(file))
    write_checkpoint(file, thresholds={"disc": 0.5})
    assert read_checkpoint(file)["boxwright"]["thresholds"] == {"disc": 0.5}
    assert len(verified) == 2
