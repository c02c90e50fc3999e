"""The data that a Trainer was given: what modules and callbacks use of it, and what is refused."""

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Protocol, cast

import numpy as np
import pytorch_lightning as pl

from datamodules.batch import Batch, refuse_wrong_labels
from detectors.arguments import KeepsArguments
from evaluation.truth import Truth
from evaluation.wording import counted
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


def _refuse_rounding(trainer: pl.Trainer) -> None:
    if str(trainer.precision) in ("bf16-true", "16-true"):
        raise ValueError(
            f"precision={str(trainer.precision)!r} would round the boxes themselves; expected '32-true', 'bf16-mixed' "
            "or '16-mixed'"
        )


def _refuse_several(trainer: pl.Trainer) -> None:
    loader = evaluated_loader(trainer)
    if isinstance(loader, list | tuple | dict):
        raise ValueError(
            f"{len(cast('list[Any]', loader))} loaders to evaluate on: expected one, whose images make one AP; call "
            "trainer.validate or trainer.test once for each"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{counted(len(names), 'class', 'classes')} {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


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
    """Refuses, before anything is computed, data that a module of so many classes, or of other ones, is not for."""

    num_classes: int | None = None
    """As many as the network tells apart; None where a module of the user's doesn't say: its constructor does then."""
    class_names: tuple[str, ...] = ()
    """Names of the classes that it was trained on, in the order of their labels; empty where they are not known."""

    def setup(self, stage: str) -> None:
        _refuse_rounding(self.trainer)
        adopt_loaders(self.trainer)
        data, expected = known_data(self.trainer), self._num_classes()
        names = tuple(data.class_names) if data is not None else ()
        if not names or stage == "predict":  # whatever classes the data have, none of them is looked at
            return
        if stage != "fit":
            self._refuse_other_classes(self.class_names, data)
        if expected not in (None, len(names)):
            raise ValueError(
                f"the {type(self).__name__} has num_classes={expected}, but its data {len(names)} classes: "
                f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}; make it with num_classes={len(names)}, "
                "or give the data module the classes to use, classes=[...]"
            )
        if stage == "fit":
            self.class_names = names

    def _num_classes(self) -> int | None:
        return self.arguments.get("num_classes") if self.num_classes is None else self.num_classes

    def take_classes(self, names: Sequence[str]) -> None:
        """Takes the classes of a checkpoint; ValueError where the Trainer is about to train on or score others."""
        if self._trainer is not None and self._trainer.state.fn != "predict":
            self._refuse_other_classes(tuple(names), known_data(self._trainer), " of the checkpoint")
        self.class_names = tuple(names) or self.class_names

    def _refuse_other_classes(self, ours: tuple[str, ...], data: DataModule | None, whose: str = "") -> None:
        theirs = tuple(data.class_names) if data is not None else ()
        if not ours or not theirs or ours == theirs:
            return
        remedy = "give data that have them"
        if set(ours) <= set(theirs):
            remedy = f"give the data module classes={list(ours)}"
        also = "trainer.predict looks at no classes of the data"
        if whose and self.trainer.state.fn == "fit":
            also = f"{type(self).__name__}.load_from_checkpoint(path) starts from its weights, without ckpt_path"
        raise ValueError(
            f"the {type(self).__name__}{whose} was trained on the {_listed(ours)}, the data have the "
            f"{_listed(theirs)}; {remedy}, in this order ({also})"
        )

    def _check_evaluated(self, split: str) -> None:
        """Fails now rather than after all images; a training's validation may have other data than the training."""
        _refuse_several(self.trainer)
        self._refuse_other_classes(self.class_names, evaluated_data(self.trainer, split)[0])

    def on_train_start(self) -> None:
        _place(self.trainer.train_dataloader, self.trainer)

    def on_validation_start(self) -> None:
        self._check_evaluated("val")
        _place(evaluated_loader(self.trainer), self.trainer)

    def on_test_start(self) -> None:
        self._check_evaluated("test")
        _place(evaluated_loader(self.trainer), self.trainer)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        """Checks a batch while it is on the host; ValueError where a label would be out of range in a loss, of which a
        prediction has none."""
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, Batch):
            raise ValueError(
                f"the loader gave a {type(batch).__name__}: expected a datamodules.batch.Batch, which "
                "datamodules.dataset.collate makes of Samples"
            )
        if self._trainer is None or not self._trainer.predicting:
            refuse_wrong_labels(batch, self._num_classes())
        return batch
