"""Times the training loader, with nothing else running."""

import time
from collections.abc import Generator, Iterable
from itertools import count
from typing import Any

from boxwright.benchmark.clock import Limit, spread
from boxwright.config.errors import ConfigError
from datamodules.base import DetectionDataModule
from datamodules.batch import Batch

KEPT = 4
"""Number of batches on which the step is measured."""


def stream(datamodule: DetectionDataModule) -> Generator[Batch]:
    """Yields training batches, epoch after epoch; its workers end with it."""
    loader: Any = datamodule.train_dataloader()
    for epoch in count():
        loader.batch_sampler.sampler.set_epoch(epoch)
        yield from loader


def first_batches(datamodule: DetectionDataModule) -> list[Batch]:
    """Returns the first training batches that could be read."""
    batches, kept = stream(datamodule), list[Batch]()
    for _ in range(KEPT):
        _keep(kept, next(batches))
    batches.close()
    return _not_empty(kept)


def measure_data(datamodule: DetectionDataModule, warmup: int, limit: Limit) -> tuple[dict[str, Any], list[Batch]]:
    """Times the first batch, with the start of the workers, and the following ones; returns `first_batches` too.

    Workers deliver in turn, so the rate is that of all rounds together, not a median.
    """
    kept, times, images = list[Batch](), list[float](), 0
    warmup = max(warmup, datamodule.num_workers, KEPT - 1)  # each worker began its first batch at the start
    start = time.perf_counter()
    batches = stream(datamodule)
    batch = next(batches)
    first, last = time.perf_counter() - start, time.perf_counter()
    for number in count():
        _keep(kept, batch)
        if number == warmup:
            limit.start()
        if limit.reached(len(times)):
            break
        batch = next(batches)
        now = time.perf_counter()
        if number >= warmup:
            times.append(now - last)
            images += len(batch.infos)
        last = now
    batches.close()
    return {
        "workers": datamodule.num_workers,
        "first_batch_ms": 1000 * first,
        "batch_images": len(batch.infos) + len(batch.unread),
        "batch_ms": spread(1000 * seconds for seconds in times),
        "images_per_s": images / sum(times),
    }, _not_empty(kept)


def canvases(batches: Iterable[Batch]) -> list[list[int]]:
    """Lists the heights and widths of some batches, each once."""
    return [list(size) for size in dict.fromkeys(tuple(batch.images.shape[2:]) for batch in batches)]


def _keep(kept: list[Batch], batch: Batch) -> None:
    if len(kept) < KEPT and batch.infos:
        kept.append(batch)


def _not_empty(kept: list[Batch]) -> list[Batch]:
    if not kept:
        raise ConfigError(f"none of the images of the first {KEPT} training batches could be read; see inspect_data.py")
    return kept
