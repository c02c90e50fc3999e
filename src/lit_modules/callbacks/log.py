"""The log of a run: a bar, a line every few steps, a table after each validation, the curves."""

import logging
import statistics
import time
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch import Tensor

from datamodules.batch import Batch
from evaluation.metrics import has_score
from lit_modules.callbacks import estimate
from lit_modules.data import data_of
from lit_modules.died import explain
from lit_modules.lightning_internals import is_within_step
from lit_modules.machine import memory_mb
from lit_modules.skipped import FILE, Skipped
from lit_modules.training_module import TrainingModule
from reports.terminal import clock, metrics_text

log = logging.getLogger(__name__)

_LOSS = "loss (mean)"
_WIDTHS = {_LOSS: 13, "lr": 8, "eta": 8}
"""Widths of columns whose figures are wider than both their heading and 0.123."""
_LINES = 20
"""Lines between two headings."""
_CLASSES_LISTED = 20
"""Classes in the table of a validation; the curves have all."""


class Log(Callback):
    """Reads losses off the device every `trainer.log_every_n_steps` and writes them to log.txt and the loggers.

    A line gives the median over the last steps and, of the whole loss, in brackets, the average since the run (or its
    resumption) began; loggers get the mean over the last steps, of all ranks. Times are seconds of one optimizer step.
    """

    def __init__(self) -> None:
        self._window: list[dict[str, Tensor]] = []
        self._columns: dict[str, list[float]] = {}
        self._sum = self._count = 0.0
        self._lines = 0
        self._step_times: list[float] = []
        self._data_times: list[float] = []
        self._images = 0
        self._validated = False
        self.seconds = 0.0
        """Time spent in steps, without validations, including that before the run was resumed."""
        self.shown: dict[str, str] = {}
        """Figures of the last line, by the headings of their columns."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        cast(TrainingModule, pl_module).logs_itself = False

    def state_dict(self) -> dict[str, Any]:
        """Stores the losses since the last row, so that a resumed run's next row is that of an uninterrupted one."""
        self._read()
        columns = {name: list(column) for name, column in self._columns.items()}
        return {"columns": columns, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._columns, self.seconds = state_dict["columns"], state_dict.get("seconds", 0.0)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        self._keep_skipped(trainer, cast(TrainingModule, pl_module))  # what comes later, a resumed run meets again

    def _read(self) -> None:
        """Moves the losses since the last call off the device, each the mean over ranks."""
        if not self._window:
            return
        names = list(self._window[0])
        values = torch.stack([torch.stack([step[name] for name in names]) for step in self._window])
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        columns = cast("list[list[float]]", values.double().cpu().T.tolist())  # pyright: ignore[reportUnknownMemberType]
        for name, column in zip(names, columns, strict=True):
            self._columns.setdefault(name, []).extend(column)
        self._window = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._last_step = self._batch_end = time.perf_counter()
        self._first_step = trainer.global_step
        self._first_times: list[float] = []
        self._data_time = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(TrainingModule, pl_module)
        if trainer.is_global_zero:
            for line in data_of(trainer).describe().splitlines():
                log.info("data: %s", line)
            module.skipped = Skipped.read(module.folder)  # what the run skipped before it was resumed
            module.skipped.add_annotations(data_of(trainer))
        self._keep_skipped(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if self._validated:  # a validation, its checkpoint, pictures and report are no part of a step's time
            self._last_step = self._batch_end = time.perf_counter()
            self._validated = False
        self._data_time += time.perf_counter() - self._batch_end
        self._rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._window.append(outputs["losses"])
        self._images += len(batch.infos) * trainer.world_size
        now = self._batch_end = time.perf_counter()
        if is_within_step(trainer):
            return
        self._step_times.append(now - self._last_step)
        self.seconds += now - self._last_step
        self._data_times.append(self._data_time)
        self._last_step, self._data_time = now, 0.0
        self._estimate(trainer)
        step = trainer.global_step
        if step % cast(Any, trainer).log_every_n_steps == 0 or step == trainer.estimated_stepping_batches:
            self._report(trainer, cast(TrainingModule, pl_module))

    def _estimate(self, trainer: pl.Trainer) -> None:
        """Tells once how long the rest will take."""
        if len(self._first_times) == estimate.STEPS:
            return
        self._first_times.append(self._step_times[-1])
        if len(self._first_times) == estimate.STEPS and trainer.is_global_zero:
            rest = estimate.rest(trainer, images_per_step=max(self._images / len(self._step_times), 1))
            if rest.steps:
                log.info("%s", rest.told(self._first_times))

    def _report(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._read()
        metrics = {f"train/{name}": statistics.fmean(column) for name, column in self._columns.items()}
        metrics |= {
            "lr": self._rate,
            "epoch": epoch(trainer),
            "time/step": statistics.median(self._step_times),
            "time/data": statistics.median(self._data_times),
            "images_per_s": self._images / sum(self._step_times),
            "memory_mb": memory_mb(module.device),
        }
        if trainer.gradient_clip_val:
            metrics["train/gradient_norm"] = float(module.gradient_norm)
        self.shown = self._line(trainer, metrics)
        if trainer.is_global_zero:
            widths = {name: max(len(name), _WIDTHS.get(name, 5)) for name in self.shown}
            widths["step"] = max(4, 2 * len(self.shown["step"].partition("/")[2]) + 1)
            if self._lines % _LINES == 0:
                log.info("  ".join(name.rjust(width) for name, width in widths.items()))
            log.info("  ".join(self.shown[name].rjust(width) for name, width in widths.items()))
            self._lines += 1
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        self._columns, self._step_times, self._data_times, self._images = {}, [], [], 0

    def _line(self, trainer: pl.Trainer, metrics: dict[str, float]) -> dict[str, str]:
        """Formats the figures by the headings of their columns."""
        medians = {name.removeprefix("loss_"): statistics.median(column) for name, column in self._columns.items()}
        self._sum += sum(self._columns["loss"])
        self._count += len(self._columns["loss"])
        line = {
            "step": f"{trainer.global_step}/{trainer.estimated_stepping_batches}",
            "epoch": f"{metrics['epoch']}",
            _LOSS: f"{medians.pop('loss'):.3f} ({self._sum / self._count:.3f})",
            **{name: f"{median:.3f}" for name, median in medians.items()},
        }
        if "train/gradient_norm" in metrics:
            line["grad"] = f"{metrics['train/gradient_norm']:.2f}"
        seconds = (time.perf_counter() - self._started) / max(trainer.global_step - self._first_step, 1)
        return line | {
            "lr": f"{metrics['lr']:.3g}",
            "images/s": f"{metrics['images_per_s']:.1f}",
            "data s": f"{metrics['time/data']:.3f}",
            "MB": f"{metrics['memory_mb']:.0f}",
            "eta": clock(seconds * max(trainer.estimated_stepping_batches - trainer.global_step, 0)),
        }

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        module = cast(TrainingModule, pl_module)
        self._report_evaluation("val", trainer, module, time.perf_counter() - self._validation_started)
        self._validated, self._lines = True, 0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(TrainingModule, pl_module)
        if not has_score(module.last.metrics.scalars):
            self._keep_skipped(trainer, module)
            return
        self._report_evaluation("test", trainer, module, time.perf_counter() - self._validation_started)

    def _report_evaluation(self, split: str, trainer: pl.Trainer, module: TrainingModule, seconds: float) -> None:
        values = module.last.metrics.scalars | module.last.mean_losses
        metrics = {f"{split}/{name}": value for name, value in values.items()}
        metrics |= {
            f"{split}/AP_class/{name}": v["AP"] for name, v in module.last.metrics.per_class.items() if "AP" in v
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": epoch(trainer)}, step=trainer.global_step)
        if trainer.is_global_zero:
            what = f"val at step {trainer.global_step}" if split == "val" else "test of the best checkpoint"
            listed = _CLASSES_LISTED if split == "val" else None
            log.info("%s took %.1f s\n%s", what, seconds, metrics_text(module.last.metrics, listed))
        self._keep_skipped(trainer, module)

    def _keep_skipped(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Logs what was skipped since the last call, and writes all of it to the run's folder."""
        module.skipped.gather()
        if trainer.is_global_zero:
            for line in module.skipped.news():
                log.warning("%s", line)
            try:
                module.skipped.write(module.folder)
            except OSError as error:  # the log has the same
                log.warning("%s", error)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Exception):  # before the traceback, and in log.txt
            log.error("stopped after step %d: %s", trainer.global_step, explain(exception) or exception)
            vars(exception)["is_logged"] = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._step_times:  # the run ended by time, between two rows
            self._report(trainer, cast(TrainingModule, pl_module))
        seconds = time.perf_counter() - self._started
        steps = trainer.global_step - self._first_step
        if trainer.is_global_zero:
            log.info(
                "trained %d steps in %s (%.4f s/step, validations included)",
                steps,
                clock(seconds),
                seconds / max(steps, 1),
            )
        module = cast(TrainingModule, pl_module)
        self._keep_skipped(trainer, module)
        if trainer.is_global_zero and module.skipped:
            log.warning("skipped (data.on_error=skip): %s; see %s", module.skipped, module.folder / FILE)


class ProgressBar(RichProgressBar):
    """Lightning's bar over an epoch, with two figures of `Log`'s last line."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        logs = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Log)]
        shown = logs[0].shown if logs else {}
        return {name: shown[name] for name in (_LOSS, "eta") if name in shown}


def train_seconds(trainer: pl.Trainer) -> float | None:
    """Returns the time spent in steps, without validations; None for a run without `callbacks.log`."""
    callbacks: list[pl.Callback] = cast(Any, trainer).callbacks
    return next((callback.seconds for callback in callbacks if isinstance(callback, Log)), None)


def epoch(trainer: pl.Trainer) -> int:
    """Computes the epoch of the last step; Lightning's is one ahead in the validation that a resumed run owes."""
    return (trainer.global_step * trainer.accumulate_grad_batches - 1) // int(trainer.num_training_batches)
