"""Tests on a GPU: the losses equal those on the CPU, runs train, and steps of one-stage detectors never wait for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from composing import MODELS, built, composed, random_batch
from running import REPORTED

from datamodules.batch import Batch
from lit_modules.detection_module import DetectionModule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DETECTORS = [name for name in MODELS if name != "classifier"]
ONE_STAGE = ["fcos", "retinanet"]
ALL_SAMPLES = {
    "rpn": {"anchor_sampler.num_samples": 5000, "anchor_sampler.positive_fraction": 1.0},
    "faster_rcnn": {
        "anchor_sampler.num_samples": 5000, "anchor_sampler.positive_fraction": 1.0, "proposer.nms_threshold": 1.0,
        "train_proposer.max_proposals": 2000, "region_sampler.num_samples": 5000,
        "region_sampler.positive_fraction": 1.0,
    },
}  # fmt: skip
"""Samples everything, since random numbers differ between devices."""


def small_module(model: str) -> DetectionModule:
    knobs = (f"model.{key}={value}" for key, value in ALL_SAMPLES.get(model, {}).items())
    cfg = composed(f"model={model}", "model/backbone=resnet18", "data=shapes", "data.num_classes=1", *knobs)
    return built(cfg)


def on_cuda(batch: Batch) -> Batch:
    return batch.to(torch.device("cuda"))


@pytest.mark.parametrize("model", DETECTORS)
def test_losses_and_gradients_are_those_of_the_cpu(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares in float32 without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    module, batch = small_module(model), random_batch(2, 1)
    seen: list[dict[str, float]] = []
    gradients: list[torch.Tensor] = []
    for device in ("cpu", "cuda"):
        module.to(device).zero_grad()
        moved = batch if device == "cpu" else on_cuda(batch)
        losses = module.losses(module.forward_batch(moved), moved)
        torch.stack(list(losses.values())).sum().backward()
        seen.append({name: value.item() for name, value in losses.items()})
        trained = (p.grad for p in module.network.parameters() if p.grad is not None)
        gradients.append(torch.cat([gradient.flatten().cpu() for gradient in trained]))
    assert seen[1] == pytest.approx(seen[0], rel=1e-3)
    assert (gradients[1] - gradients[0]).norm() < 0.01 * gradients[0].norm()


@pytest.mark.parametrize("model", ONE_STAGE)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_training_step_of_a_one_stage_detector_never_waits(model: str, layout: torch.memory_format) -> None:
    module = small_module(model).cuda()
    module.network.to(memory_format=layout)
    optimizer = module.make_optimizer(module.network, 1e-4)
    batch = on_cuda(random_batch(2, 1, size=128))

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            total = torch.stack(list(module.losses(module.forward_batch(batch), batch).values())).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


WATCHED = """
import runpy, sys
import pytorch_lightning as pl, torch
from boxwright import build

class Watch(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if index >= 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_):
        torch.cuda.set_sync_debug_mode("default")

make_trainer = build.make_run_trainer

def make_watched_trainer(cfg, run):
    trainer = make_trainer(cfg, run)
    trainer.callbacks.insert(0, Watch())  # before callbacks that read values
    return trainer

build.make_run_trainer = make_watched_trainer
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("model", [*ONE_STAGE, "faster_rcnn"])
def test_a_run_trains_and_no_step_of_one_stage_waits(model: str, tmp_path: Path) -> None:
    elsewhere = ("trainer.accelerator", "trainer.precision", "model.num_convs", "data.num_workers")
    overrides = [override for override in REPORTED if not override.startswith(elsewhere)]
    overrides += [
        f"model={model}",
        "data.num_workers=1",
        "trainer.gradient_clip_val=5",
        "callbacks.averaging.decay=0.9",
    ]
    train = str(Path(__file__).parents[1] / "train.py")
    command = ["-c", WATCHED, train] if model in ONE_STAGE else [train]
    ran = subprocess.run([sys.executable, *command, *overrides], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "bf16-mixed" in ran.stdout
