"""Assigns samples to batches: the order of an epoch, and the share of each rank."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from datamodules.errors import DataError
from datamodules.transforms import Resize, draw_resize


class SampleKey(NamedTuple):
    """All that a worker needs to make a sample, and all that the sample depends on."""

    row: int
    """Row of the `AnnotationIndex`."""
    seed: int
    resize: int
    """Number for the resize rule."""
    canvas: tuple[int, int]


class GlobalBatches(Sampler[list[SampleKey]]):
    """The batches of an optimizer step over all devices, a function of (seed, epoch) alone.

    Under `short_side`, images at least as wide as high and the others never share a batch. The last batch of
    a group is completed from the start of the group's order, so that every image is seen and none is needed
    for a full batch. The canvas holds each image of the *global* batch, because GroupNorm sees the padding
    and ranks of equal shape do not wait for one another.

    With `repeats` an epoch has each image as often as its factor says: the whole part of it always, and once more
    with the probability of the rest, which is drawn anew for each epoch.
    """

    def __init__(
        self, rows: np.ndarray, sizes: np.ndarray, resize: Resize, batch_size: int, seed: int,
        multi_scale: tuple[float, float] | None = None, turns: bool = False, repeats: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """`sizes` holds the original (h, w) of each of the `rows`, and `repeats` its factor, 1 or more; `turns`:
        augmentation may swap height and width."""
        self.rows, self.originals, self.resize = rows, sizes.astype(np.int64), resize
        self.batch_size, self.seed, self.multi_scale, self.turns = batch_size, seed, multi_scale, turns
        self.epoch, self.repeats = 0, repeats
        wide = sizes[:, 1] >= sizes[:, 0] if resize.rule == "short_side" else np.ones(len(rows), bool)
        self._groups = [group for group in (np.flatnonzero(wide), np.flatnonzero(~wide)) if len(group)]
        self._batches = [-(-self._most(group) // self.batch_size) for group in self._groups]

    def __len__(self) -> int:
        return sum(self._batches)

    def _most(self, group: np.ndarray) -> int:
        """Returns the number of images that an epoch has of a group, which may be one less by the draw."""
        if self.repeats is None:
            return len(group)
        whole = np.floor(self.repeats[group])
        return int(whole.sum()) + math.ceil(math.fsum(self.repeats[group] - whole))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[list[SampleKey]]:
        """Yields the batches of the epoch from number `start` on."""
        random = np.random.default_rng((self.seed, self.epoch))
        orders = [self._drawn(group, random) for group in self._groups]
        full = [np.resize(order, number * self.batch_size) for order, number in zip(orders, self._batches, strict=True)]
        order = random.permutation(np.concatenate(full).reshape(-1, self.batch_size))
        seeds = random.integers(2**63, size=order.shape)
        for members, member_seeds in zip(order[start:], seeds[start:].tolist(), strict=True):
            targets = [self._target(seed) for seed in member_seeds]
            sizes = self.resize.sizes(self.originals[members], np.array(targets))
            canvas = self.resize.canvases(sizes).max(axis=0)
            height, width = (np.full(2, canvas.max()) if self.turns else canvas).tolist()
            rows = self.rows[members].tolist()
            yield [
                SampleKey(row, seed, target, (height, width))
                for row, seed, target in zip(rows, member_seeds, targets, strict=True)
            ]

    def _drawn(self, group: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Orders a group at random, each image as often as it is repeated in this epoch.

        The fractions are rounded along the order with one random offset (systematic sampling): each is rounded up with
        its own probability, and their number is that of their sum, so that the length of an epoch is known. detectron2
        rounds each by itself, and its epochs have no fixed length.
        """
        order = random.permutation(group)
        if self.repeats is None:
            return order
        whole = np.floor(self.repeats[order])
        passed = np.floor(np.cumsum(self.repeats[order] - whole) + random.random())
        copies = (whole + np.diff(passed, prepend=0.0)).astype(np.int64)
        return random.permutation(np.repeat(order, copies))

    def _target(self, seed: int) -> int:
        if self.multi_scale is None:
            return self.resize.resize
        return draw_resize(seed, self.resize.resize, self.multi_scale)


class RankBatches(Sampler[list[SampleKey]]):
    """The share of one rank in `GlobalBatches`: its slice of each of the `accumulate` micro-batches of a step.

    Micro-batch a of rank r is slice number a x world_size + r, so that devices and accumulation can be traded
    for one another. Lightning finds `set_epoch` through `batch_sampler.sampler`.
    """

    def __init__(self, sampler: GlobalBatches, rank: int = 0, world_size: int = 1, accumulate: int = 1) -> None:
        parts = world_size * accumulate
        if sampler.batch_size % parts:
            below = sampler.batch_size // parts * parts
            nearest = " or ".join(str(size) for size in (below, below + parts) if size)
            raise DataError(
                f"data.batch_size={sampler.batch_size}, the images of one optimizer step, must be divisible by "
                f"devices x nodes ({world_size}) x trainer.accumulate_grad_batches ({accumulate}); the "
                f"nearest that is: {nearest}"
            )
        self.sampler, self.rank, self.world_size, self.accumulate = sampler, rank, world_size, accumulate
        self._start = 0

    def __len__(self) -> int:
        """Counts the micro-batches of an epoch, wherever the next iteration starts."""
        return len(self.sampler) * self.accumulate

    def start_at(self, epoch: int, batches: int) -> None:
        """Lets the next iteration, and that one only, begin after `batches` micro-batches of `epoch`."""
        self.sampler.set_epoch(epoch)
        self._start = batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        start, self._start = self._start, 0
        done, first = divmod(start, self.accumulate)
        size = self.sampler.batch_size // (self.world_size * self.accumulate)
        for batch in self.sampler.batches(done):
            for micro in range(first, self.accumulate):
                part = (micro * self.world_size + self.rank) * size
                yield batch[part : part + size]
            first = 0


class EvalBatches(Sampler[list[SampleKey]]):
    """Every image once, in batches of equal canvas that are dealt to ranks whole.

    The canvas of an image follows from its own size and batches are formed before they are dealt, so each
    forward pass is the same on any number of ranks. A rank that would go without gets a copy of another's
    batch, since Lightning fails on an empty loader; the copy carries the same image ids.
    """

    def __init__(
        self, rows: np.ndarray, sizes: np.ndarray, resize: Resize, batch_size: int,
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        canvases = resize.canvases(resize.sizes(sizes.astype(np.int64)))
        kinds, kind = np.unique(canvases, axis=0, return_inverse=True)
        batches: list[tuple[np.ndarray, tuple[int, int]]] = []
        # The largest first: memory that does not suffice shows at once.
        for i in np.argsort(-kinds.prod(axis=1), kind="stable").tolist():
            height, width = kinds[i].tolist()
            members = rows[kind == i]
            parts = np.split(members, range(batch_size, len(members), batch_size))
            batches += [(part, (height, width)) for part in parts]
        self._batches = batches[rank::world_size] or [batches[rank % len(batches)]]
        self._resize = resize.resize

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for rows, canvas in self._batches:
            yield [SampleKey(row, 0, self._resize, canvas) for row in rows.tolist()]
