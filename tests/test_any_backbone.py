"""Every backbone of conf/model/backbone trains under every model of conf/model, is stored and read again."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import BACKBONES, MODELS, built, composed, random_batch
from hydra.utils import instantiate
from running import TINY, Runner, assert_equal_bits, curves, last_checkpoint, only_run, state
from tiers import slow_but
from torch import Tensor

from boxwright import load_detector
from boxwright.checkpoints.reading import load_module, read_checkpoint
from boxwright.config.files import flat, plain
from lit_modules.seeds import step_seed
from lit_modules.training_module import TrainingModule

DEFORMABLE = ["model/backbone=resnet18", "model.backbone.deformable_stages=[3,4,5]"]
CONVNEXT = ["model/backbone=timm", "model.backbone.name=test_convnext", "model.backbone.norm=bn"]
CASES: dict[str, list[str]] = {
    **{name: [f"model/backbone={name}"] for name in BACKBONES},
    "deformable": [*DEFORMABLE, "model.deformable_towers=true"],
    "timm test_convnext": CONVNEXT,
    "timm test_vit": [*CONVNEXT, "model.backbone.name=test_vit"],
    "timm efficientnet_b0": [*CONVNEXT, "model.backbone.name=efficientnet_b0"],
}
"""Each with the pyramid that a model has by default."""
ONE_MAP = ["model.pyramid_channels=null", "model.anchor_sizes=[32.0]"]
OTHER_MAPS: dict[str, list[str]] = {
    "mobilenet_v3_large": ["model/backbone=mobilenet_v3_large", *ONE_MAP],
    "dilated": ["model/backbone=resnet18", "model.backbone.dilated_c5=true", *ONE_MAP],
    "dilated deformable": [*DEFORMABLE, "model.backbone.dilated_c5=true", *ONE_MAP],
    "resnext": ["model/backbone=resnext50", *ONE_MAP],
    "two of stride 32": [
        "model/backbone=mobilenet_v3_large", "model.pyramid_strides=[32,32]", "model.anchor_sizes=[32.0,32.0,32.0]",
    ],
    "no P5": ["model/backbone=resnet18", "model.pyramid_strides=[8,16]", "model.anchor_sizes=[16.0,32.0,64.0]"],
}  # fmt: skip
CLASSES = {"rpn": 1}
SMALL = {
    "model.pyramid_channels": 32, "model.num_convs": 1, "model.head_channels": 16,
    "model.region_sampler.num_samples": 8, "model.train_proposer.max_proposals": 8,
}  # fmt: skip


def needs_timm(case: str) -> None:
    if case.startswith("timm") and find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install -e '.[timm]'")


def config(model: str, *overrides: str) -> Any:
    """All of the backbone trains, with norms that work on single images."""
    given = [
        f"model={model}", "data=shapes", f"data.num_classes={CLASSES.get(model, 5)}", "model.backbone.weights=null",
        "model.backbone.frozen_stages=0", "optimizer=adamw", "schedule=constant",
    ]  # fmt: skip
    if not any("timm" in override for override in overrides):
        given += ["model.backbone.norm=gn"]
    has = flat(composed(*given, next(o for o in overrides if "/backbone" in o)))
    given += [f"{key}={value}" for key, value in SMALL.items() if key in has]
    return composed(*given, *(o for o in overrides if o.partition("=")[0] in has or "/" in o))


def losses_of(module: TrainingModule, model: str) -> dict[str, Tensor]:
    batch = random_batch(1, CLASSES.get(model, 5))
    if model == "classifier":
        batch = batch._replace(labels=batch.labels[:, :1])
    torch.manual_seed(step_seed(0, 0, 0, 0))
    return module.losses(module.forward_batch(batch), batch)


def assert_trains(module: TrainingModule, model: str) -> None:
    """One step: every loss and every gradient is finite, and no trained parameter is without one."""
    losses = losses_of(module.train(), model)
    assert all(loss.isfinite() for loss in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    trained = {n: p for n, p in module.network.named_parameters() if p.requires_grad}
    assert trained
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(
    "case", slow_but("mobilenet_v3_large", "deformable", "timm test_vit", of={c: c for c in CASES})
)
def test_every_model_trains_over_it(case: str) -> None:
    """The backbone is made once, since random numbers for the largest take a second."""
    needs_timm(case)
    backbone = instantiate(config("fcos", *CASES[case]).model.backbone)
    for model in MODELS:
        settings = plain(config(model, *CASES[case]).model)
        del settings["backbone"]
        backbone.requires_grad_(True)
        backbone.zero_grad()
        assert_trains(instantiate(settings | {"_partial_": True})(backbone=backbone), model)


@pytest.mark.parametrize("model", ["faster_rcnn", "rpn"])
@pytest.mark.parametrize("case", slow_but("dilated", "two of stride 32", "no P5", of={c: c for c in OTHER_MAPS}))
def test_proposals_and_regions_train_over_other_maps(case: str, model: str) -> None:
    assert_trains(built(config(model, *OTHER_MAPS[case])), model)


def test_a_model_of_one_piece_says_what_it_cannot() -> None:
    needs_timm("timm")
    with pytest.raises(Exception, match=r"no layers of a timm model are a head .*model\.pyramid_channels=256"):
        built(config("faster_rcnn", *CASES["timm test_convnext"], *ONE_MAP), device="meta")


@pytest.mark.parametrize("case", ["deformable", "timm test_vit"])
def test_a_checkpoint_makes_the_same_detector_again(case: str, tmp_path: Path) -> None:
    needs_timm(case)
    cfg = config("fcos", *CASES[case], "model.prior=0.3", "data.resize=96", "trainer.precision=32-true")
    module = built(cfg)
    for name, parameter in module.network.named_parameters():
        if ".offset." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    names = ["a", "b", "c", "d", "e"]
    told = {"class_names": names, "category_ids": [1, 2, 3, 4, 5], "thresholds": {}, "metrics": {}, "versions": {}}
    told["config"] = plain(cfg)
    torch.save({"state_dict": module.state_dict(), "boxwright": told}, tmp_path / "best.ckpt")
    again = load_module(read_checkpoint(tmp_path / "best.ckpt"))
    assert_equal_bits(dict(again.state_dict()), dict(module.state_dict()))
    found = load_detector(tmp_path / "best.ckpt")(
        torch.randint(256, (3, 70, 90), dtype=torch.uint8).numpy().transpose(1, 2, 0)
    )
    assert len(found.boxes) > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", ["timm test_convnext", "deformable"])
def test_a_killed_run_resumes_bit_for_bit_and_detects(case: str, train: Runner, tmp_path: Path) -> None:
    needs_timm(case)
    own = ("model/backbone", "model.backbone.norm" if case.startswith("timm") else "-", "trainer.precision")
    kept = [override for override in TINY if not override.startswith(own)]
    overrides = [
        *kept,
        *CASES[case],
        "trainer.precision=bf16-mixed",
        f"data.root={tmp_path / 'shapes'}",
        "trainer.max_steps=6",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(overrides, whole)
    train(overrides, cut, kill={"at": "batch_end", "batch": 3})
    train(["resume=last", "name=t"], cut)
    whole, cut = only_run(whole), only_run(cut)
    assert curves(cut) == curves(whole)
    assert_equal_bits(state(cut), state(whole))
    load_detector(last_checkpoint(cut))(
        next((tmp_path / "shapes").rglob("*.png"), None) or next((tmp_path / "shapes").rglob("*.jpg"))
    )
