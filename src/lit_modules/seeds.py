"""Seeds of steps and images: pure functions of position, so that no generator has to be stored."""

import zlib

import numpy as np

from datamodules.batch import Batch


def step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """Computes the seed of everything random in one step; no generator's state has to be stored to resume."""
    return int(np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(1, np.uint64)[0] >> 1)


def image_seeds(seed: int, step: int, batch: Batch) -> list[int | None]:
    """Computes the seed of each image's draws in a step: the same on whichever rank the image is.

    Where none of a batch could be read, None: the image that stands in counts for nothing.
    """
    names = [str(info.image_id) for info in batch.infos]
    if not names:
        return [None] * len(batch.images)
    return [step_seed(seed, step, zlib.crc32(name.encode()), 0) for name in names]
