"""A killed run continues exactly when it is resumed; two ranks train and score as one.

`measurements/exactness.py` goes through every moment, worker count and rank count; these are a few of them.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from running import (
    FULL,
    MOMENTS,
    TINY,
    Runner,
    assert_equal_bits,
    curves,
    last_checkpoint,
    only_run,
    state,
    with_faster_rcnn,
    with_model,
)
from tiers import slow_but

from datamodules.shapes import ShapesDataModule

ALL_REGIONS = [
    "model.train_proposer.candidates_per_level=1000", "model.train_proposer.max_proposals=2000",
    "model.proposer.nms_threshold=1.0", "model.region_sampler.num_samples=2000",
    "model.region_sampler.positive_fraction=1.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(shapes: str) -> str:
    """The shapes of `TINY`, drawn already: to a run on one class of them they are another data set."""
    ShapesDataModule(root=shapes.partition("=")[2], train_images=24, val_images=6, image_size=64).prepare_data()
    return shapes


@pytest.fixture(scope="module")
def uninterrupted(train, shapes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train([*FULL, shapes], folder)
    return only_run(folder)


@pytest.mark.parametrize("moment", slow_but("between accumulated micro-batches", of=MOMENTS.keys()))
def test_a_killed_run_resumes_bit_for_bit(moment, train, shapes, uninterrupted, tmp_path):
    train([*FULL, shapes], tmp_path, kill=MOMENTS[moment])
    train(["resume=last", "name=t"], tmp_path)
    run = only_run(tmp_path)
    assert curves(run) == curves(uninterrupted)
    assert_equal_bits(state(run), state(uninterrupted))


@pytest.mark.slow
def test_workers_do_not_change_the_run_nor_its_resumption(train, shapes, uninterrupted, tmp_path):
    train([*FULL, shapes, "data.num_workers=2"], tmp_path, kill={"at": "batch_end", "batch": 9})
    train(["resume=last", "name=t"], tmp_path)
    run = only_run(tmp_path)
    assert curves(run) == curves(uninterrupted)
    assert_equal_bits(state(run), state(uninterrupted))


SIGNALS = {
    "SIGTERM": ("SIGTERM", False, 75), "SIGTERM to all": ("SIGTERM", True, 75), "Ctrl-C": ("SIGINT", True, 130),
}  # fmt: skip


@pytest.mark.parametrize(("signal", "group", "code"), slow_but("SIGTERM to all", of=SIGNALS))
def test_a_run_saves_at_once_on_sigterm_and_resumes(signal, group, code, train, shapes, uninterrupted, tmp_path):
    kill = {"at": "batch_start", "batch": 5, "sig": signal, "group": group}
    printed = train([*FULL, shapes, *(["data.num_workers=2"] if group else [])], tmp_path, kill=kill, expect=code)
    assert "continue with resume=" in printed
    assert state(only_run(tmp_path))["global_step"] == 3  # the step that was being accumulated was finished
    train(["resume=last", "name=t"], tmp_path)
    assert curves(only_run(tmp_path)) == curves(uninterrupted)
    assert_equal_bits(state(only_run(tmp_path)), state(uninterrupted))


FROZEN = ["model.backbone.norm=frozen_bn", "model.lr=5.0e-5"]
SYNCHRONISED = ["model/backbone=resnet18", "model.backbone.norm=sync_bn", "model.lr=3.0e-5", "data.image_size=128",
                "data.resize=128", "data.batch_size=8"]  # fmt: skip


RANKS = {
    "fcos": ("frozen", "fcos"), "sync_bn": ("synchronised", "fcos"), "faster_rcnn": ("frozen", "faster_rcnn"),
    "retinanet": ("frozen", "retinanet"), "rpn": ("frozen", "rpn"),
}  # fmt: skip
LOSSES = {"fcos": 4, "retinanet": 3, "rpn": 3, "faster_rcnn": 5}
"""How many a step logs, with their sum."""


@pytest.mark.parametrize(("norm", "model"), slow_but("fcos", of=RANKS))
def test_two_ranks_train_as_one(norm, model, train, shapes, shared_data, tmp_path):
    """Rates are low and statistics are over many values: where training is unstable, the rounding between two orders of
    summation grows tenfold every few steps.

    Faster R-CNN trains on all of its regions, because rounding can let one proposal replace another. Its anchors are
    sampled as usual.
    """
    weights = f"model.backbone.weights={shared_data / 'weights/mobilenet_v2_imagenet.pth'}"
    setting = [*FROZEN, weights, shapes] if norm == "frozen" else [*SYNCHRONISED, f"data.root={tmp_path / 'shapes'}"]
    tiny = [*with_model(model, TINY), *(ALL_REGIONS if model == "faster_rcnn" else [])]
    overrides = [*tiny, "trainer.max_steps=20", "trainer.val_check_interval=20", *setting]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    train(overrides, one)
    train([*overrides, "trainer.devices=2"], two)
    ours, theirs = ([row for row in curves(only_run(f)) if "train/loss" in row] for f in (one, two))
    assert len(ours) == 20
    for a, b in zip(ours, theirs, strict=True):
        names = [name for name in a if name.startswith("train/loss")]
        assert len(names) == LOSSES[model]
        for name in names:
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5)


def whole_and_resumed(train: Runner, overrides: list[str], folder: Path) -> tuple[Path, Path]:
    """Two runs of the same command: one uninterrupted, one killed after seven micro-batches and resumed."""
    whole, cut = folder / "whole", folder / "cut"
    whole.mkdir()
    cut.mkdir()
    train(overrides, whole)
    train(overrides, cut, kill={"at": "batch_end", "batch": 7})
    train(["resume=last", "name=t"], cut)
    return only_run(whole), only_run(cut)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fcos", "faster_rcnn"])  # the others: `trained` cases of ranks.py
def test_two_killed_ranks_resume_bit_for_bit(model, train, shapes, tmp_path):
    overrides = [*with_model(model, FULL), shapes, "trainer.devices=2", "data.batch_size=8", "trainer.max_steps=6"]
    whole, cut = whole_and_resumed(train, overrides, tmp_path)
    assert curves(cut) == curves(whole)
    assert_equal_bits(state(cut), state(whole))


@pytest.mark.slow
def test_a_killed_run_that_samples_proposals_resumes_bit_for_bit(train, shapes, tmp_path):
    whole, cut = whole_and_resumed(train, with_faster_rcnn([*FULL, shapes]), tmp_path)
    assert any(float(row["train/loss_roi_loc"]) > 0 for row in curves(whole) if "train/loss_roi_loc" in row)
    assert curves(cut) == curves(whole)
    assert_equal_bits(state(cut), state(whole))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["retinanet", "rpn"])
def test_a_killed_run_of_another_model_resumes_bit_for_bit(model, train, shapes, tmp_path):
    whole, cut = whole_and_resumed(train, [*with_model(model, FULL), shapes], tmp_path)
    assert sum("train/loss" in row for row in curves(whole)) == 10
    assert curves(cut) == curves(whole)
    assert_equal_bits(state(cut), state(whole))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_resumes_bit_for_bit(train, shapes, tmp_path):
    """There are two canvases; the first after the resumption differs from the first of the run."""
    full = [override for override in FULL if not override.startswith(("model/backbone", "data.batch_size"))]
    few = ["model/backbone=resnet18", "model.backbone.norm=frozen_bn", "model.head_norm=null"]  # few kernels to compile
    sizes = ["data.resize=128", "data.multi_scale=[0.25,1.0]", "data.batch_size=2"]
    overrides = [*full, shapes, *few, *sizes, "compile=true"]
    whole, cut = whole_and_resumed(train, overrides, tmp_path)
    logs = [(run / "log.txt").read_text() for run in (whole, cut)]
    kinds = [re.findall(r"compiling for batches of (.*) \(", log) for log in logs]
    assert kinds[0] == ["1 x 128 x 128", "1 x 96 x 96"]
    assert kinds[1][-2:] == ["1 x 96 x 96", "1 x 128 x 128"]
    assert curves(cut) == curves(whole)
    assert_equal_bits(state(cut), state(whole))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the gradient scaler of 16-mixed exists on CUDA only")
def test_the_gradient_scaler_resumes_where_it_was(train, shapes, tmp_path):
    overrides = [*TINY, shapes, "trainer.accelerator=gpu", "trainer.precision=16-mixed"]
    whole, cut = whole_and_resumed(train, overrides, tmp_path)
    scalers = [torch.load(last_checkpoint(run), weights_only=True)["MixedPrecision"] for run in (whole, cut)]
    assert scalers[0] == scalers[1]
