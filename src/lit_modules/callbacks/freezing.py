"""Freezes parts of the network, for a whole run or until a step or an epoch."""

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from evaluation.errors import UserError

log = logging.getLogger(__name__)

KEY = "callbacks.freezing"


class Freezing(pl.Callback):
    """Keeps the weights of `parts` as they are, until a step or an epoch, or to the end.

    A part is a module of the network by its name: `backbone`, `head.class_tower`, `backbone.layer4`. While it is frozen
    it is in eval mode, so that the statistics of its norms stay too and nothing is dropped in it; it gets no gradient,
    hence no momentum and no weight decay, and what lies before all parts that train takes no backward pass. Then
    it trains as the others do, at the rate that the schedule has come to. What is frozen follows from step and epoch
    alone, so that a resumed run continues as if it had not been interrupted.

    `until_step` is a number of steps, or a fraction of the run (0.25).
    """

    def __init__(
        self, parts: Sequence[str] = (), until_step: float | None = None, until_epoch: int | None = None
    ) -> None:
        if until_step is not None and not (until_step >= 1 if isinstance(until_step, int) else 0 < until_step < 1):
            raise ValueError(
                f"{KEY}.until_step={until_step}: expected a whole number of steps, a fraction of the run between 0 and "
                "1, or null"
            )
        if until_epoch is not None and until_epoch < 1:
            raise ValueError(f"{KEY}.until_epoch={until_epoch}: expected 1 or more, or null")
        if until_step is not None and until_epoch is not None:
            raise ValueError(
                f"{KEY}.until_step={until_step} and {KEY}.until_epoch={until_epoch}: give one of them, and null for "
                "the other"
            )
        until = {"until_step": until_step, "until_epoch": until_epoch}
        if not parts and (given := [f"{KEY}.{key}={value}" for key, value in until.items() if value is not None]):
            raise ValueError(
                f"{given[0]}, but {KEY}.parts is empty: name what is frozen until then, such as [backbone]"
            )
        self.parts, self.until_step, self.until_epoch = tuple(parts), until_step, until_epoch
        self._modules: list[nn.Module] = []
        self._parameters: list[nn.Parameter] = []
        self._is_frozen = False
        self._step: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freezes before the network is wrapped for several ranks, which expect a gradient of all that trains then."""
        if stage != "fit" or not self.parts:
            return
        network = cast(nn.Module, pl_module.network)
        self._modules = find_parts(network, self.parts)
        if idle := [name for name, module in zip(self.parts, self._modules, strict=True) if not _trained([module])]:
            log.warning("%s.parts: %s would not train anyway", KEY, ", ".join(idle))
        self._parameters = _trained(self._modules)
        within = {id(parameter) for parameter in self._parameters}
        if all(id(parameter) in within for parameter in _trained([network])):
            raise UserError(f"{KEY}.parts={list(self.parts)} leaves nothing to train; there are {_listed(network)}")
        ends = self.until_step is not None or self.until_epoch is not None
        if ends and not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise UserError(
                f"{KEY} can't end at a step or an epoch under {type(trainer.strategy).__name__}: expected one device, "
                f"or trainer.strategy=ddp; give {KEY}.until_step=null {KEY}.until_epoch=null"
            )
        self._step = None
        self._set(frozen=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # `global_step` changes with the last of accumulated micro-batches, so that no step is frozen in part.
        if not self._is_frozen:
            return
        if self._step is None:
            self._step = self._end(trainer)
            if not self._is_over(trainer):
                self._announce(trainer, pl_module)
        if self._is_over(trainer):
            self._set(frozen=False)
            pl_module.train()  # a backbone keeps its own frozen stages in eval mode
            _wrap_again(trainer)
            log.info(
                "step %d: %s trains from here on (frozen until %s)",
                trainer.global_step, ", ".join(self.parts), self._until(),
            )  # fmt: skip
        else:
            for module in self._modules:  # each time: a validation in between sets the mode of all
                module.eval()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the parameters as they were, for whatever the program does next with the module."""
        if stage == "fit" and self._is_frozen:
            self._set(frozen=False)

    @contextmanager
    def lifted(self) -> Generator[None]:
        """Parameters pose as trained ones: the optimizer has them from the start, and skips those without gradient."""
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            self._set(frozen=self._is_frozen)

    def _set(self, *, frozen: bool) -> None:
        self._is_frozen = frozen
        for parameter in self._parameters:
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None

    def _end(self, trainer: pl.Trainer) -> int:
        """The step until which parts are frozen, as far as it is known; -1 where it is not."""
        end = trainer.estimated_stepping_batches
        if self.until_step is None:
            return -1
        step = self.until_step if isinstance(self.until_step, int) else round(self.until_step * end)
        if step >= end:
            log.warning("%s.until_step=%s is not before the run's end at step %d", KEY, self.until_step, end)
        return step

    def _is_over(self, trainer: pl.Trainer) -> bool:
        if self.until_epoch is not None:
            return trainer.current_epoch >= self.until_epoch
        return self._step is not None and 0 <= self._step <= trainer.global_step

    def _until(self) -> str:
        if self.until_epoch is not None:
            return f"epoch {self.until_epoch}"
        return "the end" if self.until_step is None else f"step {self._step}"

    def _announce(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        count = sum(parameter.numel() for parameter in self._parameters)
        rest = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        log.info(
            "frozen until %s: %s (%.2f M parameters; %.2f M train)",
            self._until(), ", ".join(self.parts), count / 1e6, rest / 1e6,
        )  # fmt: skip


@contextmanager
def nothing_frozen(trainer: pl.Trainer) -> Generator[None]:
    """For the making of an optimizer: what a run freezes for a while belongs to it, too."""
    callbacks: list[pl.Callback] = cast(Any, trainer).callbacks
    found = next((callback for callback in callbacks if isinstance(callback, Freezing)), None)
    if found is None:
        yield
    else:
        with found.lifted():
            yield


def _trained(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters of modules that train, each once."""
    every = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return [parameter for parameter in every.values() if parameter.requires_grad]


def find_parts(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of a network by their names; UserError for one that it has not, or that has no parameters."""
    found = cast(Iterable[tuple[str, nn.Module]], network.named_modules())
    modules = {path: module for path, module in found if path and any(True for _ in module.parameters())}
    for name in names:
        if name not in modules:
            near = get_close_matches(name, modules, n=1)
            raise UserError(
                f"{KEY}.parts: the network has no part {name!r}{f'; nearest is {near[0]}' if near else ''}; there are "
                f"{_listed(network)}, and the layers within them by their names"
            )
    return [modules[name] for name in names]


def _listed(network: nn.Module) -> str:
    """The parts of a network, and those of its heads."""
    names: list[str] = []
    for name, part in _children(network):
        inner = [] if name in ("backbone", "pyramid") else [n for n, _ in _children(part) if not n.isdigit()]
        names += [name, *(f"{name}.{n}" for n in inner)]
    return ", ".join(names)


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those that have parameters."""
    return ((name, child) for name, child in module.named_children() if any(True for _ in child.parameters()))


def _wrap_again(trainer: pl.Trainer) -> None:
    """On several ranks only those parameters are reduced that had a gradient when the network was wrapped."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()
