"""Saves a run's state: every so many steps, around validations, and when the run is asked to stop."""

import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from evaluation.files import copy_whole
from evaluation.monitored import STAND_INS, Monitor, Score
from lit_modules.lightning_internals import is_validation_due, is_within_step
from lit_modules.signals import give_back_interrupt
from lit_modules.training_module import TrainingModule

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Saves `checkpoints/step_N.ckpt` and points `last.ckpt` and `best.ckpt` at them.

    A file is written every `every_steps` optimizer steps and before and after each validation, never between
    accumulated micro-batches. A file saved before a validation records that the validation is owed, and a run
    that resumes there validates first: so a kill at any moment loses steps, never a validation.

    A metric that the validated split can't have (AP_large without large objects) is warned of, and AP stands in for it.
    `keep` counts the newest files beside the best one; -1 keeps all.
    """

    def __init__(
        self,
        monitor: str = "val/AP",
        mode: Literal["min", "max"] = "max",
        every_steps: int = 2500,
        keep: int = 1,
    ) -> None:
        if keep != -1 and keep < 1:
            raise ValueError(
                f"callbacks.checkpoints.keep={keep}: expected -1 for all, or 1 or more; a run resumes from the newest"
            )
        if every_steps < 1:
            raise ValueError(f"callbacks.checkpoints.every_steps={every_steps}: expected 1 or more optimizer steps")
        self.folder = Path("checkpoints")
        self.watched = Monitor(monitor, mode)
        self.monitor, self.mode, self.every_steps, self.keep = monitor, mode, every_steps, keep
        self.best_of = monitor
        """The metric that `best_score` is of: the monitored one, or what stands in for it."""
        self.best_score = math.inf if mode == "min" else -math.inf
        self.best_step = -1
        self.best_metrics: dict[str, float] = {}
        self.best_per_class: dict[str, dict[str, float]] = {}
        self._owed = False
        self._stopped = False
        self._saved_step = -1
        self._named: dict[Path, object] = {}
        self._warned = False

    @property
    def best_path(self) -> Path:
        return self.folder / "best.ckpt"

    @property
    def best_text(self) -> str:
        """Metric and score of the best checkpoint; in percent unless it is a loss; a dash where there is none."""
        return str(Score(self.best_of, self.best_score))

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "best_of": self.best_of,
            "best_score": self.best_score,
            "best_step": self.best_step,
            "best_metrics": self.best_metrics,
            "best_per_class": self.best_per_class,
            "owed": self._owed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._owed = state_dict["owed"]
        if state_dict["monitor"] == self.monitor:  # scores of another metric can't be compared
            self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
            self.best_metrics = state_dict["best_metrics"]
            self.best_of = state_dict.get("best_of", self.monitor)
            if not Score(self.best_of, self.best_score).is_known:  # of an earlier version
                metrics = {f"val/{name}": value for name, value in self.best_metrics.items()}
                self.best_of, self.best_score = self.watched.score(metrics)
            self.best_per_class = state_dict.get("best_per_class", {})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir, "checkpoints")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning skips a run whose steps or time are used up, and a validation that it still owes with it.
        if self._owed:
            self._stopped, trainer.should_stop = trainer.should_stop, False
            if trainer.max_steps > 0:
                trainer.fit_loop.epoch_loop.max_steps += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        give_back_interrupt()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse_cut_steps(trainer)
        cast(TrainingModule, pl_module).signals.take_over(trainer)
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            self.folder.mkdir(exist_ok=True)  # marks that the run has begun
            self._point_best()
        if self._owed:
            self._validate(trainer, pl_module)

    def _validate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Runs the owed validation before anything else, and undoes `on_fit_start`."""
        loop = trainer.fit_loop.epoch_loop
        if trainer.max_steps > 0:
            loop.max_steps -= 1
        loop.val_loop.restarting = False  # or it would continue where the validation before this one ended
        trainer.validating = True
        loop.val_loop.run()  # pyright: ignore[reportUnknownMemberType]
        trainer.training = True
        pl_module.train()
        trainer.should_stop = self._stopped

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_within_step(trainer):
            trainer.should_stop = False  # `trainer.max_time` is up: it will be set again when the step is whole
            return
        step = trainer.global_step
        if 0 < trainer.max_steps <= step:
            trainer.should_stop = True  # makes Lightning validate the last weights too
        self._owed = is_validation_due(trainer)
        if self._owed or step % self.every_steps == 0 or trainer.should_stop:
            self._save(trainer)
        self._stop_if_asked(trainer, cast(TrainingModule, pl_module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        signals = cast(TrainingModule, pl_module).signals
        if signals.received and trainer.world_size == 1:  # the state from before this validation is saved
            raise SystemExit(signals.exit_code)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        score = monitored(trainer)
        if not self._warned and (warning := self.watched.warning(score)):
            self._warned = True
            log.warning("%s", warning)
        if self.watched.is_better(score, Score(self.best_of, self.best_score) if self.best_step >= 0 else None):
            (self.best_of, self.best_score), self.best_step = score, trainer.global_step
            metrics = cast(TrainingModule, pl_module).last.metrics
            self.best_metrics, self.best_per_class = dict(metrics.scalars), dict(metrics.per_class)
        self._owed = False
        self._save(trainer)
        self._stop_if_asked(trainer, cast(TrainingModule, pl_module))

    def _save(self, trainer: pl.Trainer) -> None:
        try:
            self._write(trainer)
        except OSError as error:
            steps = [f"step {step}" for step, _ in saved(self.folder)] or ["the start"]
            reason = f"{error.strerror or error}; then resume={self.folder.parent} continues from {steps[-1]}"
            raise OSError(error.errno, reason) from error

    def _write(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        trainer.save_checkpoint(self.folder / f"step_{step:07d}.ckpt")
        self._saved_step = step
        if not trainer.is_global_zero:
            return
        self._point(self.folder / "last.ckpt", f"step_{step:07d}.ckpt")
        self._point_best()
        for logger in trainer.loggers:
            logger.after_save_checkpoint(cast(Any, self))
        others = [file for number, file in saved(self.folder) if number != self.best_step and number <= step]
        for file in others[: len(others) - self.keep] if self.keep >= 0 else []:
            file.unlink()

    def _point_best(self) -> None:
        target = f"step_{self.best_step:07d}.ckpt"
        if (self.folder / target).exists():
            self._point(self.best_path, target)

    def _point(self, name: Path, target: str) -> None:
        """Gives a checkpoint another name; not again to the same file, since it may take a copy."""
        found = name.with_name(target).stat()
        file = (found.st_ino, found.st_mtime_ns)
        if self._named.get(name) != file and not point(name, target) and not self._named:
            log.info("%s can't hold links: best.ckpt and last.ckpt are copies", self.folder)
        self._named[name] = file

    def _stop_if_asked(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        signals = module.signals
        if not signals.stops(trainer):
            return
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        log.info("%s: saved step %d; continue with resume=%s", signals.reason, trainer.global_step, self.folder.parent)
        # Children end quietly: the launcher kills everybody when one of them reports a failure.
        raise SystemExit(signals.exit_code if trainer.local_rank == 0 else 0)


def monitored(trainer: pl.Trainer) -> Score:
    """The number that the validation which has just ended is judged by, on every rank."""
    checkpoints, metrics = cast(Checkpoints, trainer.checkpoint_callback), trainer.callback_metrics
    if checkpoints.monitor not in metrics:
        raise ValueError(
            f"callbacks.checkpoints.monitor={checkpoints.monitor} is not among the metrics of this validation: "
            + ", ".join(sorted(metrics))
        )
    names = {checkpoints.monitor, *STAND_INS} & metrics.keys()
    return checkpoints.watched.score({name: metrics[name].item() for name in names})


def refuse_cut_steps(trainer: pl.Trainer) -> None:
    """Raises ValueError where the last step of an epoch has fewer micro-batches: it would shift later intervals."""
    batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
    if batches % accumulate:
        raise ValueError(
            f"trainer.limit_train_batches={trainer.limit_train_batches} gives {batches} micro-batches an epoch, not a "
            f"multiple of trainer.accumulate_grad_batches={accumulate}; give a multiple of it"
        )


def saved(folder: Path) -> list[tuple[int, Path]]:
    """Lists (step, file) of the checkpoints in a folder, oldest first."""
    return sorted((int(file.stem.removeprefix("step_")), file) for file in folder.glob("step_*.ckpt"))


def point(name: Path, target: str) -> bool:
    """Gives a file in the folder of `name` that name too, in place of what has it, in a single step.

    By a relative link; by a hard link or else a copy where the file system has none (exFAT, network drives, folders of
    a cloud). False for a copy.
    """
    file, part = name.with_name(target), name.with_name(f".{name.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        for link in (lambda: part.symlink_to(target), lambda: part.hardlink_to(file)):
            with suppress(OSError):  # of a kind that differs between file systems; one that matters, a copy meets too
                link()
                os.replace(part, name)
                return True
        part.unlink(missing_ok=True)
        copy_whole(file, name)
        return False
    finally:
        part.unlink(missing_ok=True)
