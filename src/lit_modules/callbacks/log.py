"""What a run says while it goes: a bar, a line every few steps, a table after each validation, the curves."""

import logging
import statistics
import sys
import time
from datetime import timedelta
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, RichProgressBar
from rich.console import Console
from torch import Tensor

from datamodules.batch import Batch
from evaluation.metrics import Metrics, table
from lit_modules.base import DetectionModule
from lit_modules.skipped import FILE, Skipped

log = logging.getLogger(__name__)


class Log(Callback):
    """Reads losses off the device every `trainer.log_every_n_steps` and writes them to log.txt and the loggers.

    A line gives the median over the last steps and, in brackets, the average since the run (or its resumption)
    began; loggers get the mean over the last steps, of all ranks. Times are seconds of one optimizer step.
    """

    def __init__(self) -> None:
        self._window: list[dict[str, Tensor]] = []
        self._columns: dict[str, list[float]] = {}
        self._sums: dict[str, float] = {}
        self._counts = 0
        self._step_times: list[float] = []
        self._data_times: list[float] = []
        self._images = 0
        self._validated = False
        self.shown: dict[str, str] = {}
        """The last line's figures, for the progress bar."""

    def state_dict(self) -> dict[str, Any]:
        """Losses since the last row, so that a resumed run's next row is that of an uninterrupted one."""
        self._read()
        return {"columns": {name: list(column) for name, column in self._columns.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._columns = state_dict["columns"]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        self._keep_skipped(trainer, cast(DetectionModule, pl_module))  # what comes later, a resumed run meets again

    def _read(self) -> None:
        """Move the losses since the last time off the device, each the mean over ranks."""
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
        self._data_time = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(DetectionModule, pl_module)
        if trainer.is_global_zero:
            for line in cast(Any, trainer).datamodule.describe().splitlines():
                log.info("data: %s", line)
            module.skipped = Skipped.read(module.folder)  # what the run left out before it was resumed
            module.skipped.add_annotations(cast(Any, trainer).datamodule)
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
        if trainer.fit_loop._should_accumulate():  # pyright: ignore[reportPrivateUsage]
            return
        self._step_times.append(now - self._last_step)
        self._data_times.append(self._data_time)
        self._last_step, self._data_time = now, 0.0
        step = trainer.global_step
        if step % cast(Any, trainer).log_every_n_steps == 0 or step == trainer.estimated_stepping_batches:
            self._report(trainer, cast(DetectionModule, pl_module))

    def _report(self, trainer: pl.Trainer, module: DetectionModule) -> None:
        self._read()
        metrics = {f"train/{name}": statistics.fmean(column) for name, column in self._columns.items()}
        line = [f"step {trainer.global_step}/{trainer.estimated_stepping_batches}"]
        self._counts += len(self._columns["loss"])
        for name, column in self._columns.items():
            self._sums[name] = self._sums.get(name, 0.0) + sum(column)
            line.append(f"{name} {statistics.median(column):.4f} ({self._sums[name] / self._counts:.4f})")
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
            line.append(f"gradient {metrics['train/gradient_norm']:.2f}")
        left = remaining(
            trainer, (time.perf_counter() - self._started) / max(trainer.global_step - self._first_step, 1)
        )
        line += [
            f"lr {metrics['lr']:.6f}",
            f"{metrics['images_per_s']:.1f} images/s",
            f"data {metrics['time/data']:.3f} s",
            f"{metrics['memory_mb']:.0f} MB",
            f"eta {left}",
        ]
        self.shown = {
            "step": line[0].removeprefix("step "),
            **{name: f"{metrics[f'train/{name}']:.3f}" for name in self._columns},
            "lr": f"{metrics['lr']:.5f}",
            "images/s": f"{metrics['images_per_s']:.1f}",
            "data": f"{metrics['time/data']:.3f}s",
            "memory": f"{metrics['memory_mb']:.0f}MB",
            "eta": left,
        }
        if trainer.is_global_zero:
            log.info("  ".join(line))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        self._columns, self._step_times, self._data_times, self._images = {}, [], [], 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        module = cast(DetectionModule, pl_module)
        self._tell("val", trainer, module, time.perf_counter() - self._validation_started)
        self._validated = True

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(DetectionModule, pl_module)
        self._tell("test", trainer, module, time.perf_counter() - self._validation_started)

    def _tell(self, split: str, trainer: pl.Trainer, module: DetectionModule, seconds: float) -> None:
        values = module.metrics.scalars | module.mean_losses
        metrics = {f"{split}/{name}": value for name, value in values.items()}
        metrics |= {f"{split}/AP_class/{name}": v["AP"] for name, v in module.metrics.per_class.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": epoch(trainer)}, step=trainer.global_step)
        if trainer.is_global_zero:
            log.info("%s at step %d took %.1f s\n%s", split, trainer.global_step, seconds, as_text(module.metrics))
        self._keep_skipped(trainer, module)

    def _keep_skipped(self, trainer: pl.Trainer, module: DetectionModule) -> None:
        """List what was left out since the last time, and keep all of it in the run's folder."""
        module.skipped.gather()
        if trainer.is_global_zero:
            for line in module.skipped.news():
                log.warning("%s", line)
            try:
                module.skipped.write(module.folder)
            except OSError as error:  # it stands in the log too
                log.warning("%s", error)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Exception):  # before the traceback, and in log.txt
            log.error("stopped after step %d: %s", trainer.global_step, exception)
            vars(exception)["told"] = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._step_times:  # the run ended by time, between two rows
            self._report(trainer, cast(DetectionModule, pl_module))
        seconds = time.perf_counter() - self._started
        steps = trainer.global_step - self._first_step
        if trainer.is_global_zero:
            log.info(
                "trained %d steps in %s (%.4f s/step, validations included)",
                steps,
                clock(seconds),
                seconds / max(steps, 1),
            )
        module = cast(DetectionModule, pl_module)
        self._keep_skipped(trainer, module)
        if trainer.is_global_zero and module.skipped:
            log.warning("left out (data.on_error=skip): %s; see %s", module.skipped, module.folder / FILE)


class ProgressBar(RichProgressBar):
    """Lightning's bar over an epoch, with the figures of `Log`'s last line, which cost nothing to read."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        logs = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Log)]
        return dict(logs[0].shown) if logs else {}


def show_bar() -> bool:
    """Only where somebody looks: a bar in a file is noise."""
    return sys.stdout.isatty()


def as_text(metrics: Metrics) -> str:
    """The tables of an evaluation as they are printed."""
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(table(metrics))
    return capture.get().rstrip()


def epoch(trainer: pl.Trainer) -> int:
    """Of the last step; Lightning's own counter is one ahead in the validation that a resumed run owes."""
    return (trainer.global_step * trainer.accumulate_grad_batches - 1) // int(trainer.num_training_batches)


def memory_mb(device: torch.device) -> float:
    """Largest memory so far in 2^20 bytes: what tensors took on a device, the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def remaining(trainer: pl.Trainer, seconds_per_step: float) -> str:
    return clock(seconds_per_step * max(trainer.estimated_stepping_batches - trainer.global_step, 0))


def clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
