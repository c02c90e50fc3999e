"""Score a checkpoint or a results file, outside of a run."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from evaluation.analysis import Analysis, analyse
from evaluation.metrics import evaluate
from evaluation.results import read_predictions, write_predictions
from evaluation.truth import Predictions, Truth
from lit_modules import runs, startup
from lit_modules.base import DetectionModule
from lit_modules.callbacks import report
from lit_modules.callbacks.log import ProgressBar, as_text, show_bar
from lit_modules.checkpoints import load_module, read_checkpoint, without_augmentations
from lit_modules.settings import ConfigError
from lit_modules.skipped import Skipped

if TYPE_CHECKING:
    from evaluation.report import About

log = logging.getLogger(__name__)

_OF_THE_CHECKPOINT = ("resize", "rule", "eval_batch_size")
"""Data settings that a checkpoint was trained with and keeps, unless the command line says otherwise."""


def _read(file: Path, truth: Truth) -> Predictions:
    try:
        return read_predictions(file, truth)
    except ValueError as error:
        raise ConfigError(f"predictions: {error}") from error


def score(cfg: DictConfig) -> float:
    """Print the tables, write metrics.json, predictions.json and report.html to the output folder, return AP."""
    startup.quieten()
    folder = Path(HydraConfig.get().runtime.output_dir)
    if (cfg.checkpoint is None) == (cfg.predictions is None):
        raise ConfigError("give either checkpoint=FILE.ckpt or predictions=FILE.json")
    if cfg.split not in ("val", "test"):
        raise ConfigError(f"split={cfg.split}: expected val or test")
    if cfg.predictions is not None:
        if cfg.get("data") is None:
            raise ConfigError("predictions=FILE.json needs a data set: data=coco data.root=FOLDER")
        if not Path(cfg.predictions).is_file():
            raise ConfigError(f"predictions={cfg.predictions}: {Path(cfg.predictions).resolve()} does not exist")
        datamodule = instantiate(cfg.data)
        datamodule.prepare_data()
        datamodule.setup("test" if cfg.split == "test" else "validate")
        truth = datamodule.truth(cfg.split)
        predictions = _read(Path(cfg.predictions), truth)
        metrics = evaluate(truth, predictions)
        text = as_text(metrics)
        scored = _Scored(lambda: analyse(truth, predictions, metrics))
    else:
        checkpoint = read_checkpoint(cfg.checkpoint)
        module = load_module(checkpoint)
        stored = checkpoint["boxwright"]
        datamodule = instantiate(_data_config(cfg, stored["config"]["data"]))
        trainer = _trainer(cfg, stored["config"], folder)
        _refuse_other_classes(datamodule, stored, cfg)
        run = trainer.test if cfg.split == "test" else trainer.validate
        run(module, datamodule, verbose=False)
        metrics, text = module.metrics, as_text(module.metrics)
        scored = _Scored(lambda: module.analysis, checkpoint, module, trainer)
        for line in module.skipped.news():
            log.warning("%s", line)
        if module.truth is not None and module.predictions is not None:
            write_predictions(folder / "predictions.json", module.truth, module.predictions)
    if runs.is_rank_zero():
        runs.write(
            folder / "metrics.json",
            json.dumps({"scalars": metrics.scalars, "per_class": metrics.per_class}, indent=1),
        )
        log.info("%s split\n%s", cfg.split, text)
        log.info("%s: %s", cfg.split, "  ".join(f"{k} {v:.4f}" for k, v in metrics.scalars.items() if v >= 0))
        log.info("saved in %s", folder)
        _report(cfg, folder, datamodule, scored)
    return metrics.scalars["AP"]


@dataclass(frozen=True)
class _Scored:
    """What a report is about: a results file, or a checkpoint with its module and the trainer that ran it."""

    analysis: Callable[[], Analysis | None]
    checkpoint: dict[str, Any] | None = None
    module: DetectionModule | None = None
    trainer: pl.Trainer | None = None


def _report(cfg: DictConfig, folder: Path, datamodule: Any, scored: _Scored) -> None:
    """report.html in the output folder."""

    def about() -> "About":
        from evaluation.report import About

        file, versions = Path(cfg.checkpoint or cfg.predictions), startup.environment()
        config: dict[str, Any] = {} if scored.checkpoint is None else scored.checkpoint["boxwright"]["config"]
        settings = OmegaConf.to_yaml(cfg, resolve=True)
        if config:
            settings += "\n# of the checkpoint's run\n" + OmegaConf.to_yaml(OmegaConf.create(config))
        return About(
            name=f"{config['name']}: evaluation" if config else f"{file.name}: evaluation",
            folder=str(report.shown(folder)),
            state="evaluated",
            state_remark=file.name,
            split=cfg.split,
            step=None if scored.checkpoint is None else scored.checkpoint["global_step"],
            weights=report.weights(config) if config else "",
            commands=[] if scored.checkpoint is None else [report.detect_command(file)],
            config=settings,
            environment=versions if scored.trainer is None else report.environment(scored.trainer, versions),
            data=datamodule.describe().splitlines(),
            skipped=report.left_out(scored.module.skipped if scored.module else Skipped(), datamodule),
        )

    def image(image_id: int | str) -> np.ndarray:
        return datamodule.image(cfg.split, image_id)

    if problem := report.write(folder / report.FILE, about, scored.analysis, image):
        log.warning("%s", problem)
    else:
        log.info("report: %s", folder / report.FILE)


def _data_config(cfg: DictConfig, stored: dict[str, Any]) -> DictConfig:
    """The data set asked for, sized as the checkpoint was trained; the checkpoint's own where none is asked for."""
    if cfg.get("data") is None:
        return OmegaConf.create(without_augmentations(stored))
    told = {override.split("=")[0].lstrip("+") for override in HydraConfig.get().overrides.task}
    data = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg.data, resolve=True)))
    for key in _OF_THE_CHECKPOINT:
        if f"data.{key}" not in told and data.get(key) != stored[key]:
            log.info("data.%s=%s, as the checkpoint was trained", key, stored[key])
            data[key] = stored[key]
    return data


def _trainer(cfg: DictConfig, stored: dict[str, Any], folder: Path) -> pl.Trainer:
    precision = startup.choose_precision(cfg.precision or stored["trainer"]["precision"], cfg.accelerator)
    bar = show_bar()
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


def _refuse_other_classes(datamodule: Any, stored: dict[str, Any], cfg: DictConfig) -> None:
    datamodule.prepare_data()
    datamodule.setup("test" if cfg.split == "test" else "validate")
    ours, theirs = list(stored["class_names"]), list(datamodule.class_names)
    if ours != theirs:
        raise ConfigError(
            f"{cfg.checkpoint} was trained on the {len(ours)} classes {ours}, the data set has the {len(theirs)} "
            f"classes {theirs}; give data.classes={json.dumps(ours, separators=(',', ':'))} or another checkpoint"
        )
