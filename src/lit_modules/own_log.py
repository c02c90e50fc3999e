"""What a module tells by itself under a Trainer of the user's own, where no callback of this project does."""

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.batch import Batch
from lit_modules.data import ChecksData, known_data
from lit_modules.evaluated import Evaluated
from lit_modules.skipped import Skipped

log = logging.getLogger(__name__)

_REST = "module.skipped.images"
"""Where the images are that a long list leaves out: without a run's folder no file has them."""


class LogsItself(ChecksData):
    """Gives losses and metrics to the Trainer's loggers, and lists the images that could not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.logs_itself = True
        """Whether the module tells all this; False where the callback `Log`, or the script, does."""
        self.last = Evaluated()
        """The results of the last evaluation; empty before the first."""
        self.skipped = Skipped()
        """The images and annotations skipped so far; complete on rank 0 after each evaluation and at the end."""

    def log_step(self, losses: dict[str, Tensor]) -> None:
        """Logs each loss, the mean over ranks, and the rate; nothing is read off the device here."""
        values = torch.stack(list(losses.values()))
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        self.log_dict({f"train/{name}": value for name, value in zip(losses, values, strict=True)})
        self.log("lr", torch.tensor(max(float(group["lr"]) for group in self.trainer.optimizers[0].param_groups)))

    def log_metrics(self, split: str) -> None:
        """Gives the numbers of an evaluation to the Trainer, on every rank."""
        for name, value in (self.last.metrics.scalars | self.last.mean_losses).items():
            self.log_metric(f"{split}/{name}", value)

    def log_metric(self, name: str, value: float) -> None:
        """Logs, at the end of an evaluation, what is equal on all ranks already, as it is.

        Rank by rank, as `rank_zero_only` has it on each rank that calls: a rank reduces nothing and waits for no other.
        `sync_dist` only says that it is known to be so, else Lightning warns.
        """
        logger = None if self.logs_itself else False
        self.log(name, value, logger=logger, reduce_fx="max", sync_dist=True, rank_zero_only=True)

    # What was skipped, listed where all ranks come by

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.logs_itself:
            if (data := known_data(self.trainer)) is not None:
                self.skipped.add_annotations(data)
            self._list_skipped("train")
            if self.skipped and self.global_rank == 0:
                log.warning("skipped (on_error='skip'): %s", self.skipped)

    def on_validation_end(self) -> None:
        super().on_validation_end()
        if self.logs_itself and not self.trainer.sanity_checking:
            self._list_skipped("train")

    def on_test_end(self) -> None:
        super().on_test_end()
        if self.logs_itself:
            self._list_skipped()

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self.skipped.images["predict"] = {}

    def on_predict_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.skipped.add("predict", batch.unread)

    def on_predict_end(self) -> None:
        super().on_predict_end()
        if self.logs_itself:
            self._list_skipped("predict")

    def _list_skipped(self, *gathered: Any) -> None:
        for split in gathered:
            self.skipped.gather(split)
        for line in self.skipped.news(_REST) if self.global_rank == 0 else ():
            log.warning("%s", line)
