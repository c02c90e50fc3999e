"""Score a checkpoint or a results file, outside of a run."""

import json
import logging
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from evaluation.metrics import evaluate
from evaluation.results import read_predictions, write_predictions
from lit_modules import runs, startup
from lit_modules.callbacks.log import ProgressBar, as_text, show_bar
from lit_modules.checkpoints import load_module, read_checkpoint
from lit_modules.settings import ConfigError

log = logging.getLogger(__name__)

_OF_THE_CHECKPOINT = ("resize", "rule", "eval_batch_size")
"""Data settings that a checkpoint was trained with and keeps, unless the command line says otherwise."""


def score(cfg: DictConfig) -> float:
    """Print the tables, write metrics.json and predictions.json to the output folder, return AP."""
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
        metrics = evaluate(truth, read_predictions(Path(cfg.predictions), truth))
        text = as_text(metrics)
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
    return metrics.scalars["AP"]


def _data_config(cfg: DictConfig, stored: dict[str, Any]) -> DictConfig:
    """The data set asked for, sized as the checkpoint was trained; the checkpoint's own where none is asked for."""
    if cfg.get("data") is None:
        return OmegaConf.create(stored)
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
