"""Builds the objects of a config: data module, module, Trainer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from boxwright.checkpoints.init_from import start_from
from boxwright.checkpoints.reading import AtomicCheckpointIO, refuse_unresumable
from boxwright.config.errors import ConfigError
from boxwright.config.files import plain
from boxwright.ranks import Ranks
from boxwright.runs.folder import Run, given_overrides, step_of
from boxwright.zoo.address import address_of, is_address
from boxwright.zoo.download import local_file
from boxwright.zoo.names import trunk
from datamodules.base import DetectionDataModule
from detectors.backbones.norms import has_frozen_norms
from lit_modules.callbacks.compiled import Compiled, compile_options, signals_wait
from lit_modules.callbacks.freezing import find_parts
from lit_modules.callbacks.log import ProgressBar
from lit_modules.machine import environment
from lit_modules.optimizers import layers_above
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
    refuse_parts(module, cfg)
    started: str | None = None
    if run.checkpoint is not None:
        started = refuse_unresumable(run.checkpoint, module)
    elif init_from is not None:
        started = start_from(module, init_from, datamodule.class_names, dict(cfg.get("init_classes") or {}))
    if init_from is None and cfg.model.backbone.get("weights") is None and (frozen := frozen_by(module, cfg)):
        log.warning(
            "random weights are frozen (model.backbone.weights=null with %s); to train from random ones set %s",
            ", ".join(frozen), " ".join(frozen.values()),
        )  # fmt: skip
    module.lay_out(cfg.channels_last)
    told = {"format": FORMAT, "config": plain(run.config), "versions": environment(), "started_from": started}
    module.attach(run.folder, datamodule.seed, {key: value for key, value in told.items() if value is not None})
    return module


def refuse_parts(module: TrainingModule, cfg: DictConfig) -> None:
    """Raises ConfigError for parts to freeze, and for rates by layer, that the network does not have."""
    try:
        find_parts(module.network, OmegaConf.select(cfg, "callbacks.freezing.parts") or ())
        if (OmegaConf.select(cfg, "optimizer.backbone_layer_decay") or 1) < 1:
            layers_above(module.network)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def frozen_by(module: TrainingModule, cfg: DictConfig) -> dict[str, str]:
    """The settings that freeze something of the backbone, each with the one that does not."""
    settings, backbone = cfg.model.backbone, getattr(module.network, "backbone", module.network)
    found: dict[str, str] = {}
    if settings.get("frozen_stages"):
        found[f"frozen_stages={settings.frozen_stages}"] = "model.backbone.frozen_stages=0"
    if settings.get("norm") == "frozen_bn" and has_frozen_norms(backbone):
        found["norm=frozen_bn"] = "model.backbone.norm=bn"
    parts: Sequence[str] = OmegaConf.select(cfg, "callbacks.freezing.parts") or ()
    if any(part.partition(".")[0] == "backbone" for part in parts):
        found[f"callbacks.freezing.parts={list(parts)}"] = "callbacks.freezing.parts=[]"
    return found


def with_trunk(model: DictConfig) -> DictConfig | dict[str, Any]:
    """The model's config with the file of a published trunk, or of an address on the Hub, in place of its name;
    ConfigError where the backbone's settings are not those of the trunk."""
    weights = model.get("backbone", {}).get("weights")
    if is_address(weights):
        return _with_weights(model, _hub_file(weights))
    named = trunk(weights)
    if named is None:
        return model
    for line in named.network:
        key, _, value = line.partition("=")
        if not key.startswith("model.backbone."):
            continue
        chosen = model.backbone.get(key.rpartition(".")[2])
        is_number = isinstance(chosen, int | float) and not isinstance(chosen, bool)
        if (float(value) != chosen) if is_number else (value != str(chosen).lower()):
            raise ConfigError(f"{key}={chosen}: model.backbone.weights={named.name} needs {line}")
    return _with_weights(model, local_file(named, _WEIGHTS))


_WEIGHTS = "model.backbone.weights"


def _hub_file(address: str) -> Path:
    """The file of a backbone's weights that lie on the Hub; logs which commit was read."""
    from boxwright.zoo.hub import local_copy

    copy = local_copy(address_of(address, _WEIGHTS), _WEIGHTS)
    log.info("%s=%s: commit %s", _WEIGHTS, address, copy.address.revision)
    return copy.file


def _with_weights(model: DictConfig, file: Path) -> dict[str, Any]:
    config = plain(model)
    config["backbone"]["weights"] = str(file)
    return config


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
