"""Scores a checkpoint or a results file, outside of a run."""

import json
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from boxwright.build import make_trainer
from boxwright.checkpoints.reading import load_module, read_checkpoint, source_of
from boxwright.config.errors import ConfigError, few
from boxwright.config.files import plain
from boxwright.evaluate.data import data_config
from boxwright.expected import figures_given, figures_of_checkpoint
from boxwright.runs.expected import refuse_unexpected
from datamodules.base import DetectionDataModule
from datamodules.box_forms import doubt
from evaluation.coco import to_xywh
from evaluation.expected import Compared, Figure, MeasuredOn, compare, misses
from evaluation.files import write_text
from evaluation.metrics import Metrics, evaluate, has_score, headline
from evaluation.results import read_predictions, write_predictions
from evaluation.submission import FILE, write_submission
from evaluation.truth import Predictions, Truth
from evaluation.wording import counted
from lit_modules.callbacks import report
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import Evaluated
from lit_modules.machine import choose_precision, device_name, environment
from lit_modules.skipped import Skipped
from lit_modules.training_module import TrainingModule
from reports.commands import shown, use_command
from reports.expected import expected_text
from reports.terminal import metrics_text

if TYPE_CHECKING:
    from reports.report import About

log = logging.getLogger(__name__)


def _read(file: Path, truth: Truth) -> Predictions:
    try:
        return read_predictions(file, truth)
    except ValueError as error:
        raise ConfigError(f"predictions: {error}") from error


@dataclass(frozen=True)
class Scored:
    """The scores of a results file, or of a checkpoint with its module and the trainer that ran it."""

    cfg: DictConfig
    """The config, with the data set that was scored on."""
    folder: Path
    """The output folder."""
    datamodule: DetectionDataModule
    results: Evaluated
    expected: Sequence[Compared] = ()
    """Published figures, and what was measured."""
    checkpoint: dict[str, Any] | None = None
    module: TrainingModule | None = None
    trainer: pl.Trainer | None = None

    @property
    def is_scored(self) -> bool:
        """Whether the split has anything to find."""
        return has_score(self.results.metrics.scalars)

    @property
    def main_score(self) -> float | None:
        """AP, or top-1 accuracy of a classifier; None where there is nothing to find."""
        return next(iter(self.results.metrics.scalars.values())) if self.is_scored else None


def score_results(cfg: DictConfig) -> Scored:
    """Scores a results file."""
    datamodule = instantiate(cfg.data)
    cfg = _with_split(cfg, datamodule)
    datamodule.prepare_data()
    datamodule.setup("test" if cfg.split == "test" else "validate")
    truth = datamodule.truth(cfg.split)
    predictions = _read(Path(cfg.predictions), truth)
    _announce_data(datamodule, cfg.split)
    sizes = truth.sizes[predictions.image_index]
    if found := doubt(to_xywh(predictions.boxes), sizes, "x, y, width, height", predictions.image_index):
        log.warning("%s: %s", cfg.predictions, found.text)
    results = Evaluated(evaluate(truth, predictions), truth=truth, predictions=predictions)
    return Scored(cfg, _folder(), datamodule, results, _compared(figures_given(cfg), results, cfg.split))


def score_checkpoint(cfg: DictConfig) -> Scored:
    """Runs a checkpoint's network over the split, on any number of devices, and scores what it finds."""
    checkpoint = read_checkpoint(cfg.checkpoint)
    module = load_module(checkpoint)
    stored = checkpoint["boxwright"]
    data, taken = data_config(cfg, stored["config"]["data"])
    figures = figures_of_checkpoint(cfg, stored, data)
    cfg = OmegaConf.create({**plain(cfg), "data": data})
    datamodule = instantiate(data)
    datamodule.assume_classes(stored["class_names"], stored["category_ids"])
    cfg = _with_split(cfg, datamodule)
    trainer = _trainer(cfg, stored["config"], _folder())
    _refuse_other_classes(datamodule, stored, cfg)
    _announce(source_of(checkpoint, cfg.checkpoint), checkpoint, trainer, datamodule, taken)
    _announce_data(datamodule, cfg.split)
    module.attach(_folder(), datamodule.seed)
    module.logs_itself = False
    run = trainer.test if cfg.split == "test" else trainer.validate
    run(module, datamodule, verbose=False)
    for line in module.skipped.news(report.FILE):
        log.warning("%s", line)
    expected = _compared(figures, module.last, cfg.split)
    return Scored(cfg, _folder(), datamodule, module.last, expected, checkpoint, module, trainer)


def _compared(figures: Sequence[Figure], results: Evaluated, split: str) -> list[Compared]:
    """Holds published figures against the results; on rank 0, where the truth is."""
    truth = results.truth
    return [] if truth is None else compare(figures, results.metrics.scalars, MeasuredOn.of(truth, split))


def save(scored: Scored) -> None:
    """Writes metrics.json, and of a checkpoint with boxes predictions.json; without annotations what servers take."""
    results = scored.results
    if scored.checkpoint is not None and results.truth is not None and results.predictions is not None:
        if scored.is_scored:
            write_predictions(scored.folder / FILE, results.truth, results.predictions)
        else:
            log.info("found: %s", write_submission(scored.folder, results.truth, results.predictions))
    expected = [one.content() for one in scored.expected]
    content = _content(results.metrics) | ({"expected": expected} if expected else {})
    if scored.checkpoint is not None and (address := source_of(scored.checkpoint, "")):
        content["checkpoint"] = address
    write_text(scored.folder / "metrics.json", json.dumps(content, indent=1))


def show(scored: Scored) -> None:
    """Prints the tables."""
    if not scored.is_scored:
        log.info("%s: nothing to score, since the annotations of the split have no object", scored.cfg.split)
        log.info("saved in %s", scored.folder)
        return
    log.info("%s split\n%s", scored.cfg.split, metrics_text(scored.results.metrics))
    log.info("%s: %s", scored.cfg.split, headline(scored.results.metrics.scalars))
    if scored.expected:
        log.info("%s", expected_text(scored.expected))
    log.info("saved in %s", scored.folder)


def end(scored: Scored) -> None:
    """Raises UnexpectedError where `expect.strict` asks for figures that are not reached."""
    refuse_unexpected(scored.cfg, misses(scored.expected), f"see {scored.folder / 'metrics.json'}")


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def write_report(scored: Scored) -> None:
    """Writes report.html to the output folder, unless there is nothing to hold the detections against."""
    if not scored.is_scored:
        log.info("no report, which holds boxes against annotations; predict.py draws what is found")
        return
    cfg, folder, datamodule = scored.cfg, scored.folder, scored.datamodule

    def about() -> "About":
        from reports.report import About

        file, versions = Path(cfg.checkpoint or cfg.predictions), environment()
        address = "" if scored.checkpoint is None else source_of(scored.checkpoint, "")
        config: dict[str, Any] = {} if scored.checkpoint is None else scored.checkpoint["boxwright"]["config"]
        skipped = scored.module.skipped if scored.module else Skipped()
        skipped.add_annotations(datamodule)
        settings = OmegaConf.to_yaml(cfg, resolve=True)
        if config:
            settings += "\n# of the checkpoint's run\n" + OmegaConf.to_yaml(OmegaConf.create(config))
        return About(
            name=f"{config['name']}: evaluation" if config else f"{file.name}: evaluation",
            folder=str(shown(folder)),
            state="evaluated",
            state_remark=address or file.name,
            split=cfg.split,
            step=None if scored.checkpoint is None else scored.checkpoint.get("global_step"),
            scores={} if scored.module is None else scored.results.metrics.scalars,
            weights=report.weights(config) if config else "",
            commands=[]
            if scored.checkpoint is None
            else [use_command(address or file, isinstance(scored.module, DetectionModule))],
            config=settings,
            environment=versions if scored.trainer is None else report.environment(scored.trainer, versions),
            data=datamodule.describe().splitlines(),
            skipped=skipped.content(),
            expected=scored.expected,
        )

    def image(image_id: int | str) -> np.ndarray:
        return datamodule.image(cfg.split, image_id)

    if problem := report.write(folder / report.FILE, about, lambda: scored.results.analysis, image):
        log.warning("%s", problem)
    else:
        log.info("report: %s", folder / report.FILE)


def _announce(
    file: str, checkpoint: dict[str, Any], trainer: pl.Trainer, datamodule: DetectionDataModule, taken: dict[str, Any]
) -> None:
    step, weights = checkpoint.get("global_step", "unknown"), report.weights(checkpoint["boxwright"]["config"])
    device = f"{trainer.precision} on {device_name(trainer)}"
    log.info("%s: step %s, %s; %s; %s", file, step, weights, datamodule.rule_name, device)
    if taken:
        kept = ", ".join(f"{key}={_short(value)}" for key, value in taken.items())
        log.info("data settings of the checkpoint: %s (data.KEY=VALUE changes one)", kept)


def _with_split(cfg: DictConfig, datamodule: DetectionDataModule) -> DictConfig:
    """The config with the split that is scored: what validation scores is not called a test."""
    if cfg.split != "test" or datamodule.test_list is not None:
        return cfg
    log.info("there is no list to test on (data.test_split=%s): scored is val", datamodule.test_split or "null")
    return OmegaConf.create({**plain(cfg), "split": "val"})


def _announce_data(datamodule: DetectionDataModule, split: str) -> None:
    truth = datamodule.truth(split)
    is_val = split == "val"
    name = datamodule.val_split if is_val else datamodule.test_list
    if is_val and datamodule.val_fraction is not None:
        name = f"{datamodule.val_fraction:g} of {datamodule.train_split}"
    ignored = truth.crowd | truth.difficult
    log.info(
        "%s split (%s): %s, %s of %s%s", split, name, counted(len(truth.image_ids), "image"),
        counted(np.count_nonzero(~ignored), "object"), counted(len(truth.class_names), "class", "classes"),
        f", {ignored.sum()} crowds and difficult ones, which are ignored" if ignored.any() else "",
    )  # fmt: skip


def _short(value: Any) -> str:
    return f"[{few([str(item) for item in cast('list[Any]', value)])}]" if isinstance(value, list) else str(value)


def _content(metrics: Metrics) -> dict[str, Any]:
    """Makes the content of metrics.json, with confusions where a model counts them."""
    content: dict[str, Any] = {"scalars": _valid(metrics.scalars), "per_class": _valid(metrics.per_class)}
    confusions = {
        name: {"names": list(part.matrix.names), "counts": part.counts.tolist()}
        for name, part in metrics.confusions.items()
    }
    return content | ({"confusions": confusions} if confusions else {})


def _valid(scores: Any) -> Any:
    """Replaces nan, which JSON does not have, by null."""
    if isinstance(scores, dict):
        return {name: _valid(value) for name, value in cast("dict[str, Any]", scores).items()}
    return None if math.isnan(scores) else scores


def _trainer(cfg: DictConfig, stored: dict[str, Any], folder: Path) -> pl.Trainer:
    trainer = {
        "_target_": "pytorch_lightning.Trainer",
        "accelerator": cfg.accelerator,
        "devices": cfg.devices,
        "precision": choose_precision(cfg.precision or stored["trainer"]["precision"], cfg.accelerator),
    }
    try:
        return make_trainer(OmegaConf.create({"trainer": trainer}), folder, logger=False, enable_checkpointing=False)
    except InstantiationException as error:
        raise ConfigError(f"accelerator={cfg.accelerator}, devices={cfg.devices}: {error.__cause__}") from error


def _refuse_other_classes(datamodule: DetectionDataModule, stored: dict[str, Any], cfg: DictConfig) -> None:
    datamodule.prepare_data()
    datamodule.setup("test" if cfg.split == "test" else "validate")
    ours, theirs = list(stored["class_names"]), list(datamodule.class_names)
    if ours != theirs:
        chosen = shlex.quote(f"data.classes={json.dumps(ours, ensure_ascii=False, separators=(',', ':'))}")
        raise ConfigError(
            f"{cfg.checkpoint} was trained on the {len(ours)} classes {_short(ours)}, the data set has the "
            f"{len(theirs)} classes {_short(theirs)}; give "
            + (chosen if set(ours) <= set(theirs) else "a data set that has them, or another checkpoint")
            + (f", or data.single_class={shlex.quote(ours[0])} to make one of all" if len(ours) == 1 else "")
        )
