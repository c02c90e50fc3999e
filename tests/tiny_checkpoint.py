"""A checkpoint to predict with: a small FCOS with random weights that gives a hundred boxes for any image."""

from pathlib import Path

import torch
from composing import built, composed

from boxwright.config.files import plain

CLASSES = ("disc", "square", "triangle", "star", "cross")
CATEGORY_IDS = (3, 1, 7, 90, 12)


def write_checkpoint(path: Path, *overrides: str, thresholds: dict[str, float] | None = None) -> Path:
    cfg = composed(
        "model=fcos", "model/backbone=mobilenet_v2", "data=shapes", "model.backbone.norm=gn",
        "model.backbone.frozen_stages=0", "model.pyramid_channels=32", "model.num_convs=1", "model.prior=0.3",
        "data.resize=96", "data.eval_batch_size=2", "trainer.precision=32-true", *overrides,
    )  # fmt: skip
    module = built(cfg)
    told = {"class_names": list(CLASSES), "category_ids": list(CATEGORY_IDS), "thresholds": thresholds or {}}
    contents = {"config": plain(cfg), "metrics": {}, "versions": {}, **told}
    torch.save({"state_dict": module.state_dict(), "boxwright": contents}, path)
    return path
