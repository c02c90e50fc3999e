"""The part of a data module that modules and callbacks use."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import pytorch_lightning as pl

from datamodules.batch import Batch
from evaluation.truth import Truth


class DataModule(Protocol):
    """`datamodules.base.DetectionDataModule`, without an import of all readers."""

    seed: int
    eval_batch_size: int

    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def category_ids(self) -> Sequence[int]: ...
    @property
    def exif_meaning(self) -> str: ...
    @property
    def problems(self) -> list[str]: ...
    @property
    def problem_counts(self) -> dict[str, int]: ...
    def truth(self, split: str) -> Truth: ...
    def image(self, split: str, image_id: int | str) -> np.ndarray: ...
    def single_images(self, split: str, places: Sequence[int]) -> Iterable[Batch]: ...
    def describe(self) -> str: ...


def data_of(trainer: pl.Trainer) -> DataModule:
    """The data module that a trainer runs on."""
    return cast(Any, trainer).datamodule
