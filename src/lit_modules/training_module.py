"""`TrainingModule`: the steps shared by all trained modules.

A module gives a constructor, `losses(outputs, batch)`, and `evaluate_batch(outputs, batch)`; this file does the rest:
one optimizer step, one validation, and what must hold around them (README, "Exactness").
"""

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datamodules.batch import Batch
from evaluation.confusions import Matrix, pairs
from evaluation.curves import best_thresholds
from evaluation.errors import UserError
from evaluation.metrics import Metrics, has_score
from evaluation.truth import Predictions, Truth
from lit_modules.callbacks.averaging import averages
from lit_modules.callbacks.freezing import nothing_frozen
from lit_modules.data import evaluated_data, known_data
from lit_modules.evaluated import Evaluated, Evaluation
from lit_modules.finite import Flags, raise_flags, refuse_infinite_weights
from lit_modules.own_log import LogsItself
from lit_modules.schedules import Plateau, beyond_the_end, take_rates
from lit_modules.seeds import image_seeds, step_seed
from lit_modules.signals import Signals
from lit_modules.stored import arguments_of, describe

log = logging.getLogger(__name__)

MakeOptimizer = Callable[..., Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]


def is_limited(batches: int | float) -> bool:
    """Whether `trainer.limit_*_batches` skips any: 1.0 is all of them, 1 is one."""
    return isinstance(batches, int) or batches < 1.0


@contextmanager
def _said(group: str) -> Generator[None]:
    """Says of which group of settings a value is, which is refused only where it is used."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{group}: {error}") from error


class TrainingModule(LogsItself):
    """Trains and evaluates one network, `self.network`, which has every parameter."""

    def __init__(self, network: nn.Module, optimizer: MakeOptimizer, schedule: MakeSchedule, lr: float) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"model.lr={lr}: expected more than 0")
        self.network = network
        self.lr = lr
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.run: dict[str, Any] = {}
        """Config and versions of the run in plain Python, which checkpoints store; see `boxwright.checkpoints`. Without
        a run they store a description of the objects instead."""
        self.folder = Path()
        """The run's folder, in which a batch without a finite loss is saved."""
        self.channels_last = False
        self.seed = 0
        """The run's seed, from which every step's and every image's draws follow."""
        self.signals = Signals()
        self.gradient_norm = torch.tensor(math.nan)
        """The norm at the last step, before it was clipped; nan without `trainer.gradient_clip_val`."""
        self._evaluation = Evaluation()
        self._pending: Flags | None = None
        self._pairs: dict[str, np.ndarray[Any, Any]] = {}

    def attach(self, folder: Path, seed: int, run: dict[str, Any] | None = None) -> None:
        """Attaches the module to a run: its folder, its seed, and its config and versions, which checkpoints store."""
        self.folder, self.seed = folder, seed
        if run is not None:
            self.run, self.logs_itself = run, False

    def lay_out(self, channels_last: bool) -> None:
        """Stores weights with channels last, if asked; convolutions round differently in each layout."""
        self.channels_last = channels_last
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward_batch(self, batch: Batch) -> Any:
        """The raw outputs of one forward pass, which `losses` and `evaluate_batch` share."""
        return self.network(batch.images, batch.sizes)

    @abstractmethod
    def losses(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Named parts whose sum is minimised, each the mean over the batch as its paper has it."""

    @abstractmethod
    def evaluate_batch(self, outputs: Any, batch: Batch) -> Sequence[Any]:
        """An entry for each image with its `image_id`, kept for `score`: plain, since it travels between ranks."""

    @abstractmethod
    def score(self, truth: Truth, entries: Sequence[Any]) -> tuple[Metrics, Predictions | None]:
        """The numbers of a split, and its predictions if they are boxes, on rank 0 alone.

        `entries` are those of all ranks, in any order and with copies.
        """

    def confusion_matrices(self, class_names: Sequence[str]) -> dict[str, Matrix]:
        """The confusion matrices that `losses` counts, by short names."""
        return {}

    def count_confusion(self, name: str, true: Tensor, predicted: Tensor) -> None:
        """Adds the (true, predicted) pairs of a validation batch to confusion matrix `name`; true = -1 is ignored.

        In training nothing is counted: sums over an epoch would have to be kept in checkpoints, and would wait for the
        device at each step.
        """
        if not torch.is_grad_enabled():
            row, column = torch.stack((true.flatten(), predicted.flatten())).cpu().numpy()
            self._pairs[name] = pairs(row, column)

    def flops_beside_forward(self, network: nn.Module) -> None:
        """Runs the parts of `network` that are not in its forward pass, on its device, to count their operations."""

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with _said("optimizer"), nothing_frozen(self.trainer):
            optimizer = self.make_optimizer(self.network, self.lr)
        total = self.trainer.estimated_stepping_batches
        if total == math.inf:
            raise UserError(
                "trainer.max_steps=-1 and trainer.max_epochs=-1: the schedule follows the length of the run; give one "
                "of them (trainer.max_time may end the run earlier)"
            )
        with _said("schedule"):
            schedule = self.make_schedule(optimizer, int(total))
        for line in beyond_the_end(self.make_schedule, int(total)) if self.global_rank == 0 else ():
            log.warning("%s", line)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Takes the rate of the next step from the schedule: where the run is longer now than when its checkpoint was
        written, or its milestones are others, the rate that is stored there is another."""
        super().on_train_start()
        before, after = take_rates(self.lr_schedulers())
        if before != after and self.global_rank == 0:
            log.info("step %d: rate %.3g as it was, %.3g by the schedule of now", self.global_step, before, after)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        scheduler.step()

    # One step

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self._check_flags()
        seed = step_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        self.skipped.add("train", batch.unread)
        losses = self.losses(self.forward_batch(batch), batch)
        if not batch.infos:  # none of it could be read; still, every rank computes, communicates and has gradients
            losses = {name: 0 * loss for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        where = f"step {self.global_step} (epoch {self.current_epoch}, batch {batch_idx})"
        self._pending = raise_flags(total, losses, batch, where, stop=self.signals.received)
        if total.device.type == "cpu":  # where there is nothing to wait for
            self._check_flags()
        shown = {"loss": total.detach()} | {k: v.detach() for k, v in losses.items()}
        if self.logs_itself:
            self.log_step(shown)
        return {"loss": total, "losses": shown}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to a largest norm, keeps the norm for the log, and masks out a step without a finite loss."""
        if self._pending is not None:  # only where the flag could not be read at once
            self._pending.mask_gradients(self.network.parameters())
        if gradient_clip_val:
            self.gradient_norm = nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)
            if self.logs_itself:
                self.log("train/gradient_norm", self.gradient_norm)

    def sampling_seeds(self, batch: Batch) -> list[int | None]:
        """Seeds of what a loss draws from each image: by step in training, the same each time in evaluation."""
        return image_seeds(self.seed, self.global_step + 1 if torch.is_grad_enabled() else 0, batch)

    def _check_flags(self) -> None:
        if self._pending is None:
            return
        flags, self._pending = self._pending, None
        bad, stop = flags.read()
        self.signals.stop_requested |= stop
        if bad:
            folder = self.folder if self.folder.name else Path(self.trainer.default_root_dir)
            file = folder / f"nonfinite_step{self.global_step}_rank{self.global_rank}.pt"
            rates = (float(group["lr"]) for group in self.trainer.optimizers[0].param_groups)
            raise flags.error(file, rates, self.global_rank)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_flags()  # never save weights whose step has not been judged
        refuse_infinite_weights(self.network, self.global_step)
        data = known_data(self.trainer)
        run = self.run or describe(self, data, self.trainer, self.channels_last)
        checkpoint["boxwright"] = {
            **run,
            "class_names": [] if data is None else list(data.class_names),
            "category_ids": [] if data is None else [int(i) for i in data.category_ids],
            "exif": getattr(data, "exif_meaning", "apply"),  # which loaders or a data module of the user's may lack
            "metrics": dict(self.last.metrics.scalars),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the scores for the next checkpoint, should no validation come before it; and the weights as they were
        trained, where a run that averaged them continues without; the averaged ones, where it is evaluated: after its
        training, Lightning's callback would put those in their place that it trained."""
        trainer = self._trainer
        if trainer is not None and "current_model_state" in checkpoint:
            if trainer.state.fn != "fit":
                checkpoint["current_model_state"] = checkpoint["state_dict"]
            elif not averages(trainer):
                checkpoint["state_dict"] = checkpoint["current_model_state"]
        if (stored := checkpoint.get("boxwright")) is None:
            raise ValueError("the checkpoint was not written by a module of this project: it lacks `boxwright`")
        self.take_classes(stored["class_names"])
        scores = Metrics(dict(stored["metrics"]), {})
        self.last = Evaluated(scores, thresholds=dict(stored.get("thresholds", {})))

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, checkpoint_path: Any, map_location: Any = None, strict: bool | None = None, **arguments: Any
    ) -> Self:
        """The module of a checkpoint, in training mode, made of what the file stores and of `arguments`, which replace
        that. ValueError where an argument of the constructor can't be made from the file; runs no code of the file."""
        made = arguments_of(cls, checkpoint_path, arguments) | arguments
        return super().load_from_checkpoint(  # pyright: ignore[reportUnknownMemberType]
            checkpoint_path, map_location, strict=strict, weights_only=True, **made
        )

    # One evaluation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs = self.forward_batch(batch)
        losses = self.losses(outputs, batch)
        entries = self.evaluate_batch(outputs, batch) if batch.infos else ()
        self._evaluation.add(batch, losses, entries, self._pairs)
        self._pairs = {}

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self._evaluation = Evaluation()

    def on_test_epoch_start(self) -> None:
        self._evaluation = Evaluation()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self._score("val", limited=is_limited(self.trainer.limit_val_batches))

    def on_test_epoch_end(self) -> None:
        self._score("test", limited=is_limited(self.trainer.limit_test_batches))

    def _score(self, split: str, limited: bool) -> None:
        """Gathers the ranks' entries, scores each image once on rank 0, and gives every rank the numbers."""
        shards: list[Any] = [None] * self.trainer.world_size
        answer: list[Any] = [None]
        if dist.is_initialized():
            dist.gather_object(self._evaluation, shards if self.global_rank == 0 else None)
        else:
            shards = [self._evaluation]
        if self.global_rank == 0:
            try:
                self.last = self._scored(split, limited, Evaluation.merged(shards))
                answer = [(self.last.metrics, self.last.mean_losses)]
            except Exception as error:  # sent to the other ranks, which would wait for ever
                answer = [error]
        if dist.is_initialized():
            dist.broadcast_object_list(answer)
        if isinstance(answer[0], Exception):
            raise answer[0]
        if self.global_rank != 0:
            metrics, mean_losses = answer[0]
            self.last = Evaluated(metrics, mean_losses, best_thresholds(metrics.curves))
        self._evaluation = Evaluation()
        if split == "val" or has_score(self.last.metrics.scalars):  # else its losses mean nothing either
            self.log_metrics(split)
        scheduler = self.lr_schedulers() if split == "val" and self.trainer.state.fn == "fit" else None
        if isinstance(scheduler, Plateau):
            scheduler.observe(self.last.mean_losses["loss"])

    def _scored(self, split: str, limited: bool, whole: Evaluation) -> Evaluated:
        data, role = evaluated_data(self.trainer, split)
        truth = whole.scored_part(data.truth(role), limited)
        self.skipped.images[split] = {str(image_id): why for image_id, why in whole.unread.items()}
        self.skipped.add_annotations(data)
        metrics, predictions = self.score(truth, whole.entries)
        metrics = replace(metrics, confusions=whole.confusions(self.confusion_matrices(truth.class_names)))
        return Evaluated(metrics, whole.mean_losses(), best_thresholds(metrics.curves), truth, predictions)
