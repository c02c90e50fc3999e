"""Writes `report.html` of a run or of an evaluation; `reports.report` draws it."""

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from evaluation.analysis import Analysis
from evaluation.expected import Compared
from evaluation.metrics import has_score
from lit_modules.callbacks.checkpoints import Checkpoints
from lit_modules.callbacks.early_stopping import stopped_early
from lit_modules.data import data_of
from lit_modules.detection_module import DetectionModule
from lit_modules.machine import device_name
from lit_modules.training_module import TrainingModule
from reports.commands import commands, shown
from reports.terminal import clock

if TYPE_CHECKING:
    from reports.report import About


log = logging.getLogger(__name__)

FILE = "report.html"
_SHARE = 50
"""A report is written again once this many times its own duration has passed: at most 2 % of a run."""
_LONGEST = 1000
"""Characters of an error's message in the report, at most."""


class Report(Callback):
    """Writes the page after validations, for at most 2 % of the time, and always at the end, however the run ends.

    Only rank 0 writes, and nothing of the run is changed: a report that fails costs a warning. A run that is resumed
    and ends before its next validation leaves the earlier page as it is.

    `pictures`: half of them the worst images, a quarter the best, a quarter at random; 0: none.
    """

    def __init__(self, pictures: int = 24) -> None:
        if pictures < 0:
            raise ValueError(f"callbacks.report.pictures={pictures}: expected 0 or more")
        self.pictures = pictures
        self._seconds = 0.0  # trained before the run was resumed
        self._started: float | None = None
        self._first_step: int | None = None
        self._due = False
        self._written, self._took = -math.inf, 0.0
        self._step: int | None = None  # of the evaluation that the page shows
        self._analysis: Analysis | None = None
        self._test: dict[str, float] = {}
        self._expected: Sequence[Compared] = ()
        self._warned: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._trained()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started, self._first_step = time.perf_counter(), trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._due, self._analysis, self._step = True, None, trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        """Writes a page that is due, now that the validation's checkpoint is saved and the best one is known."""
        if self._due and time.perf_counter() - self._written >= _SHARE * self._took:
            self._write(trainer, cast(TrainingModule, pl_module), "unfinished")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seconds, self._started = self._trained(), None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, cast(TrainingModule, pl_module), "finished")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(TrainingModule, pl_module)
        self._test = dict(module.last.metrics.scalars) if has_score(module.last.metrics.scalars) else {}
        self._write(trainer, module, "finished")

    def add_expected(self, trainer: pl.Trainer, module: TrainingModule, expected: Sequence[Compared]) -> None:
        """Writes the page of a finished run once more, with published figures beside those of its test."""
        self._expected = expected
        self._write(trainer, module, "finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        module = cast(TrainingModule, pl_module)
        has_begun = cast(Checkpoints, trainer.checkpoint_callback).folder.is_dir()
        if self._first_step is None or not has_begun or trainer.state.fn != "fit":
            return  # there is nothing to show, or it is shown already
        notes: list[str] = []
        if isinstance(exception, Exception):
            reason = type(exception).__name__
            notes.append(f"{reason}: {str(exception)[:_LONGEST]}")
        else:
            reason = "Ctrl-C" if module.signals.interrupted or isinstance(exception, KeyboardInterrupt) else "SIGTERM"
        self._write(trainer, module, "stopped", reason, notes)
        if trainer.is_global_zero and (module.folder / FILE).exists():
            log.info("report: %s", module.folder / FILE)

    def _write(
        self, trainer: pl.Trainer, module: TrainingModule, state: str, reason: str = "", notes: Sequence[str] = ()
    ) -> None:
        file = module.folder / FILE
        if not trainer.is_global_zero or (self._step is None and self._first_step and file.exists()):
            return
        begin = time.perf_counter()
        data = data_of(trainer)

        def about() -> "About":
            return self._about(trainer, module, state, reason, notes)

        def analysis() -> Analysis | None:
            if self._due:
                self._analysis = module.last.analysis
            return self._analysis

        problem = write(file, about, analysis, lambda image_id: data.image("val", image_id), self.pictures)
        if problem and problem not in self._warned:
            log.warning("%s", problem)
            self._warned.add(problem)
        self._due, self._written = False, time.perf_counter()
        self._took = self._written - begin

    def _trained(self) -> float:
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def _about(
        self, trainer: pl.Trainer, module: TrainingModule, state: str, reason: str, notes: Sequence[str]
    ) -> "About":
        from reports.report import About

        folder, config, data = module.folder, module.run["config"], data_of(trainer)
        best = cast(Checkpoints, trainer.checkpoint_callback)
        steps = int(trainer.estimated_stepping_batches)
        if state == "finished" and trainer.global_step < steps and config["trainer"]["max_time"] is not None:
            reason = "trainer.max_time"
        if state == "finished":
            reason = stopped_early(trainer) or reason
        remark = f"step {trainer.global_step:,} of {steps:,}"
        notes = list(notes)
        module.skipped.add_annotations(data)
        if self._step is not None and self._step != best.best_step and best.best_step >= 0:
            notes.append(
                f"The figures are of the last validation, at step {self._step:,}; the best was at step "
                f"{best.best_step:,}: score its checkpoint for the report of that (see Next steps)."
            )
        return About(
            name=config["name"],
            folder=str(shown(folder)),
            state=state,
            state_remark=f"{remark} ({reason})" if reason else remark,
            split="val",
            step=self._step,
            scores=module.last.metrics.scalars,
            weights=weights(config),
            best=(best.best_of, best.best_score, best.best_step) if best.best_step >= 0 else None,
            test=self._test,
            time=clock(self._trained()),
            device=device_name(trainer),
            notes=notes,
            history=history(folder / "metrics.csv"),
            commands=commands(folder, state == "finished", isinstance(trainer.lightning_module, DetectionModule)),
            config=yaml.dump(config, allow_unicode=True, sort_keys=False),
            environment=environment(trainer, module.run["versions"]),
            data=data.describe().splitlines(),
            skipped=module.skipped.content(),
            expected=self._expected,
        )


def write(
    file: Path,
    about: "Callable[[], About]",
    analysis: Callable[[], Analysis | None],
    image: Callable[[int | str], np.ndarray],
    pictures: int = 24,
) -> str:
    """Writes the page, importing matplotlib only here; returns a message if that failed, else an empty one."""
    try:
        from reports.html import write_page
        from reports.report import report

        write_page(file, report(about(), analysis(), image, pictures))
    except Exception as error:
        return f"{file} could not be written; everything else continues: {type(error).__name__}: {error}"
    return ""


def history(file: Path) -> list[dict[str, str]]:
    """Reads the rows of metrics.csv; none where the run has no such logger."""
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def weights(config: Mapping[str, Any]) -> str:
    """Names the weights that the runs of a config evaluate."""
    decay = config.get("callbacks", {}).get("averaging", {}).get("decay")
    if decay is None:
        return "weights of that step, not averaged over steps"
    return f"weights averaged over steps (decay {decay})"


def environment(trainer: pl.Trainer, versions: Mapping[str, str]) -> dict[str, str]:
    devices = f"{trainer.world_size} x {device_name(trainer)}"
    return {"devices": devices, "precision": str(trainer.precision), **versions}
