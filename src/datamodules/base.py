"""The data module that every data set shares: loaders, and the position in the stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from datamodules.batch import Batch
from datamodules.dataset import DetectionDataset, Sample, collate, init_worker, read_batches
from datamodules.loaders import Loader, Role, TrainLoader, as_role
from datamodules.sampler import EvalBatches, GlobalBatches, RankBatches
from datamodules.shared_blocks import shared_blocks
from datamodules.split import Split
from datamodules.splits import DataSplits
from datamodules.transforms import Augmentation


@dataclass(kw_only=True, eq=False, repr=False)
class DetectionDataModule(DataSplits, pl.LightningDataModule):
    """The stream of a data set's images to the Trainer."""

    def __post_init__(self) -> None:
        pl.LightningDataModule.__init__(self)
        super().__post_init__()

    def train_dataloader(self) -> TrainLoader:
        split = self._split("train")
        scale = None if self.multi_scale is None else (float(self.multi_scale[0]), float(self.multi_scale[1]))
        rank, world_size = self._rank()
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        batches = GlobalBatches(
            split.rows, split.index.sizes[split.rows], self.resize_rule, self.batch_size, self.seed, scale,
            self._augmentation().turns, self._repeats(split),
        )  # fmt: skip
        return TrainLoader(
            self, self._dataset(split, training=True), RankBatches(batches, rank, world_size, accumulate),
            self._progress, **self._loader_options(self.batch_size // (world_size * accumulate)),
        )  # fmt: skip

    def val_dataloader(self) -> Loader:
        return self._eval_loader("val")

    def test_dataloader(self) -> Loader:
        return self._eval_loader("test")

    def predict_dataloader(self) -> Loader:
        """Gives the images that `test_dataloader` gives."""
        return self._eval_loader("test")

    def _eval_loader(self, role: Role) -> Loader:
        split = self._split(role)
        sizes = split.index.sizes[split.rows]
        batches = EvalBatches(split.rows, sizes, self.resize_rule, self.eval_batch_size, *self._rank())
        return Loader(self, role, self._dataset(split), batches, **self._loader_options(self.eval_batch_size))

    def single_images(self, split: str, places: Sequence[int]) -> Iterator[Batch]:
        """Reads images of a split, by their places in its truth, as evaluation does, one a batch and on any rank; skips
        those that can't be read."""
        part = self._split(as_role(split))
        rows = part.rows[list(places)]
        keys = EvalBatches(rows, part.index.sizes[rows], self.resize_rule, 1)
        return read_batches(self._dataset(part), keys)

    def _dataset(self, split: Split, training: bool = False) -> Dataset[Sample]:
        return DetectionDataset(
            split.index, split.class_map, self.resize_rule, self.min_box, self.use_difficult,
            skip_errors=self.on_error == "skip", training=training, flip=self.flip,
            vertical_flip=self.vertical_flip,
            augmentation=self._augmentation() if training else Augmentation(None), decoding=self._decoding(split.index),
        )  # fmt: skip

    def _repeats(self, split: Split) -> np.ndarray | None:
        """Returns how often each image of the training split is repeated; None where each is there once."""
        if self.repeat_threshold is None:
            return None
        return split.repeat_factors(self.num_classes, self.repeat_threshold).of_image

    def _describe(self, role: Role, split: Split) -> str:
        line, repeats = super()._describe(role, split), self._repeats(split) if role == "train" else None
        if repeats is None:
            return line
        return f"{line}; {repeats.sum():.0f} images an epoch with data.repeat_threshold={self.repeat_threshold:g}"

    def _augmentation(self) -> Augmentation:
        return Augmentation(self.augmentations, self.min_visibility, self.min_area)

    def _loader_options(self, num_images: int) -> dict[str, Any]:
        shared = shared_blocks(self.num_workers, num_images * self.resize_rule.largest(self.multi_scale))
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "collate_fn": partial(collate, shared=shared),
            "worker_init_fn": init_worker,
            "pin_memory": on_cuda,
            # An iterator draws a seed for its workers, which ours never use; not from torch's own generator.
            "generator": torch.Generator(),
        }

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _progress(self) -> tuple[int, int] | None:
        """Returns the epoch, and the micro-batches of it that are trained on; None outside of training.

        The epoch follows from the batches trained in all: with `max_steps`, Lightning 2.6 counts one epoch
        too many after resuming a checkpoint of `on_train_epoch_end`. With `overfit_batches` it is always the first,
        whose batches are repeated: Lightning can't switch off the order of a loader that is none of its own.
        """
        trainer = self.trainer
        if trainer is None or (trainer.state.fn, trainer.state.status) != ("fit", "running"):
            return None
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress  # pyright: ignore[reportAttributeAccessIssue]
        done = progress.current.processed
        if trainer.overfit_batches > 0:  # pyright: ignore[reportAttributeAccessIssue]
            return 0, done
        return (progress.total.processed - done) // int(trainer.num_training_batches), done
