"""How long a trained network takes for one image."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from datamodules.batch import Batch
from lit_modules.startup import device_name
from lit_modules.steps import TrainingModule

_WARM_UP = 3
"""Passes before the first that counts; one for each further canvas, of which cuDNN takes the first slowly."""


def ms_per_image(
    module: TrainingModule, trainer: pl.Trainer, datamodule: Any, most: int = 32, seconds: float = 3.0
) -> dict[str, Any]:
    """The median over validation images, one at a time, of `module.entries`, and how it was taken.

    That is network, decoder and what validation keeps of it on the host, at the size and in the precision of
    validation; reading, resizing and the way to the device are left out. The images are `most` evenly spaced ones,
    or as many as it takes until `seconds` are over, three at least.
    """
    device = trainer.strategy.root_device
    module.to(device).eval()
    times: list[float] = []
    canvases: set[torch.Size] = set()
    begin = time.perf_counter()
    precision: Any = trainer.precision_plugin
    with torch.inference_mode(), precision.forward_context():
        for batch in val_batches(datamodule, most):
            batch = batch._replace(images=batch.images.to(device), sizes=batch.sizes.to(device))
            for _ in range(0 if batch.images.shape in canvases else 1 if canvases else _WARM_UP):
                module.entries(batch._replace())  # a copy: outputs of the same batch would be kept
            canvases.add(batch.images.shape)
            start = time.perf_counter()
            module.entries(batch._replace())  # on the host when it returns, so that nothing is left to wait for
            times.append(time.perf_counter() - start)
            if len(times) >= 3 and time.perf_counter() - begin > seconds:
                break
    if not times:
        raise ValueError("no validation image could be read")
    return {
        "ms_per_image": 1000 * statistics.median(times),
        "images": len(times),
        "batch": 1,
        "device": device_name(trainer),
        "precision": str(trainer.precision),
    }


def val_batches(datamodule: Any, most: int, single: bool = True) -> Iterator[Batch]:
    """Validation images as validation reads them, evenly spaced over what this rank has of the split: one at a time, or
    in batches of the largest size that it has."""
    loader: Any = datamodule.val_dataloader()
    dealt: list[list[Any]] = list(loader.batch_sampler)
    longest = max(map(len, dealt))
    groups = [[key] for batch in dealt for key in batch] if single else [b for b in dealt if len(b) == longest]
    for place in np.unique(np.linspace(0, len(groups) - 1, min(most, len(groups))).round().astype(int)).tolist():
        batch: Batch = loader.collate_fn([loader.dataset[key] for key in groups[place]])
        if batch.infos:  # else it could not be read
            yield batch
