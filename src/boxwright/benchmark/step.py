"""Times the Trainer's own step on batches in memory, from a callback."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from boxwright.benchmark.clock import Clock, Limit, spread
from boxwright.benchmark.data import canvases
from datamodules.batch import Batch
from lit_modules.flops import counter
from lit_modules.lightning_internals import is_within_step
from lit_modules.machine import memory_mb
from lit_modules.training_module import TrainingModule


class RepeatedBatches:
    """A loader that repeats the same batches, as one epoch of `number` batches."""

    def __init__(self, batches: Sequence[Batch], number: int) -> None:
        self._batches, self._number = batches, number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Batch]:
        return (self._batches[at % len(self._batches)] for at in range(self._number))


class Moments(NamedTuple):
    """The moments of a micro-batch, which is on the device when it starts."""

    batch: int
    start: Any
    forward: Any
    backward: Any
    end: Any


class Work(NamedTuple):
    """Floating-point operations of a batch."""

    forward: int
    all: int


class StepTimer(pl.Callback):
    """Counts the operations of each batch in its first pass, then times optimizer steps.

    It is the last callback, so that a step includes the work of the others at its end. Where the step `compiles`, each
    batch passes once more before the time is taken: operations are counted uncompiled.
    """

    def __init__(self, warmup: int, limit: Limit, compiles: bool = False) -> None:
        self.warmup, self.limit, self.compiles = warmup, limit, compiles
        self.num_batches = 1
        self.work: list[Work] = []
        """The operations of each batch."""
        self.steps: list[list[Moments]] = []
        """The micro-batches of each timed step."""
        self._passes = self._done = 0
        self._is_warm = False
        self._step: list[Moments] = []
        self._counter: FlopCounterMode | None = None

    def most_passes(self, accumulate: int) -> int:
        """Returns the number of micro-batches that it takes at most."""
        return (self._warm_steps(accumulate) + self.limit.rounds) * accumulate

    def _warm_steps(self, accumulate: int) -> int:
        return max(self.warmup, -(-self.num_batches * (1 + self.compiles) // accumulate))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        device = trainer.strategy.root_device
        self._clock = Clock(device)
        is_counted = len(self.work) == self.num_batches
        warm_steps = self._warm_steps(trainer.accumulate_grad_batches)
        if not self._step and not self._is_warm and is_counted and self._done >= warm_steps:
            self._is_warm = True
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            self._clock.wait()
            self.limit.start()
        if not is_counted:
            self._counter = counter()
            self._counter.__enter__()
        self._start = self._clock.now()

    def on_before_backward(self, *_: Any, **__: Any) -> None:
        self._forward = self._clock.now()
        self._forward_work = self._counter.get_total_flops() if self._counter else 0

    def on_after_backward(self, *_: Any, **__: Any) -> None:
        self._backward = self._clock.now()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        batch = self._passes % self.num_batches
        self._step.append(Moments(batch, self._start, self._forward, self._backward, self._clock.now()))
        self._passes += 1
        if self._counter:
            self._counter.__exit__(None, None, None)  # pyright: ignore[reportUnknownMemberType]
            self.work.append(Work(self._forward_work, self._counter.get_total_flops()))
            self._counter = None
        if is_within_step(trainer):
            return
        self._done += 1
        if self._is_warm:
            self.steps.append(self._step)
            trainer.should_stop = self.limit.reached(len(self.steps))
        self._step = []

    def ms(self, first: str, last: str) -> list[float]:
        """Computes the time between two moments of each step, summed over its micro-batches."""
        return [sum(self._clock.ms(getattr(m, first), getattr(m, last)) for m in step) for step in self.steps]

    def operations(self, part: str) -> list[int]:
        """Sums the operations of each step: of its forward pass, its backward pass, or all of it."""
        of_batch = [
            {"forward": work.forward, "backward": work.all - work.forward, "total": work.all} for work in self.work
        ]
        return [sum(of_batch[m.batch][part] for m in step) for step in self.steps]


def measure_step(module: TrainingModule, trainer: pl.Trainer, timer: StepTimer, batches: list[Batch]) -> dict[str, Any]:
    """Times the forward pass with losses, the backward pass, and the rest (clipping, optimizer, schedule, averaging).

    The rate is 0: the work is the same, but fresh weights cannot diverge, and a checkpoint's stay as they are.
    """
    kept = {name: tensor.cpu().clone() for name, tensor in module.state_dict().items()}  # with batch norm's averages
    timer.num_batches = len(batches)
    module.train()
    module.lr = 0.0
    accumulate = trainer.accumulate_grad_batches
    trainer.fit(module, train_dataloaders=RepeatedBatches(batches, timer.most_passes(accumulate)))
    device = trainer.strategy.root_device
    ends = {"forward": ("start", "forward"), "backward": ("forward", "backward"), "optimizer": ("backward", "end")}
    times = {part: timer.ms(*moments) for part, moments in (ends | {"total": ("start", "end")}).items()}
    images = statistics.fmean(sum(len(batches[m.batch].infos) for m in step) for step in timer.steps)
    figures: dict[str, Any] = {
        "images": images,
        "micro_batches": accumulate,
        "canvases": canvases(batches),
        **{f"{part}_ms": spread(found) for part, found in times.items()},
        "images_per_s": 1000 * images / statistics.median(times["total"]),
        "peak_memory_mb": memory_mb(device),
        "peak_memory_of": "tensors on the device" if device.type == "cuda" else "the whole process",
    }
    for part in ("forward", "backward", "total"):
        operations = timer.operations(part)
        figures[f"{part}_gflops"] = statistics.median(operations) / 1e9
        rates = [number / ms / 1e6 for number, ms in zip(operations, times[part], strict=True)]
        figures[f"{part}_gflops_per_s"] = statistics.median(rates)
    module.load_state_dict(kept)
    return figures
