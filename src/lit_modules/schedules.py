"""Learning-rate schedules by iteration: a warm-up, then one of four shapes.

Each function takes the optimizer and the length of the run, whether its shape depends on it or not, and returns
a scheduler that is stepped once after every optimizer step.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Warmup = Literal["linear", "constant"] | None


def _warmup(warmup: Warmup, steps: int, factor: float) -> Callable[[int], float]:
    """Makes the factor on the rate of step i: `factor` until `steps` (constant), or from there linearly to 1."""
    if steps < 0:
        raise ValueError(f"schedule.warmup_steps={steps}: expected 0 or more")

    def at(i: int) -> float:
        if warmup is None or i >= steps:
            return 1.0
        if warmup == "constant":
            return factor
        done = i / steps
        return factor * (1 - done) + done

    return at


def multistep(
    optimizer: Optimizer,
    total_steps: int,
    *,
    milestones: Sequence[float] = (60000, 80000),
    gamma: float = 0.1,
    warmup: Warmup = "linear",
    warmup_steps: int = 500,
    warmup_factor: float = 1 / 3,
) -> LRScheduler:
    """lr(i) = base x warm-up(i) x gamma^(milestones at or before i); FCOS, solver/lr_scheduler.py.

    Milestones that are written as fractions (0.667) are fractions of the run.
    """
    steps = sorted(milestone_step(m, total_steps) for m in milestones)
    warm = _warmup(warmup, warmup_steps, warmup_factor)
    return LambdaLR(optimizer, lambda i: warm(i) * gamma ** bisect_right(steps, i))


def constant(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup: Warmup = "linear",
    warmup_steps: int = 500,
    warmup_factor: float = 1 / 3,
) -> LRScheduler:
    """Makes a schedule: the warm-up, then the full rate to the end."""
    return LambdaLR(optimizer, _warmup(warmup, warmup_steps, warmup_factor))


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    final_factor: float = 0.0,
    warmup: Warmup = "linear",
    warmup_steps: int = 500,
    warmup_factor: float = 0.001,
) -> LRScheduler:
    """Makes a schedule: the warm-up, then half a cosine down to `final_factor` of the rate at `total_steps`."""
    warm = _warmup(warmup, warmup_steps, warmup_factor)
    start = warmup_steps if warmup else 0

    def at(i: int) -> float:
        done = min(max(i - start, 0) / max(total_steps - start, 1), 1.0)
        return warm(i) * (final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * done)))

    return LambdaLR(optimizer, at)


class Plateau(LRScheduler):
    """A schedule: the warm-up, then a rate that falls whenever `observe` has seen no improvement for a while."""

    def __init__(
        self,
        optimizer: Optimizer,
        warm: Callable[[int], float],
        patience: int,
        factor: float,
        threshold: float,
    ) -> None:
        self._warm = warm
        self.patience, self.factor, self.threshold = patience, factor, threshold
        self.best, self.waited, self.scale = math.inf, 0, 1.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [base * self._warm(self.last_epoch) * self.scale for base in self.base_lrs]

    def observe(self, loss: float) -> None:
        """Notes a validation loss; the next step uses the new rate."""
        if loss < self.best * (1 - self.threshold):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0
            for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "_warm"}


def plateau(
    optimizer: Optimizer,
    total_steps: int,
    *,
    patience: int = 3,
    factor: float = 0.1,
    threshold: float = 1e-4,
    warmup: Warmup = "linear",
    warmup_steps: int = 500,
    warmup_factor: float = 1 / 3,
) -> Plateau:
    """Makes a schedule: the warm-up, then x `factor` after more than `patience` validations without a lower loss.

    The rule of torch's ReduceLROnPlateau in relative mode, on the validation loss.
    """
    return Plateau(optimizer, _warmup(warmup, warmup_steps, warmup_factor), patience, factor, threshold)


def take_rates(scheduler: Any) -> tuple[float, float]:
    """Sets the optimizer's rates to those of the schedule at its step; the largest before and after.

    Only for the schedules of this file, whose rates follow from the step alone: where nothing has changed, the rates
    stay as they are to the last digit.
    """
    groups = scheduler.optimizer.param_groups
    before = max(group["lr"] for group in groups)
    if isinstance(scheduler, LambdaLR):
        factors = (factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas)
        rates: list[Any] = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    elif isinstance(scheduler, Plateau):
        rates = list(scheduler.get_lr())
    else:
        return before, before
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    return before, max(rates)


def beyond_the_end(make: Callable[..., LRScheduler], total_steps: int) -> Iterator[str]:
    """What of a schedule a run never comes to, by the names of its settings."""
    settings = {name: parameter.default for name, parameter in signature(make).parameters.items()}
    milestones: Sequence[float] = settings.get("milestones", ())
    late = [str(m) for m in milestones if milestone_step(m, total_steps) >= total_steps]
    if late:
        yield (
            f"schedule.milestones={list(milestones)}: the run ends at step {total_steps}, so that the rate never falls "
            f"at {', '.join(late)}; lower them, or give fractions of the run, such as [0.667, 0.889]"
        )
    if settings.get("warmup") is not None and settings.get("warmup_steps", 0) >= total_steps:
        yield (
            f"schedule.warmup_steps={settings['warmup_steps']}: the run ends at step {total_steps}, so that the rate "
            "never reaches its full value; lower it"
        )


def milestone_step(milestone: float, total_steps: int) -> int:
    """The step of a milestone; one that is written as a fraction (0.667) is a fraction of the run."""
    if milestone < 0 or (milestone > 1 and milestone != int(milestone)):
        raise ValueError(f"schedule.milestones: {milestone}: expected steps, or fractions of the run, of 0 or more")
    return round(milestone * total_steps) if isinstance(milestone, float) and milestone <= 1 else int(milestone)


def not_stored(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Stands, in a checkpoint, for a schedule that it could not store; raises ValueError."""
    raise ValueError(
        "the checkpoint could not store its schedule, which is none of lit_modules.schedules; to train on, give "
        "schedule=... to load_from_checkpoint"
    )
