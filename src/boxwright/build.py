"""Builds the objects of a config: data module, module, Trainer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from boxwright.checkpoints.init_from import start_from
from boxwright.checkpoints.reading import AtomicCheckpointIO, refuse_unresumable
from boxwright.config.errors import ConfigError
from boxwright.config.files import plain
from boxwright.ranks import Ranks
from boxwright.runs.folder import Run, given_overrides, step_of
from boxwright.zoo.download import local_file
from boxwright.zoo.names import trunk
from datamodules.base import DetectionDataModule
from lit_modules.callbacks.compiled import Compiled, compile_options, signals_wait
from lit_modules.callbacks.log import ProgressBar
from lit_modules.machine import environment
from lit_modules.stored import FORMAT, without_weights
from lit_modules.training_module import TrainingModule
from reports.terminal import show_bar

log = logging.getLogger(__name__)


def check_compiler(device: torch.device) -> None:
    """Raises ConfigError where torch.compile finds no compiler: at the first step that would be a page of traceback."""
    try:
        with signals_wait():
            torch.compile(_next, dynamic=False, options=compile_options())(torch.ones(8, device=device))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        raise ConfigError(
            f"compile=true: torch.compile does not work for {device.type} here ({reason}); it needs a C++ compiler, "
            "and Triton on a GPU; leave out compile=true to train without it"
        ) from error


def _next(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def make_datamodule(cfg: DictConfig) -> DetectionDataModule:
    """Builds and opens the data module: mistakes in the data are found before weights are loaded and loggers start."""
    datamodule: DetectionDataModule = instantiate(cfg.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    if cfg.test:
        datamodule.setup("test")
    return datamodule


def make_module(cfg: DictConfig, run: Run, datamodule: DetectionDataModule) -> TrainingModule:
    """Builds the module, attached to its run, whose config and versions its checkpoints store."""
    init_from = cfg.get("init_from")  # which runs of an earlier version lack
    replaced = init_from is not None or run.checkpoint is not None
    module: TrainingModule = instantiate(without_weights(plain(cfg.model)) if replaced else with_trunk(cfg.model))
    if run.checkpoint is not None:
        refuse_unresumable(run.checkpoint, module)
    elif init_from is not None:
        start_from(module, init_from, datamodule.class_names)
    backbone = cfg.model.backbone
    frozen = backbone.get("frozen_stages") or backbone.get("norm") == "frozen_bn"
    if init_from is None and backbone.get("weights") is None and frozen:
        log.warning(
            "random weights are frozen (model.backbone.weights=null with frozen_stages=%s, norm=%s); to train from "
            "random ones set model.backbone.frozen_stages=0 model.backbone.norm=bn",
            backbone.get("frozen_stages"), backbone.get("norm"),
        )  # fmt: skip
    module.lay_out(cfg.channels_last)
    versions = environment()
    module.attach(run.folder, datamodule.seed, {"format": FORMAT, "config": plain(run.config), "versions": versions})
    return module


def with_trunk(model: DictConfig) -> DictConfig | dict[str, Any]:
    """The model's config with the file of a published trunk in place of its name; ConfigError where the backbone's
    settings are not those of the trunk."""
    named = trunk(model.get("backbone", {}).get("weights"))
    if named is None:
        return model
    for line in named.network:
        key, _, value = line.partition("=")
        if key.startswith("model.backbone.") and str(model.backbone.get(key.rpartition(".")[2])).lower() != _as_text(
            value
        ):
            raise ConfigError(
                f"{key}={model.backbone.get(key.rpartition('.')[2])}: model.backbone.weights={named.name} needs {line}"
            )
    config = plain(model)
    config["backbone"]["weights"] = str(local_file(named, "model.backbone.weights"))
    return config


def _as_text(value: str) -> str:
    return str(float(value)) if value[0].isdigit() else value


def make_trainer(cfg: DictConfig, folder: Path, callbacks: Sequence[pl.Callback] = (), **changes: Any) -> pl.Trainer:
    """Builds Lightning's Trainer from `cfg.trainer` and the settings that exact resuming needs; `changes` go first.

    With `compile=true` the network is compiled, and a compiler that does not work is a ConfigError.
    """
    is_compiled = cfg.get("compile", False)  # which runs of an earlier version lack
    bar = cfg.trainer.get("enable_progress_bar", True) and changes.pop("enable_progress_bar", True) and show_bar()
    settings: dict[str, Any] = {
        "enable_progress_bar": bar,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(folder),
        "plugins": [AtomicCheckpointIO()],
        "callbacks": [*([Compiled()] if is_compiled else []), *callbacks, *([ProgressBar()] if bar else [])],
    }
    trainer: pl.Trainer = instantiate(cfg.trainer, **settings | changes)
    if is_compiled:
        check_compiler(trainer.strategy.root_device)
    return trainer


def make_run_trainer(cfg: DictConfig, run: Run) -> pl.Trainer:
    """Builds a run's Trainer with callbacks and loggers; see TrainingModule, Checkpoints and datamodules.sampler."""
    interval, accumulate = cfg.trainer.val_check_interval, cfg.trainer.accumulate_grad_batches
    callbacks = [Ranks(run.folder), *instantiate(cfg.callbacks).values()]
    loggers: list[Any] = [instantiate(node, folder=str(run.folder)) for node in cfg.logger.values()]
    try:
        trainer = make_trainer(
            cfg,
            run.folder,
            callbacks,
            val_check_interval=1.0 if interval is None else interval * accumulate,
            check_val_every_n_epoch=1 if interval is None else None,
            logger=loggers,
        )
    except InstantiationException as error:  # Lightning's own, without a key
        machine = ", ".join(f"trainer.{key}={cfg.trainer.get(key)}" for key in ("accelerator", "devices", "strategy"))
        remedy = "trainer.accelerator=auto trainer.devices=auto trainer.strategy=auto take what there is"
        raise ConfigError(f"{machine}: {str(error.__cause__ or error).rstrip('.!')}; {remedy}") from error
    step = step_of(run.checkpoint) if run.checkpoint else 0
    for logger in loggers:  # only now: what Lightning refuses must not become a run in a dashboard
        if hasattr(logger, "drop_after"):
            logger.drop_after(step)
        logger.log_hyperparams({**plain(run.config), "overrides": given_overrides(run.folder)})
    return trainer
