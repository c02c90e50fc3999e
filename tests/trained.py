"""Trains a small detector in a process that is a rank already: all steps, and those from the middle of an epoch on."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from tiny_data import coco, write_coco, write_json  # pyright: ignore[reportMissingImports]

from detectors.backbones.mobilenet import MobileNetV2
from detectors.rpn import AnchorSampler, RPNDecoder
from lit_modules.callbacks.freezing import Freezing
from lit_modules.optimizers import sgd
from lit_modules.retinanet import RetinaNetModule
from lit_modules.rpn import RPNModule
from lit_modules.schedules import constant
from lit_modules.training_module import TrainingModule

KINDS = ("retinanet", "rpn")
STEPS = 20
CUT = 8
"""The step at which the state is saved: the second of six of its epoch."""
FROZEN_UNTIL = 11
"""The step from which on the proposal network's backbone trains, behind CUT."""


def write_objects(root: Path) -> None:
    """24 pictures of noise, half of them wide, one without an object, the others with up to three of one class."""
    three: list[Any] = [[8, 8, 24, 24], [30, 4, 20, 30], [24, 32, 33, 25]]
    boxes = [three[: row % 4] if row % 8 else [three[1]] for row in range(23)]
    write_coco(root, [(64, 96 if row % 2 else 64) for row in range(24)], [*boxes, []])
    content = json.loads((root / "annotations/instances_train.json").read_text())
    write_json(root, content | {"categories": content["categories"][:1]})


def _made(kind: str) -> TrainingModule:
    torch.manual_seed(0)
    parts: Any = (
        MobileNetV2(weights=None, norm="gn", frozen_stages=0), 1, partial(sgd), partial(constant, warmup_steps=3)
    )  # fmt: skip
    small: Any = {"lr": 1e-3, "pyramid_channels": 16, "anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0)}
    if kind == "retinanet":
        return RetinaNetModule(*parts, **small, num_convs=1)
    sampler, decoder = AnchorSampler(num_samples=32), RPNDecoder(candidates_per_level=50, max_proposals=20)
    return RPNModule(*parts, **small, anchor_sampler=sampler, decoder=decoder)


class _Trace(pl.Callback):
    """The losses of each step, their mean over ranks; saves the state at step `CUT`, if told where."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.losses = file, list[dict[str, float]]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        values = torch.stack(list(outputs["losses"].values()))
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        self.losses.append(dict(zip(outputs["losses"], values.tolist(), strict=True)))
        if self.file is not None and trainer.global_step == CUT:
            assert 0 < batch_idx + 1 < trainer.num_training_batches, "this is no middle of an epoch"
            trainer.save_checkpoint(self.file)


def _fitted(kind: str, ranks: int, root: Path, save: Path | None, resume: Path | None) -> dict[str, Any]:
    module, trace = _made(kind), _Trace(save)
    freezing = Freezing(["backbone"], until_step=FROZEN_UNTIL) if kind == "rpn" else Freezing()
    data = coco(root, num_classes=1, resize=64, batch_size=4, flip=0.5, cache_dir=str(root.parent / "cache"))
    trainer = pl.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False, max_steps=STEPS,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, callbacks=[trace, freezing],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    weights = hashlib.sha256()
    for tensor in module.state_dict().values():
        weights.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return {"losses": trace.losses, "weights": weights.hexdigest()}


def trained(kind: str, ranks: int, root: Path) -> dict[str, Any]:
    """Losses by step and a digest of the last weights, of a whole run and of one that continues after step `CUT`."""
    file = root / f"{kind}_{ranks}.ckpt"
    whole = _fitted(kind, ranks, root, save=file, resume=None)
    return {"whole": whole, "resumed": _fitted(kind, ranks, root, save=None, resume=file)}
