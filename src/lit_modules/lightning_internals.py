"""Private names of Lightning, in one place to check when it is upgraded; a test checks that they exist."""

# pyright: reportPrivateUsage=false

import pytorch_lightning as pl

OVERRIDDEN = {
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
