"""Draws validation images with their boxes for the run's folder and dashboards, with tables and curves."""

import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from evaluation.analysis import Analysis, analyse, sample
from evaluation.truth import Predictions
from lit_modules.data import DataModule, data_of
from lit_modules.detection_module import DetectionModule
from lit_modules.training_module import TrainingModule
from reports.validation_pictures import Picture, as_jpeg, caption, drawn, file_stem, resized

log = logging.getLogger(__name__)


class Pictures(Callback):
    """Writes `pictures/step_N/` and a dashboard's `pictures/` and `analysis/` after every N validations and the last.

    A logger with a method `log_validation(analysis, pictures, step)` gets them, and one with `log_pictures` of the same
    arguments gets those between validations: W&B's and TensorBoard's, or your own.

    They show the same images each time, and those with the lowest AP; with `every_steps` the same images are drawn
    between validations, too. Only rank 0 draws. A failure here costs a warning, never the run.

    `num_fixed` and `num_worst` 0: no pictures; `keep` counts the newest folders, -1 keeps all.
    """

    def __init__(
        self, num_fixed: int = 8, num_worst: int = 4, every: int = 1, every_steps: int | None = None, keep: int = 3
    ) -> None:
        counts = (("num_fixed", num_fixed, 0), ("num_worst", num_worst, 0), ("every", every, 1))
        for name, value, least in (*counts, ("every_steps", every_steps, 1)):
            if value is not None and value < least:
                raise ValueError(f"callbacks.pictures.{name}={value}: expected {least} or more")
        if keep != -1 and keep < 1:
            raise ValueError(f"callbacks.pictures.keep={keep}: expected -1 for all, or 1 or more")
        self.folder = Path("pictures")
        self.num_fixed, self.num_worst, self.every, self.keep = num_fixed, num_worst, every, keep
        self.every_steps = every_steps
        self._validations = 0
        self._step = 0
        self._warned: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir, "pictures")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops pictures of a resumed run that came after its checkpoint; they will be made again."""
        if trainer.is_global_zero:
            for folder in step_folders(self.folder):
                if step_of(folder) > trainer.global_step:
                    shutil.rmtree(folder, ignore_errors=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        self._validations += 1
        last = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        dashboards = [logger for logger in cast("list[Any]", trainer.loggers) if hasattr(logger, "log_validation")]
        if ((self._validations - 1) % self.every and not last) or not (self.num_fixed or self.num_worst or dashboards):
            return
        with self._forgiven("pictures and tables of validation images"):
            analysis = cast(TrainingModule, pl_module).last.analysis
            if analysis is None:  # there are no boxes to draw
                return
            rows = {"fixed": analysis.sample(self.num_fixed), "worst": analysis.worst(self.num_worst)}
            shown = self._choose(data_of(trainer), analysis, rows)
            with self._forgiven("pictures in the run's folder"):
                self._write(trainer.global_step, analysis, shown)
            for dashboard in dashboards:
                dashboard.log_validation(analysis, shown, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws with the weights of the step, also where their average is validated."""
        step, module = trainer.global_step, cast(TrainingModule, pl_module)
        if not (self.every_steps and self.num_fixed and trainer.is_global_zero and isinstance(module, DetectionModule)):
            return
        if step == self._step or step % self.every_steps:  # the former between accumulated micro-batches
            return
        self._step = step
        with self._forgiven("pictures between validations"):
            datamodule = data_of(trainer)
            analysis = found_on_few(module, trainer, datamodule, self.num_fixed)
            rows = list(range(len(analysis.truth.image_ids)))
            shown = self._choose(datamodule, analysis, {"fixed": rows, "worst": []})
            self._write(step, analysis, shown)
            for logger in cast("list[Any]", trainer.loggers):
                if hasattr(logger, "log_pictures"):
                    logger.log_pictures(analysis, shown, step)

    @contextmanager
    def _forgiven(self, what: str) -> Generator[None]:
        try:
            yield
        except Exception as error:
            if what not in self._warned:
                log.warning("%s: %s: %s; the run continues without them", what, type(error).__name__, error)
            self._warned.add(what)

    def _choose(
        self, datamodule: DataModule, analysis: Analysis, rows: Mapping[str, list[int]]
    ) -> dict[str, list["Picture"]]:
        """Reads the `fixed` images and the `worst`, without those that can't be read."""
        pictures: dict[int, Picture] = {}
        for row in dict.fromkeys(rows["fixed"] + rows["worst"]):
            image_id = analysis.truth.image_ids[row].item()
            with self._forgiven(f"picture of image {image_id}"):
                image = resized(datamodule.image("val", image_id))
                pictures[row] = Picture(row, file_stem(image_id), caption(analysis, row), image)
        return {role: [pictures[row] for row in chosen if row in pictures] for role, chosen in rows.items()}

    def _write(self, step: int, analysis: Analysis, shown: Mapping[str, list["Picture"]]) -> None:
        files = {f"{picture.stem}.jpg": picture for picture in shown["fixed"]}
        files |= {f"worst_{n}_{picture.stem}.jpg": picture for n, picture in enumerate(shown["worst"], 1)}
        if files:
            write_folder(
                self.folder / f"step_{step:07d}", {name: drawn(analysis, picture) for name, picture in files.items()}
            )
        if self.keep >= 0:
            for old in step_folders(self.folder)[: -self.keep]:
                shutil.rmtree(old)


@torch.no_grad()
def found_on_few(module: DetectionModule, trainer: pl.Trainer, datamodule: DataModule, count: int) -> Analysis:
    """Analyses the fixed images in the middle of training, which it leaves as it was."""
    truth = datamodule.truth("val")
    places = sample(len(truth.image_ids), count)
    modes = [(part, part.training) for part in module.modules()]
    precision = cast(Any, trainer).precision_plugin
    module.eval()
    try:
        entries: list[Any] = []
        with precision.forward_context():
            for batch in datamodule.single_images("val", places):
                moved = batch.to(module.device)
                entries += module.evaluate_batch(module.forward_batch(moved), moved)
        seen = {entry.image_id for entry in entries}
        truth = truth.only(np.array([image_id in seen for image_id in truth.image_ids.tolist()], bool))
        metrics, predictions = module.score(truth, entries)
        return analyse(truth, cast(Predictions, predictions), metrics)
    finally:
        for part, training in modes:
            part.training = training


def write_folder(folder: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Writes JPEGs, which replace an older folder once all are written."""
    part = folder.with_name(f".{folder.name}.part")
    for left in folder.parent.glob(".step_*.part"):
        shutil.rmtree(left)
    part.mkdir(parents=True)
    try:
        for name, image in pictures.items():
            with (part / name).open("wb") as file:
                file.write(as_jpeg(image))
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def step_folders(folder: Path) -> list[Path]:
    """Lists the folders of steps, oldest first."""
    return sorted((path for path in folder.glob("step_*") if path.name[5:].isdecimal()), key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))
