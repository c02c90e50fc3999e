"""Whole runs of a classifier, and of a detector that starts from its backbone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from composing import MODELS, composed
from hydra.utils import instantiate
from running import MOMENTS, TINY, Runner, assert_equal_bits, curves, only_run, state

from boxwright.checkpoints.detector import load_detector

ROOT = Path(__file__).parents[1]
CLASSES = ("blue", "green", "red")

CLASSIFIER = [
    "model=classifier", "model/backbone=mobilenet_v2", "data=imagefolder", "logger=csv", "scale_schedule=false",
    "test=false", "name=c", "data.num_classes=3", "data.resize=64", "data.batch_size=4", "data.eval_batch_size=2",
    "data.num_workers=0", "model.lr=0.01", "schedule.warmup_steps=3", "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_steps=10", "trainer.val_check_interval=4",
    "callbacks.checkpoints.every_steps=2",
]  # fmt: skip
FULL = [
    *CLASSIFIER, "callbacks.averaging.decay=0.9", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=5",
]  # fmt: skip


def write_folder(root: Path, train: int = 8, val: int = 3) -> Path:
    """Writes images of noise in the colour of their class."""
    random = np.random.default_rng(0)
    for split, number in (("train", train), ("val", val)):
        for channel, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                image = random.integers(0, 160, (*random.integers(50, 90, 2), 3)).astype(np.uint8)
                image[..., channel] += 90
                cv2.imwrite(str(root / split / name / f"{i}.jpg"), image)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={write_folder(tmp_path_factory.mktemp('data') / 'colours')}"


@pytest.fixture(scope="module")
def whole(train: Runner, folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with W&B offline."""
    where = tmp_path_factory.mktemp("whole")
    printed = train([*FULL, folder, "logger=wandb"], where)
    (where / "said.txt").write_text(printed)
    return only_run(where, "c")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "workers"), [("during validation", 0), ("second epoch", 2)])
def test_a_killed_run_resumes_bit_for_bit(moment, workers, train, folder, whole, tmp_path):
    train([*FULL, folder, f"data.num_workers={workers}"], tmp_path, kill=MOMENTS[moment])
    train(["resume=last", "name=c"], tmp_path)
    run = only_run(tmp_path, "c")
    assert curves(run) == curves(whole)
    assert_equal_bits(state(run), state(whole))


@pytest.mark.slow
def test_two_ranks_train_as_one(train, folder, tmp_path):
    """Norms work on single images, and the rate is so low that rounding moves no activation across zero of its ReLU,
    which changes a gradient by a thousandth; at twice the rate losses differ by a thousandth.
    """
    overrides = [*CLASSIFIER, folder, "model.backbone.norm=gn", "model.lr=1.0e-5", "trainer.max_steps=8",
                 "trainer.val_check_interval=8"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    train(overrides, one)
    train([*overrides, "trainer.devices=2"], two)
    ours, theirs = (curves(only_run(f, "c")) for f in (one, two))
    assert sum("train/loss" in row for row in ours) == 8
    for a, b in zip(ours, theirs, strict=True):
        for name in ("train/loss", "val/loss", "val/top1", "val/top5"):
            if name in a:
                assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5), name


def test_a_run_reports_accuracy_and_no_boxes(whole):
    rows = curves(whole)
    validated = [row for row in rows if "val/top1" in row]
    assert [row["step"] for row in validated] == ["4", "8", "10"]
    assert {"val/loss", "val/loss_cls", "val/top5"} <= validated[0].keys()
    assert not [name for row in rows for name in row if "AP" in name]
    finished = json.loads((whole / "finished.json").read_text())
    assert finished["val"].keys() == {"top1", "top5"}
    assert finished["val"]["top1"] == max(float(row["val/top1"]) for row in validated)
    assert finished["score"] == pytest.approx(finished["val"]["top1"])
    assert finished["val"]["top5"] == 1.0  # of three classes

    said = (whole.parents[2] / "said.txt").read_text()
    assert "monitor: val/top1" in (whole / "config.yaml").read_text()
    assert "best: val/top1" in said
    assert "could not be" not in said
    assert "Got processor" not in said
    assert not (whole / "pictures").exists()
    page = (whole / "report.html").read_text()
    assert "best val/top1" in page
    assert "Accuracy of the validation" in page
    assert "There was no validation yet" not in page
    for absent in ("Average precision", "Confusion", "predict.py"):
        assert absent not in page
    assert "model.backbone.weights=" in page


@pytest.mark.slow
def test_a_checkpoint_is_plain_and_evaluates_to_the_numbers_of_its_run(whole, tmp_path):
    best = whole / "checkpoints" / "best.ckpt"
    contents = torch.load(best, weights_only=True)
    assert contents["boxwright"]["class_names"] == list(CLASSES)
    assert contents["boxwright"]["metrics"].keys() == {"top1", "top5"}
    command = [sys.executable, str(ROOT / "evaluate.py"), f"checkpoint={best}", f"output={tmp_path / 'scored'}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    scored = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert scored["scalars"] == json.loads((whole / "finished.json").read_text())["val"]
    assert scored["per_class"].keys() == set(CLASSES)
    assert "top1" in ended.stdout
    assert (tmp_path / "scored" / "report.html").exists()


def test_prediction_refuses_a_classifier(whole):
    with pytest.raises(ValueError, match=r"holds a ClassifierModule, which finds no boxes.*model\.backbone\.weights="):
        load_detector(whole / "checkpoints" / "best.ckpt")


@pytest.mark.slow
def test_unreadable_images_are_skipped_and_listed(train, folder, tmp_path):
    root = shutil.copytree(folder.removeprefix("data.root="), tmp_path / "colours")
    (root / "train" / "green" / "2.jpg").write_bytes(b"")
    overrides = [*CLASSIFIER, f"data.root={root}", "trainer.precision=bf16-mixed"]
    assert "green/2.jpg is empty" in train([*overrides, "name=raises"], tmp_path, expect=1)
    (root / "val" / "red" / "1.jpg").write_bytes(b"not a picture")
    train([*overrides, "data.on_error=skip"], tmp_path)
    skipped = json.loads((only_run(tmp_path, "c") / "skipped.json").read_text())
    assert [len(skipped[split]) for split in ("train", "val")] == [1, 1]
    assert "green/2.jpg is empty" in skipped["train"]["10"]
    finished = json.loads((only_run(tmp_path, "c") / "finished.json").read_text())
    assert (finished["val"]["top1"] * 8).is_integer()  # one of nine images is skipped


# A detector that starts from the classifier


def backbone_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    prefix = "network.backbone."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def pretrained(whole: Path) -> Path:
    return whole / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
@pytest.mark.parametrize("model", [model for model in MODELS if model != "classifier"])
def test_the_classifiers_backbone_is_loaded_into_a_detector_unchanged(model, norm, pretrained, caplog):
    cfg = composed(
        f"model={model}", "model/backbone=mobilenet_v2", f"model.backbone.norm={norm}", "data=shapes",
        f"model.backbone.weights={pretrained}", "data.num_classes=1",
    )  # fmt: skip
    with caplog.at_level("INFO", "detectors.weights"):
        module = instantiate(cfg.model)
    found, wanted = module.network.backbone.state_dict(), backbone_of(pretrained)
    assert wanted.keys() - found.keys() <= {name for name in wanted if name.endswith("num_batches_tracked")}
    assert found.keys() <= wanted.keys()
    assert {"pixel_mean", "pixel_std", "features.0.1.running_var"} <= found.keys()
    for name, value in found.items():
        assert torch.equal(value, wanted[name]), name
    assert not torch.equal(wanted["features.0.1.running_var"], torch.ones(32))  # it has been trained
    (line,) = caplog.messages
    assert "skipped: network.linear.weight, network.linear.bias" in line


def test_the_average_of_an_averaged_run_is_loaded(pretrained):
    contents = torch.load(pretrained, weights_only=True)
    raw = contents["current_model_state"]["network.backbone.features.0.0.weight"]
    assert not torch.equal(backbone_of(pretrained)["features.0.0.weight"], raw)


def detector_run(train: Runner, shapes: str, folder: Path, weights: Path, *overrides: str) -> Path:
    settings = [o for o in TINY if not o.startswith("model.backbone.")]
    train([*settings, shapes, f"model.backbone.weights={weights}", "trainer.max_steps=4", *overrides], folder)
    return only_run(folder)


def test_frozen_stages_and_their_statistics_stay_as_they_were_pretrained(train, shapes, pretrained, tmp_path):
    run = detector_run(train, shapes, tmp_path, pretrained, "model.backbone.norm=bn", "model.backbone.frozen_stages=3")
    before, after = backbone_of(pretrained), backbone_of(run / "checkpoints" / "last.ckpt")
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    features = {int(name.split(".")[1]) for name in changed}
    assert features == set(range(7, 19))  # strides 16 and 32
    assert {"features.7.conv.0.0.weight", "features.7.conv.0.1.running_mean"} <= changed


def test_frozen_bn_keeps_every_statistic_while_convolutions_train(train, shapes, pretrained, tmp_path):
    run = detector_run(
        train, shapes, tmp_path, pretrained, "model.backbone.norm=frozen_bn", "model.backbone.frozen_stages=0"
    )
    before, after = backbone_of(pretrained), backbone_of(run / "checkpoints" / "last.ckpt")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    convolutions = {name for name in after if after[name].ndim == 4}
    assert changed == convolutions


def test_the_backbone_of_a_detector_can_be_loaded_too(train, shapes, pretrained, tmp_path):
    frozen = ("model.backbone.norm=frozen_bn", "model.backbone.frozen_stages=5")
    run = detector_run(train, shapes, tmp_path, pretrained, *frozen)
    cfg = composed(
        "model/backbone=mobilenet_v2", "data=shapes", f"model.backbone.weights={run / 'checkpoints/best.ckpt'}"
    )
    found: dict[str, Any] = instantiate(cfg.model).network.backbone.state_dict()
    for name, value in backbone_of(pretrained).items():
        assert name.endswith("num_batches_tracked") or torch.equal(found[name], value), name


def test_a_backbone_of_another_kind_is_refused(pretrained):
    cfg = composed("model/backbone=resnet18", "data=shapes", f"model.backbone.weights={pretrained}")
    with pytest.raises(Exception, match=r"tensors are not in the file: conv1\.weight.*Choose the backbone, depth"):
        instantiate(cfg.model)
