"""Memory that the workers and the main process share, and use again for one batch after another."""

import itertools
import mmap
import multiprocessing
import os
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_BLOCKS = 8
"""Blocks of each worker: those that it reads ahead into, and those that training and the way to the device hold."""
_numbers = itertools.count()
_alive: "weakref.WeakValueDictionary[int, SharedBlocks]" = weakref.WeakValueDictionary()
"""Blocks by number, which means the same in the main process and in workers forked from it later."""


class SharedBlocks:
    """Blocks of bytes for the images of batches, mapped before the workers start.

    Shared memory that is fresh for each batch, as torch's collate takes it, costs more time than decoding its images:
    the system clears and maps it page by page, in both processes. A block is free again when the last tensor that
    refers to it in the main process is gone. Pages come into being when they are first written.
    """

    def __init__(self, num_workers: int, num_bytes: int) -> None:
        """`num_bytes` of a block; OSError where the system does not give as much."""
        self._number = next(_numbers)
        self._blocks = np.frombuffer(mmap.mmap(-1, num_workers * _BLOCKS * num_bytes), np.uint8).reshape(-1, num_bytes)
        self._taken = np.frombuffer(mmap.mmap(-1, len(self._blocks)), np.bool_)
        """Set by the worker that takes a block, and unset by the main process."""
        _alive[self._number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles nothing: only a forked worker has the blocks."""
        return _nothing, ()

    def take(self, num_bytes: int) -> Tensor | None:
        """Takes a block in a worker: uint8, with what was there before; None where all are in use or too small."""
        worker: Any = get_worker_info()
        own = np.arange(_BLOCKS) + worker.id * _BLOCKS
        free = own[~self._taken[own]]
        if not len(free) or num_bytes > self._blocks.shape[1]:
            return None
        self._taken[free[0]] = True
        return torch.from_numpy(self._blocks[free[0], :num_bytes])

    def holds(self, images: Tensor) -> int | None:
        """Returns the block in which a tensor begins."""
        offset = images.data_ptr() - self._blocks.ctypes.data
        return offset // self._blocks.shape[1] if 0 <= offset < self._blocks.nbytes else None

    def arrived(self, block: int, num_bytes: int) -> Tensor:
        """Returns a block's bytes in the main process; they are free again with the tensor's memory."""
        memory = self._blocks[block, :num_bytes]
        # The tensor's storage holds this array, whatever views there are, until the storage itself is gone.
        weakref.finalize(memory, self._free, block, os.getpid()).atexit = False
        return torch.from_numpy(memory)

    def _free(self, block: int, process: int) -> None:
        if process == os.getpid():  # and not in a worker, which is forked with a copy of all that was there
            self._taken[block] = False


def shared_blocks(num_workers: int, num_bytes: int) -> SharedBlocks | None:
    """Makes the blocks of a loader; None where workers are not forked, or memory can't be reserved.

    Then each batch takes its own memory.
    """
    if num_workers == 0 or multiprocessing.get_start_method() != "fork":
        return None
    try:
        return SharedBlocks(num_workers, num_bytes)
    except OSError:
        return None


def _nothing() -> None:
    return None


def sent(images: Tensor) -> Tensor | tuple[int, int, tuple[int, ...]]:
    """Packs images in a worker: where a block's lie (B, 3, H, W, channels last); other tensors as they are."""
    for number, blocks in _alive.items():
        block = blocks.holds(images)
        if block is not None:
            return number, block, tuple(images.permute(0, 2, 3, 1).shape)
    return images


def received(images: Tensor | tuple[int, int, tuple[int, ...]]) -> Tensor:
    if isinstance(images, Tensor):
        return images
    number, block, shape = images
    return _alive[number].arrived(block, int(np.prod(shape))).view(shape).permute(0, 3, 1, 2)
