"""Score a checkpoint or a results file, outside of a run."""

import json
import logging
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from boxwright.checkpoints.reading import load_module, read_checkpoint
from boxwright.config.errors import ConfigError, few
from boxwright.config.files import plain
from boxwright.evaluate.data import data_config
from boxwright.frame import quieten
from boxwright.runs.log import is_rank_zero
from evaluation.analysis import Analysis, analyse
from evaluation.files import write_text
from evaluation.metrics import Metrics, evaluate, headline
from evaluation.results import read_predictions, write_predictions
from evaluation.truth import Predictions, Truth
from lit_modules.callbacks import report
from lit_modules.callbacks.log import ProgressBar
from lit_modules.detection_module import DetectionModule
from lit_modules.machine import choose_precision, device_name, environment
from lit_modules.skipped import Skipped
from lit_modules.training_module import TrainingModule
from reports.commands import shown, use_command
from reports.terminal import metrics_text, show_bar

if TYPE_CHECKING:
    from reports.report import About

log = logging.getLogger(__name__)


def _read(file: Path, truth: Truth) -> Predictions:
    try:
        return read_predictions(file, truth)
    except ValueError as error:
        raise ConfigError(f"predictions: {error}") from error


def score(cfg: DictConfig) -> float:
    """Print the tables, write metrics.json, predictions.json and report.html to the output folder; AP or top-1."""
    quieten()
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.predictions is not None:
        datamodule = instantiate(cfg.data)
        datamodule.prepare_data()
        datamodule.setup("test" if cfg.split == "test" else "validate")
        truth = datamodule.truth(cfg.split)
        predictions = _read(Path(cfg.predictions), truth)
        _tell_data(datamodule, cfg.split)
        metrics = evaluate(truth, predictions)
        text = metrics_text(metrics)
        scored = _Scored(lambda: analyse(truth, predictions, metrics))
    else:
        checkpoint = read_checkpoint(cfg.checkpoint)
        module = load_module(checkpoint)
        stored = checkpoint["boxwright"]
        data, taken = data_config(cfg, stored["config"]["data"])
        cfg = OmegaConf.create({**plain(cfg), "data": data})
        datamodule = instantiate(data)
        trainer = _trainer(cfg, stored["config"], folder)
        _refuse_other_classes(datamodule, stored, cfg)
        _announce(cfg.checkpoint, checkpoint, trainer, datamodule, taken)
        _tell_data(datamodule, cfg.split)
        module.attach(folder, datamodule.seed)
        run = trainer.test if cfg.split == "test" else trainer.validate
        run(module, datamodule, verbose=False)
        last = module.last
        metrics, text = last.metrics, metrics_text(last.metrics)
        scored = _Scored(lambda: last.analysis, checkpoint, module, trainer)
        for line in module.skipped.news():
            log.warning("%s", line)
        if last.truth is not None and last.predictions is not None:
            write_predictions(folder / "predictions.json", last.truth, last.predictions)
    if is_rank_zero():
        write_text(folder / "metrics.json", json.dumps(_content(metrics), indent=1))
        log.info("%s split\n%s", cfg.split, text)
        log.info("%s: %s", cfg.split, headline(metrics.scalars))
        log.info("saved in %s", folder)
        _report(cfg, folder, datamodule, scored)
    return next(iter(metrics.scalars.values()))


@dataclass(frozen=True)
class _Scored:
    """What a report is about: a results file, or a checkpoint with its module and the trainer that ran it."""

    analysis: Callable[[], Analysis | None]
    checkpoint: dict[str, Any] | None = None
    module: TrainingModule | None = None
    trainer: pl.Trainer | None = None


def _report(cfg: DictConfig, folder: Path, datamodule: Any, scored: _Scored) -> None:
    """report.html in the output folder."""

    def about() -> "About":
        from reports.report import About

        file, versions = Path(cfg.checkpoint or cfg.predictions), environment()
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
            state_remark=file.name,
            split=cfg.split,
            step=None if scored.checkpoint is None else scored.checkpoint.get("global_step"),
            scores={} if scored.module is None else scored.module.last.metrics.scalars,
            weights=report.weights(config) if config else "",
            commands=[]
            if scored.checkpoint is None
            else [use_command(file, isinstance(scored.module, DetectionModule))],
            config=settings,
            environment=versions if scored.trainer is None else report.environment(scored.trainer, versions),
            data=datamodule.describe().splitlines(),
            skipped=skipped.content(),
        )

    def image(image_id: int | str) -> np.ndarray:
        return datamodule.image(cfg.split, image_id)

    if problem := report.write(folder / report.FILE, about, scored.analysis, image):
        log.warning("%s", problem)
    else:
        log.info("report: %s", folder / report.FILE)


def _announce(
    file: str, checkpoint: dict[str, Any], trainer: pl.Trainer, datamodule: Any, taken: dict[str, Any]
) -> None:
    step, weights = checkpoint.get("global_step", "unknown"), report.weights(checkpoint["boxwright"]["config"])
    device = f"{trainer.precision} on {device_name(trainer)}"
    log.info("%s: step %s, %s; %s; %s", file, step, weights, datamodule.rule_name, device)
    if taken:
        told = ", ".join(f"{key}={_short(value)}" for key, value in taken.items())
        log.info("data settings of the checkpoint: %s (data.KEY=VALUE changes one)", told)


def _tell_data(datamodule: Any, split: str) -> None:
    truth: Truth = datamodule.truth(split)
    is_val = split == "val" or datamodule.test_is_val
    name = datamodule.val_split if is_val else datamodule.test_split
    if is_val and datamodule.val_fraction is not None:
        name = f"{datamodule.val_fraction:g} of {datamodule.train_split}"
    ignored = truth.crowd | truth.difficult
    log.info(
        "%s split (%s): %d images, %d objects of %d classes%s", split, name, len(truth.image_ids), (~ignored).sum(),
        len(truth.class_names),
        f", {ignored.sum()} crowds and difficult ones, which count neither way" if ignored.any() else "",
    )  # fmt: skip


def _short(value: Any) -> str:
    return f"[{few([str(item) for item in cast('list[Any]', value)])}]" if isinstance(value, list) else str(value)


def _content(metrics: Metrics) -> dict[str, Any]:
    """Of metrics.json; confusions where a model counts them."""
    content: dict[str, Any] = {"scalars": _valid(metrics.scalars), "per_class": _valid(metrics.per_class)}
    confusions = {
        name: {"names": list(part.matrix.names), "counts": part.counts.tolist()}
        for name, part in metrics.confusions.items()
    }
    return content | ({"confusions": confusions} if confusions else {})


def _valid(scores: Any) -> Any:
    """With null for nan, which JSON does not know."""
    if isinstance(scores, dict):
        return {name: _valid(value) for name, value in cast("dict[str, Any]", scores).items()}
    return None if math.isnan(scores) else scores


def _trainer(cfg: DictConfig, stored: dict[str, Any], folder: Path) -> pl.Trainer:
    precision = choose_precision(cfg.precision or stored["trainer"]["precision"], cfg.accelerator)
    bar = show_bar()
    try:
        return pl.Trainer(
            accelerator=cfg.accelerator,
            devices=cfg.devices,
            precision=precision,  # pyright: ignore[reportArgumentType]
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=[ProgressBar()] if bar else [],
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"accelerator={cfg.accelerator}, devices={cfg.devices}: {error}") from error


def _refuse_other_classes(datamodule: Any, stored: dict[str, Any], cfg: DictConfig) -> None:
    datamodule.prepare_data()
    datamodule.setup("test" if cfg.split == "test" else "validate")
    ours, theirs = list(stored["class_names"]), list(datamodule.class_names)
    if ours != theirs:
        chosen = shlex.quote(f"data.classes={json.dumps(ours, ensure_ascii=False, separators=(',', ':'))}")
        raise ConfigError(
            f"{cfg.checkpoint} was trained on the {len(ours)} classes {_short(ours)}, the data set has the "
            f"{len(theirs)} classes {_short(theirs)}; give "
            + (chosen if set(ours) <= set(theirs) else "a data set that has them, or another checkpoint")
        )
