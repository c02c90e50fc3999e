"""`TrainingModule`: the steps that everything that is trained shares.

A module gives a constructor, `losses(outputs, batch)`, and `evaluate_batch(outputs, batch)`; this file does the rest:
one optimizer step, one validation, and what must hold around them (README, "Exactness").
"""

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datamodules.batch import Batch
from evaluation.analysis import Analysis
from evaluation.confusions import Matrix, pairs
from evaluation.metrics import Metrics
from evaluation.truth import Truth
from lit_modules.evaluated import Evaluation
from lit_modules.finite import Flags, NonFiniteLossError
from lit_modules.schedules import Plateau
from lit_modules.seeds import image_seeds, step_seed
from lit_modules.skipped import Skipped

log = logging.getLogger(__name__)

MakeOptimizer = Callable[..., Optimizer]
MakeSchedule = Callable[[Optimizer, int], LRScheduler]


def is_limited(batches: int | float) -> bool:
    """Whether `trainer.limit_*_batches` leaves any out: 1.0 is all of them, 1 is one."""
    return isinstance(batches, int) or batches < 1.0


class TrainingModule(pl.LightningModule):
    """Trains and evaluates one network, which lies in `self.network` and holds every parameter."""

    def __init__(self, network: nn.Module, optimizer: MakeOptimizer, schedule: MakeSchedule, lr: float) -> None:
        super().__init__()
        self.network = network
        self.lr = lr
        self.run: dict[str, Any] = {}
        """What a checkpoint says of its run beside the weights; plain Python (see `lit_modules.checkpoints`)."""
        self.folder = Path()
        """Where a batch is saved that gave no finite loss."""
        self.metrics = Metrics({}, {})
        """Scores of the last evaluation."""
        self.mean_losses: dict[str, float] = {}
        """Losses of the last evaluation, mean over its images."""
        self.truth: Truth | None = None
        """What the last evaluation was scored against, on rank 0."""
        self.skipped = Skipped()
        """What the run left out so far; complete on rank 0 after each evaluation and at the end."""
        self.stop_requested = False
        """A rank was told to end (SIGTERM); the same on every rank at the same step."""
        self.sigterm = False
        self.interrupted = False
        """It was Ctrl-C that told it."""
        self._make_optimizer, self._make_schedule = optimizer, schedule
        self._evaluation = Evaluation()
        self._pending: Flags | None = None
        self._pairs: dict[str, np.ndarray[Any, Any]] = {}

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
    def score(self, truth: Truth, entries: Sequence[Any]) -> Metrics:
        """The numbers of a split from what all ranks kept, in any order and with copies; on rank 0 alone."""

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

    @property
    def analysis(self) -> Analysis | None:
        """What was right and wrong in the last evaluation, on rank 0; None where nothing tells of boxes."""
        return None

    def flops_beside_forward(self, network: nn.Module) -> None:
        """Runs the parts of `network` that its forward pass leaves out, on its device, so that they can be counted."""

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        optimizer = self._make_optimizer(self.network, self.lr)
        total = self.trainer.max_steps if self.trainer.max_steps > 0 else self.trainer.estimated_stepping_batches
        if total == math.inf:
            raise ValueError(
                "trainer.max_steps=-1 and trainer.max_epochs=-1: the schedule follows the length of the run; give one "
                "of them (trainer.max_time may end the run earlier)"
            )
        schedule = self._make_schedule(optimizer, int(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        scheduler.step()

    # One step

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self._check_flags()
        seed = step_seed(self._seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        self.skipped.add("train", batch.unread)
        losses = self.losses(self.forward_batch(batch), batch)
        if not batch.infos:  # none of it could be read; still, every rank computes, communicates and has gradients
            losses = {name: 0 * loss for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        self._raise_flags(total, losses, batch, batch_idx)
        return {
            "loss": total,
            "losses": {"loss": total.detach()} | {k: v.detach() for k, v in losses.items()},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to a largest norm, keeps the norm for the log, and masks out a step without a finite loss."""
        if self._pending is not None:  # only where the flag could not be read at once
            bad = self._pending.on_device[0] > 0
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(bad, 0.0)
        if gradient_clip_val:
            self.gradient_norm = nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    @property
    def _seed(self) -> int:
        return int(getattr(getattr(self._trainer, "datamodule", None), "seed", 0))

    def sampling_seeds(self, batch: Batch) -> list[int | None]:
        """Of each image, for what a loss draws from it: by step in training, the same each time in evaluation."""
        return image_seeds(self._seed, self.global_step + 1 if torch.is_grad_enabled() else 0, batch)

    def _raise_flags(self, total: Tensor, losses: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:
        """Agree over ranks whether the loss is finite and whether to stop; read it without waiting.

        On the CPU the answer is there at once. From a device it is copied while the step goes on and read
        at the start of the next step, the gradients of this one being masked in the meantime: it was copied before
        the backward pass, in which the device is still busy then.
        """
        stop = torch.full_like(total, float(self.sigterm), dtype=torch.float32)
        flags = torch.stack([(~torch.isfinite(total.detach())).float(), stop])
        if dist.is_initialized():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        where = f"step {self.global_step} (epoch {self.current_epoch}, batch {batch_idx})"
        parts = {name: value.detach() for name, value in losses.items()}
        host, copied = flags.to("cpu", non_blocking=flags.is_cuda), None
        if flags.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        self._pending = Flags(flags, host, copied, parts, batch, where)
        if flags.device.type == "cpu":
            self._check_flags()

    def _check_flags(self) -> None:
        if self._pending is None:
            return
        _, flags, copied, parts, batch, where = self._pending
        self._pending = None
        if copied is not None:
            copied.synchronize()
        bad, stop = cast("list[float]", flags.tolist())  # pyright: ignore[reportUnknownMemberType]
        self.stop_requested |= bool(stop)
        if not bad:
            return
        file = self.folder / f"nonfinite_step{self.global_step}_rank{self.global_rank}.pt"
        content = {"images": batch.images.cpu(), "sizes": batch.sizes.cpu(), "boxes": batch.boxes.cpu(),
                   "labels": batch.labels.cpu(), "image_ids": [i.image_id for i in batch.infos]}  # fmt: skip
        try:
            torch.save(content, file)
            saved = f"The batch is saved in {file}"
        except (OSError, RuntimeError) as error:  # a full disk must not hide the reason
            saved = f"The batch could not be saved in {file} ({error})"
        rates = sorted({f"{group['lr']:.3g}" for group in self.trainer.optimizers[0].param_groups})
        raise NonFiniteLossError(
            f"the loss is not finite at {where}, rate {', '.join(rates)}: "
            + ", ".join(f"{name} = {value.item():.6g}" for name, value in parts.items())
            + f"; images {[info.image_id for info in batch.infos]} (rank {self.global_rank}). {saved}; "
            "no checkpoint was written after this step. Lower model.lr, lengthen "
            "schedule.warmup_steps, or set trainer.gradient_clip_val; look at the images' boxes when it comes "
            "back at the same ones."
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_flags()  # never save weights whose step has not been judged
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self.network.parameters()])
        if not finite.all():  # a finite loss may still have had a gradient that was not
            names = [name for (name, _), good in zip(self.network.named_parameters(), finite, strict=True) if not good]
            raise NonFiniteLossError(
                f"{len(names)} weights are not finite at step {self.global_step}, the first of them {names[0]}: not "
                "saved. Go on from the last checkpoint with trainer.gradient_clip_val, or start anew with a lower "
                "model.lr"
            )
        data = cast(Any, self.trainer).datamodule
        checkpoint["boxwright"] = {
            **self.run,
            "class_names": list(data.class_names),
            "category_ids": [int(i) for i in data.category_ids],
            "metrics": dict(self.metrics.scalars),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the next checkpoint says, should no validation come before it."""
        self.metrics = Metrics(dict(checkpoint["boxwright"]["metrics"]), {})

    # One evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = self.forward_batch(batch)
        losses = self.losses(outputs, batch)
        entries = self.evaluate_batch(outputs, batch) if batch.infos else ()
        self._evaluation.add(batch, losses, entries, self._pairs)
        self._pairs = {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
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
        """Gather the ranks' predictions, score each image once on rank 0, and tell everyone the numbers."""
        shards: list[Any] = [None] * self.trainer.world_size
        answer: list[Any] = [None]
        if dist.is_initialized():
            dist.gather_object(self._evaluation, shards if self.global_rank == 0 else None)
        else:
            shards = [self._evaluation]
        if self.global_rank == 0:
            try:
                data = cast(Any, self.trainer).datamodule
                truth: Truth = data.truth(split)
                whole = Evaluation.merged(shards)
                self.truth = whole.scored_part(truth, limited)
                self.skipped.images[split] = {str(image_id): why for image_id, why in whole.unread.items()}
                self.skipped.add_annotations(data)
                confusions = whole.confusions(self.confusion_matrices(self.truth.class_names))
                metrics = replace(self.score(self.truth, whole.entries), confusions=confusions)
                answer = [(metrics, whole.mean_losses())]
            except Exception as error:  # sent to the other ranks, which would wait for ever
                answer = [error]
        if dist.is_initialized():
            dist.broadcast_object_list(answer)
        if isinstance(answer[0], Exception):
            raise answer[0]
        self.metrics, self.mean_losses = answer[0]
        self._evaluation = Evaluation()
        self.log_metrics(split)
        scheduler = self.lr_schedulers() if split == "val" and self.trainer.state.fn == "fit" else None
        if isinstance(scheduler, Plateau):
            scheduler.observe(self.mean_losses["loss"])

    def log_metrics(self, split: str) -> None:
        """Give the numbers of an evaluation to the Trainer, on every rank."""
        for name, value in (self.metrics.scalars | self.mean_losses).items():
            self.log(f"{split}/{name}", value, logger=False)
