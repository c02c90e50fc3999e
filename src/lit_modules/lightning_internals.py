"""Private names of Lightning, in one place to check when it is upgraded; a test checks that they exist."""

# pyright: reportPrivateUsage=false

from typing import Any, cast

import pytorch_lightning as pl

OVERRIDDEN = {
    "pytorch_lightning.LightningModule": ("_on_before_batch_transfer",),
    "pytorch_lightning.callbacks.RichProgressBar": ("_get_train_description",),
    "pytorch_lightning.callbacks.WeightAveraging": ("_average_model",),
    "pytorch_lightning.loggers.WandbLogger": ("_wandb_init",),
    "pytorch_lightning.loggers.TensorBoardLogger": ("_kwargs",),
}
"""Private names of base classes that subclasses of ours set or override where they stand."""


def is_within_step(trainer: pl.Trainer) -> bool:
    """Whether more micro-batches of this optimizer step follow."""
    return trainer.fit_loop._should_accumulate()


def is_validation_due(trainer: pl.Trainer) -> bool:
    """Whether Lightning is about to validate after this training batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def take_sigterm(trainer: pl.Trainer) -> bool:
    """Takes SIGTERM away from Lightning, which broadcasts its flag at every step; returns whether it came already."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    connector = trainer._signal_connector
    received, connector.received_sigterm = connector.received_sigterm, False
    return received


def given_data(trainer: pl.Trainer) -> list[Any]:
    """What the Trainer was given for what it does now: a data module, or the loaders of training and validation."""
    return [source.instance for source in _sources(trainer)]


def adopt_loaders(trainer: pl.Trainer) -> None:
    """Puts, in place of each loader of this project that was given by itself, the one that is made for the Trainer; and
    a loader in place of a list of one, of which Lightning would make lists of one batch."""
    for source in _sources(trainer):
        source.instance = _single(source.instance)
        make: Any = getattr(source.instance, "under", None)
        if make is not None:
            source.instance = make(trainer)


def _sources(trainer: pl.Trainer) -> list[Any]:
    match trainer.state.fn:
        case "fit":
            return [trainer.fit_loop._data_source, trainer.fit_loop.epoch_loop.val_loop._data_source]
        case "validate" | "test":
            return [trainer._evaluation_loop._data_source]
        case _:
            return [trainer.predict_loop._data_source]


def evaluated_loader(trainer: pl.Trainer) -> Any:
    """The loader that the Trainer validates or tests on."""
    loaders = trainer._evaluation_loop._combined_loader
    return None if loaders is None else _single(loaders.iterables)


def _single(given: Any) -> Any:
    several = cast("list[Any] | tuple[Any, ...]", given) if isinstance(given, list | tuple) else [given]
    return several[0] if len(several) == 1 else several
