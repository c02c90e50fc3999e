"""`init_from`: which weights of another run are taken, and which are skipped."""

import logging
from pathlib import Path

import pytest
import torch
from composing import built, composed
from omegaconf import DictConfig
from running import TINY, only_run
from tiny_checkpoint import CLASSES, write_checkpoint

from boxwright.checkpoints.init_from import start_from
from boxwright.config.errors import ConfigError
from boxwright.config.files import plain
from lit_modules.detection_module import DetectionModule


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("other") / "best.ckpt"))


def module(*overrides: str) -> DetectionModule:
    return built(
        composed(
            "model=fcos", "model/backbone=mobilenet_v2", "data=shapes", "model.backbone.norm=gn",
            "model.backbone.frozen_stages=0", "model.pyramid_channels=32", "model.num_convs=1", *overrides,
        ),
        seed=1,
    )  # fmt: skip


def test_all_weights_are_taken_where_the_classes_agree(checkpoint, caplog):
    new = module()
    with caplog.at_level(logging.INFO):
        start_from(new, checkpoint, CLASSES)
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert stored.keys() == new.state_dict().keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in new.state_dict().items())
    assert "starts from the weights of" in caplog.text
    assert "left out" not in caplog.text


def test_classes_that_the_checkpoint_lacks_are_drawn_anew(checkpoint, caplog):
    new = module("data.num_classes=3")
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    with caplog.at_level(logging.INFO):
        start_from(new, checkpoint, ["a", "b", "c"])
    assert "new classes, whose weights are drawn anew (3): a, b, c" in caplog.text
    assert "classes of the checkpoint that are left out (5): disc, square, triangle, star, cross" in caplog.text
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    kept = {"network.head.logits.weight", "network.head.logits.bias"}
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, before[name] if name in kept else stored[name]), name


def test_equally_many_classes_of_other_names_are_never_taken_by_their_place(checkpoint, caplog):
    new = module()
    before = new.network.head.logits.weight.detach().clone()
    with caplog.at_level(logging.INFO):
        start_from(new, checkpoint, ["a", "b", "c", "d", "e"])
    assert torch.equal(new.network.head.logits.weight, before)
    assert "new classes, whose weights are drawn anew (5)" in caplog.text
    assert "init_classes={NEW: OLD} pairs them by hand" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model.pyramid_channels=64"],
            r"pyramid\.lateral\.0\.weight \(\(32, 32, 1, 1\) there, \(64, 32, 1, 1\) here\)",
        ),
        (["model.num_convs=2"], r"tensors do not fit, such as network\.head\.box_tower"),
    ],
)
def test_another_network_is_refused(checkpoint, overrides, said):
    with pytest.raises(ConfigError, match=said) as error:
        start_from(module(*overrides), checkpoint, CLASSES)
    assert "model.backbone.weights=FILE" in str(error.value)


def test_another_detector_is_refused_by_its_name(checkpoint):
    with pytest.raises(
        ConfigError, match=r"it contains a FCOSModule and this run trains a FasterRCNNModule: \d+ tensors do not"
    ):
        start_from(built(two_stages()), checkpoint, CLASSES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"init_from=gone\.ckpt: .*gone\.ckpt is no file; give that of a run"):
        start_from(module(), "gone.ckpt", CLASSES)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another_and_resumes_without_its_file(train, shapes, tmp_path):
    """Warm-up at factor 0 leaves the weights unchanged; the file may be gone when the run is resumed."""
    (tmp_path / "first").mkdir()
    train([*TINY, shapes, "trainer.max_steps=2", "callbacks.averaging.decay=0.5"], tmp_path / "first")
    file = only_run(tmp_path / "first") / "checkpoints" / "step_0000002.ckpt"
    copy = Path(tmp_path / "start.ckpt")
    copy.write_bytes(file.read_bytes())
    printed = train(
        [*TINY, shapes, f"init_from={copy}", "trainer.max_steps=2", "schedule.warmup_factor=0.0",
         "schedule.warmup_steps=1000", "optimizer.weight_decay=0"],
        tmp_path,
    )  # fmt: skip
    assert "starts from the weights of" in printed
    run = only_run(tmp_path)
    before = torch.load(copy, weights_only=True)["state_dict"]
    after = torch.load(run / "checkpoints" / "step_0000002.ckpt", weights_only=True)["state_dict"]
    assert all(
        (tensor - before[name]).abs().max() < 1e-4 for name, tensor in after.items() if tensor.is_floating_point()
    )
    copy.unlink()
    printed = train([f"resume={run}", "trainer.max_steps=3"], tmp_path)
    assert "starts from" not in printed
    assert (run / "checkpoints" / "step_0000003.ckpt").exists()


def two_stages(*overrides: str) -> DictConfig:
    return composed(
        "model=faster_rcnn", "model/backbone=mobilenet_v2", "data=shapes", "model.backbone.norm=gn",
        "model.backbone.frozen_stages=0", "model.pyramid_channels=32", "model.head_channels=16", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def of_two_stages(checkpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    cfg = two_stages()
    told = torch.load(checkpoint, weights_only=True)["boxwright"] | {"config": plain(cfg)}
    path = tmp_path_factory.mktemp("two") / "best.ckpt"
    torch.save({"state_dict": built(cfg).state_dict(), "boxwright": told}, path)
    return str(path)


def test_weights_that_differ_in_more_than_classes_are_not_skipped_as_heads(of_two_stages):
    other = built(two_stages("data.num_classes=3", "model.anchor_ratios=[1.0]"))
    with pytest.raises(ConfigError, match=r"such as network\.rpn\.logits\.weight"):
        start_from(other, of_two_stages, ["a", "b", "c"])
