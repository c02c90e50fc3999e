"""The data that a Trainer was given: what modules and callbacks use of it, and what is refused."""

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Protocol, cast

import numpy as np
import pytorch_lightning as pl

from datamodules.batch import Batch, refuse_wrong_labels
from detectors.arguments import KeepsArguments
from evaluation.truth import Truth
from lit_modules.lightning_internals import adopt_loaders, evaluated_loader, given_data


class DataModule(Protocol):
    """`datamodules.base.DetectionDataModule`, without an import of all readers."""

    seed: int
    eval_batch_size: int

    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def category_ids(self) -> Sequence[int]: ...
    @property
    def problems(self) -> list[str]: ...
    @property
    def problem_counts(self) -> dict[str, int]: ...
    def truth(self, split: str) -> Truth: ...
    def image(self, split: str, image_id: int | str) -> np.ndarray: ...
    def single_images(self, split: str, places: Sequence[int]) -> Iterable[Batch]: ...
    def describe(self) -> str: ...


_NEEDED = ("class_names", "category_ids", "truth")


def known_data(trainer: pl.Trainer) -> DataModule | None:
    """The data module that a trainer runs on, or whose loaders it was given; None where loaders are of other making."""
    loaders = [trainer.train_dataloader] if trainer.state.fn == "fit" else []
    for given in (*given_data(trainer), *loaders):
        for found in (given, getattr(given, "data", None)):
            if (known := _complete(found)) is not None:
                return known
    return None


def _complete(found: object) -> DataModule | None:
    return cast(DataModule, found) if all(hasattr(found, name) for name in _NEEDED) else None


def data_of(trainer: pl.Trainer) -> DataModule:
    """The data module that a trainer runs on, or whose loaders it was given; ValueError where it can't be known."""
    return cast(Any, trainer).datamodule or known_data(trainer) or _refuse(trainer)


def evaluated_data(trainer: pl.Trainer, split: str) -> tuple[DataModule, str]:
    """The data module whose images are evaluated, and which of its splits they are; ValueError as `data_of`."""
    loader = evaluated_loader(trainer)
    if hasattr(loader, "role"):
        return loader.data, loader.role
    return known_data(trainer) or _refuse(trainer), split


def _refuse(trainer: pl.Trainer) -> NoReturn:
    kinds = {type(given).__name__ for given in given_data(trainer) if not isinstance(given, pl.LightningModule)}
    raise ValueError(
        f"class names and true boxes are not known from a {' and a '.join(sorted(kinds))}. Give the Trainer a data "
        "module of this project (datamodule=data) or the loaders that one makes (data.val_dataloader()); tell a "
        "DataLoader of yours whose images it loads (loader.data = data); or give a LightningDataModule of your own "
        f"that has {', '.join(_NEEDED)}. To train without evaluations give no val_dataloaders"
    )


def _place(loader: Any, trainer: pl.Trainer) -> None:
    """Tells the data module of a loader, which a data module of the user's may have got from it, what trains on it."""
    if not hasattr(loader, "role") or loader.data.trainer is trainer:
        return
    if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1:
        raise ValueError(
            f"a loader of {type(loader.data).__name__} was made before its Trainer was known, so that its batches are "
            "not dealt to ranks and micro-batches; set its .trainer = self.trainer before it makes loaders"
        )
    loader.data.trainer = trainer


class ChecksData(KeepsArguments, pl.LightningModule):
    """Refuses, before anything is computed, data that a module of so many classes can't be trained on."""

    def setup(self, stage: str) -> None:
        adopt_loaders(self.trainer)
        data, expected = known_data(self.trainer), self.arguments.get("num_classes")
        names = data.class_names if data is not None else ()
        if names and expected not in (None, len(names)):
            raise ValueError(
                f"the {type(self).__name__} has num_classes={expected}, but its data {len(names)} classes: "
                f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
            )

    def on_train_start(self) -> None:
        _place(self.trainer.train_dataloader, self.trainer)

    def on_validation_start(self) -> None:
        evaluated_data(self.trainer, "val")  # fails now rather than after all images
        _place(evaluated_loader(self.trainer), self.trainer)

    def on_test_start(self) -> None:
        evaluated_data(self.trainer, "test")
        _place(evaluated_loader(self.trainer), self.trainer)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        """Checks a batch while it is on the host; ValueError where a label would be out of range in a loss."""
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, Batch):
            raise ValueError(
                f"the loader gave a {type(batch).__name__}: expected a datamodules.batch.Batch, which "
                "datamodules.dataset.collate makes of Samples"
            )
        refuse_wrong_labels(batch, self.arguments.get("num_classes"))
        return batch
