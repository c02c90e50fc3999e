"""What is frozen stays to the bit, trains from its step on, and a resumed run does not show that it was interrupted."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from composing import built, composed
from running import assert_equal_bits
from tiny_run import EPOCH, Data, Module
from torch import Tensor, nn

from boxwright.build import frozen_by, refuse_parts
from boxwright.config.errors import ConfigError
from datamodules.batch import Batch
from evaluation.errors import UserError
from lit_modules.callbacks.averaging import Averaging
from lit_modules.callbacks.checkpoints import Checkpoints, saved
from lit_modules.callbacks.compiled import Compiled
from lit_modules.callbacks.freezing import Freezing
from lit_modules.optimizers import adamw, sgd
from lit_modules.schedules import constant

SGD = partial(sgd, momentum=0.9, weight_decay=0.1)
ADAMW = partial(adamw, weight_decay=0.1, bias_decay_factor=1.0)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.2))
        self.head = nn.ModuleDict({"tower": nn.Conv2d(4, 4, 1), "logits": nn.Conv2d(4, 1, 1)})

    def forward(self, images: Tensor) -> Tensor:
        x = self.head["tower"](self.backbone(images.float() / 255).relu())
        return self.head["logits"](x.relu()).mean((2, 3))


class Trained(Module):
    """Notes for each step what has a gradient, and what is in training mode."""

    def __init__(self, make_optimizer: Any = SGD) -> None:
        super().__init__(partial(constant, warmup=None))
        torch.manual_seed(0)
        self.network, self.make_optimizer = Network(), make_optimizer
        self.seen: list[tuple[bool, bool, bool]] = []

    def forward_batch(self, batch: Batch) -> Tensor:
        if self.training:
            norm, dropout = self.network.backbone[1:]
            self.modes = norm.training, dropout.training
        return self.network(batch.images)

    def on_after_backward(self) -> None:
        has_gradient = any(p.grad is not None for p in self.network.backbone.parameters())
        assert has_gradient == all(p.grad is not None for p in self.network.backbone.parameters())
        self.seen.append((has_gradient, *self.modes))


class SameBatches(Data):
    """The same batch at each step: where a plain loader continues after an interruption does not matter."""

    def _batch(self, row: int) -> Batch:
        return super()._batch(0)


class Ends(pl.Callback):
    """Ends a run of six steps before, as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def fit(
    folder: Path,
    freezing: Freezing | None,
    *callbacks: pl.Callback,
    module: Trained | None = None,
    resume: bool = False,
    **limits: Any,
) -> Trained:
    """Trains for six steps, or on from the newest checkpoint in the folder; four steps are an epoch."""
    folder.mkdir(exist_ok=True)
    module = module or Trained()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, default_root_dir=str(folder), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=EPOCH, check_val_every_n_epoch=None,
        callbacks=[Checkpoints(every_steps=1, keep=-1), *([freezing] if freezing else []), *callbacks],
        **{"max_epochs": -1, "max_steps": 6, **limits},
    )  # fmt: skip
    last = str(saved(folder / "checkpoints")[-1][1]) if resume else None
    trainer.fit(module, SameBatches(), ckpt_path=last, weights_only=True)
    return module


def state(folder: Path, step: int) -> dict[str, Any]:
    contents = torch.load(folder / f"checkpoints/step_{step:07d}.ckpt", weights_only=True)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state", "averaging_state")
    return {key: contents[key] for key in parts if key in contents}


def of_backbone(folder: Path, step: int) -> dict[str, Tensor]:
    return {n: t for n, t in state(folder, step)["state_dict"].items() if n.startswith("network.backbone.")}


@pytest.mark.parametrize("make_optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_frozen_part_stays_to_the_bit_and_then_trains(make_optimizer, tmp_path, caplog):
    """Weights, statistics of norms, and momentum, of which it has none; also behind the validation at step 4."""
    new = Trained(make_optimizer).state_dict()
    with caplog.at_level(logging.INFO):
        module = fit(tmp_path, Freezing(["backbone"], until_step=5), module=Trained(make_optimizer))
    assert module.seen == [(False, False, False)] * 5 + [(True, True, True)]
    assert_equal_bits(of_backbone(tmp_path, 5), {n: t for n, t in new.items() if n.startswith("network.backbone.")})
    before, after = state(tmp_path, 5), state(tmp_path, 6)
    assert not torch.equal(before["state_dict"]["network.head.tower.weight"], new["network.head.tower.weight"])
    for name, tensor in of_backbone(tmp_path, 6).items():
        assert not torch.equal(tensor, before["state_dict"][name]), name
    moments = [len(one["optimizer_states"][0]["state"]) for one in (before, after)]
    assert moments == [4, 8]  # weight and bias of two layers, of four
    assert "frozen until step 5: backbone" in caplog.text
    assert "step 5: backbone trains from here on (frozen until step 5)" in caplog.text


def test_what_is_frozen_throughout_is_as_if_it_had_never_trained(tmp_path):
    class Never(Trained):
        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            self.network.backbone.eval()

    never = Never()
    never.network.backbone.requires_grad_(False)
    fit(tmp_path / "never", None, module=never)
    module = fit(tmp_path / "frozen", Freezing(["backbone"]))
    ours, theirs = (state(tmp_path / name, 6) for name in ("frozen", "never"))
    assert_equal_bits(ours["state_dict"], theirs["state_dict"])
    assert all(p.requires_grad for p in module.network.parameters())  # as it was before the run


UNTIL = {"step": {"until_step": 4}, "fraction": {"until_step": 0.5}, "epoch": {"until_epoch": 1}}


@pytest.mark.parametrize("until", UNTIL)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(until, tmp_path):
    """Cut before, at and behind the step from which the parts train; with an average of the weights."""
    first = 3 if until == "fraction" else 4
    freezing = partial(Freezing, ["backbone", "head.tower"], **UNTIL[until])
    seen = fit(tmp_path / "whole", freezing(), Averaging(0.9)).seen
    assert [one[0] for one in seen] == [step >= first for step in range(6)]
    for cut in (first - 1, first, first + 1):
        fit(tmp_path / f"{cut}", freezing(), Averaging(0.9), Ends(cut))
        after = fit(tmp_path / f"{cut}", freezing(), Averaging(0.9), resume=True).seen
        assert [one[0] for one in after] == [step >= first for step in range(cut, 6)]
        assert_equal_bits(state(tmp_path / f"{cut}", 6), state(tmp_path / "whole", 6))


def test_accumulated_batches_of_a_step_are_frozen_together(tmp_path):
    module = fit(tmp_path, Freezing(["backbone"], until_step=2), max_steps=3, accumulate_grad_batches=2)
    assert [one[0] for one in module.seen] == [False] * 4 + [True] * 2


def test_a_compiled_run_takes_the_same_steps(tmp_path):
    """The graph is traced as usual, but run by torch's own operators, so that no compiler adds rounding."""
    for name, callbacks in (("plain", ()), ("compiled", (Compiled("eager"),))):
        module = fit(tmp_path / name, Freezing(["backbone"], until_step=3), *callbacks)
        assert [one[0] for one in module.seen] == [False] * 3 + [True] * 3
    assert_equal_bits(state(tmp_path / "compiled", 6), state(tmp_path / "plain", 6))
    torch.compiler.reset()


def test_a_resumed_run_may_freeze_otherwise(tmp_path):
    """The optimizer has every parameter, whatever is frozen."""
    fit(tmp_path, Freezing(["backbone"]), max_steps=3)
    assert [one[0] for one in fit(tmp_path, None, resume=True).seen] == [True] * 3
    assert [one[0] for one in fit(tmp_path, Freezing(["backbone"]), resume=True, max_steps=7).seen] == [False]
    assert_equal_bits(of_backbone(tmp_path, 7), of_backbone(tmp_path, 6))


def test_an_end_behind_the_runs_is_said(tmp_path, caplog):
    fit(tmp_path, Freezing(["backbone"], until_step=6))
    assert "callbacks.freezing.until_step=6 is not before the run's end at step 6" in caplog.text


def fitted(network: nn.Module, *parts: str, **until: Any) -> None:
    """What the callback does at the start of a run, with a network alone."""
    module: Any = pl.LightningModule()
    module.network = network
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    Freezing(parts, **until).setup(trainer, module, "fit")


PARTS = {
    "fcos": "backbone, pyramid, head, head.class_tower, head.box_tower, head.logits, head.distances, head.centerness, "
    "head.scales",
    "faster_rcnn": "backbone, pyramid, rpn, rpn.conv, rpn.logits, rpn.deltas, head, logits, deltas",
}


@pytest.mark.parametrize("model", PARTS)
def test_a_part_that_does_not_exist_is_answered_with_those_that_do(model):
    network = built(composed(f"model={model}", "data=shapes"), device="meta").network
    for name in PARTS[model].split(", "):
        fitted(network.requires_grad_(True), name)
    with pytest.raises(UserError, match=rf"no part 'bakbone'; nearest is backbone; there are {PARTS[model]}, and the"):
        fitted(network, "bakbone")
    with pytest.raises(UserError, match=r"no part 'backbone\.relu'"):  # which has no parameters
        fitted(network, "backbone.relu")


def test_stages_that_the_backbone_freezes_itself_stay_frozen_and_a_part_without_more_is_named(caplog):
    network = built(composed("model=fcos", "data=shapes", "model.backbone.frozen_stages=2"), device="meta").network
    own = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert any(name.startswith("backbone.layer1") for name in own)
    callback = Freezing(["backbone", "backbone.layer1"])
    module: Any = pl.LightningModule()
    module.network = network
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    callback.setup(trainer, module, "fit")
    assert not any(p.requires_grad for p in network.get_submodule("backbone").parameters())
    assert "callbacks.freezing.parts: backbone.layer1 would not train anyway" in caplog.text
    callback.teardown(trainer, module, "fit")
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == own


def test_nothing_left_to_train_is_refused():
    with pytest.raises(
        UserError, match=r"parts=\['backbone', 'head'\] leaves nothing to train; there are backbone, head"
    ):
        fitted(Network(), "backbone", "head")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"until_step": 0}, "until_step=0: expected a whole number of steps, a fraction"),
        ({"until_step": 1.5}, "until_step=1.5: expected"),
        ({"until_epoch": 0}, "until_epoch=0: expected 1 or more"),
        ({"until_step": 5, "until_epoch": 1}, "give one of them"),
        ({"parts": [], "until_step": 5}, r"until_step=5, but callbacks\.freezing\.parts is empty"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=rf"callbacks\.freezing\.{said}|{said}"):
        Freezing(**{"parts": ["backbone"], **settings})


def test_a_run_is_refused_for_a_part_or_for_rates_by_layer_before_it_starts():
    cfg = composed("model=fcos", "data=shapes", "callbacks.freezing.parts=[pyramids]")
    module = built(cfg, device="meta")
    with pytest.raises(ConfigError, match="no part 'pyramids'; nearest is pyramid"):
        refuse_parts(module, cfg)
    cfg = composed("model=fcos", "data=shapes", "optimizer.backbone_layer_decay=0.7")
    with pytest.raises(ConfigError, match="ResNet does not tell"):
        refuse_parts(module, cfg)
    refuse_parts(module, composed("model=fcos", "data=shapes", "callbacks.freezing.parts=[backbone.layer4]"))


FROZEN: list[tuple[list[str], list[str]]] = [
    (["model.backbone.frozen_stages=2"], ["frozen_stages=2", "norm=frozen_bn"]),
    (["model.backbone.frozen_stages=0", "model.backbone.norm=gn"], []),
    (
        ["model.backbone.frozen_stages=0", "model.backbone.norm=gn", "callbacks.freezing.parts=[backbone.layer1]"],
        ["callbacks.freezing.parts=['backbone.layer1']"],
    ),
]


@pytest.mark.parametrize(("overrides", "expected"), FROZEN)
def test_settings_that_freeze_random_weights_are_named(overrides, expected):
    cfg = composed("model=fcos", "data=shapes", *overrides)
    assert list(frozen_by(built(cfg, device="meta"), cfg)) == expected


def test_a_backbone_without_batch_norms_has_none_that_are_frozen():
    pytest.importorskip("timm")
    cfg = composed("model=fcos", "data=shapes", "model/backbone=timm", "model.backbone.name=test_convnext")
    assert cfg.model.backbone.norm == "frozen_bn"
    assert frozen_by(built(cfg, device="meta"), cfg) == {}
    cfg = composed("model=fcos", "data=shapes", "model/backbone=timm", "model.backbone.name=efficientnet_b0")
    assert list(frozen_by(built(cfg, device="meta"), cfg)) == ["norm=frozen_bn"]
