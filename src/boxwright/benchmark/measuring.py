"""From a config to its figures."""

import json
import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from boxwright.benchmark import command, tables
from boxwright.benchmark.clock import Limit, matrix_rate
from boxwright.benchmark.data import KEPT, first_batches, measure_data
from boxwright.benchmark.fresh import settle
from boxwright.benchmark.inference import measure_inference
from boxwright.benchmark.step import StepTimer, measure_step
from boxwright.build import check_compiler, make_datamodule
from boxwright.checkpoints.init_from import start_from
from boxwright.checkpoints.reading import load_module, read_checkpoint
from boxwright.config.errors import ConfigError
from boxwright.config.files import plain
from boxwright.frame import quieten
from boxwright.runs.folder import resolved
from boxwright.runs.scaling import scaled
from datamodules.batch import Batch
from datamodules.dataset import val_batches
from evaluation.files import write_text
from lit_modules.callbacks.compiled import Compiled
from lit_modules.flops import gflops
from lit_modules.machine import choose_precision, device_name, environment
from lit_modules.training_module import TrainingModule

log = logging.getLogger(__name__)


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Print the figures, write benchmark.json and benchmark.md to the output folder, and return them."""
    quieten()
    warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
    folder = Path(HydraConfig.get().runtime.output_dir)
    checkpoint = None if cfg.checkpoint is None else read_checkpoint(cfg.checkpoint)
    config = resolved(cfg) if checkpoint is None else command.of_checkpoint(cfg, checkpoint["boxwright"]["config"])
    config.test = False
    config.trainer.precision = choose_precision(config.trainer.precision, config.trainer.accelerator)
    config = scaled(config, quiet=True)
    pl.seed_everything(config.seed, verbose=False)
    parts, limit = list(cfg.parts), Limit(cfg.rounds, cfg.seconds)
    timer = StepTimer(cfg.warmup, limit, config.compile)
    trainer = _trainer(config, timer, folder)
    datamodule: Any = make_datamodule(config)
    datamodule.trainer = trainer  # loaders ask it for its device and its micro-batches
    module = _module(config, checkpoint, datamodule)
    module.attach(folder, datamodule.seed)
    device = trainer.strategy.root_device

    log.info("%s on %s, %s", tables.named(config), device_name(trainer), trainer.precision)
    figures: dict[str, Any] = {
        "command": list(HydraConfig.get().overrides.task),
        "versions": environment(),
        "device": device_name(trainer),
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
        "weights": cfg.checkpoint or config.init_from or "fresh",
        "trunk_weights": None if checkpoint is not None else config.model.backbone.weights,
        "network": _size(module, datamodule),
        "matrix_rate": matrix_rate(device, str(trainer.precision)),
    }
    batches: list[Batch] = []
    if "data" in parts:
        log.info("measuring the loader")
        figures["data"], batches = measure_data(datamodule, cfg.warmup, limit)
    elif "step" in parts:
        batches = first_batches(datamodule)
    if figures["weights"] == "fresh" and figures["trunk_weights"] is None:
        settle(module, batches[0] if batches else next(val_batches(datamodule, 1)), device)
    if "step" in parts:
        log.info("measuring the training step")
        figures["step"] = measure_step(module, trainer, timer, batches)
    if "inference" in parts:
        log.info("measuring inference")
        several = list(val_batches(datamodule, KEPT, single=False))
        if not several:
            raise ConfigError("none of the validation images chosen could be read; see inspect_data.py")
        ways = [several] if len(several[0].images) > 1 else []
        ways.append(list(val_batches(datamodule, 2 * KEPT)))
        figures["inference"] = [measure_inference(module, trainer, way, cfg.warmup, limit) for way in ways]
    figures = tables.with_shares(figures) | {"config": plain(config)}
    write_text(folder / "benchmark.json", json.dumps(figures, indent=1))
    write_text(folder / "benchmark.md", tables.as_markdown(figures))
    log.info("%s", tables.as_text(figures))
    log.info("saved in %s", folder)
    return figures


def _trainer(config: DictConfig, timer: StepTimer, folder: Path) -> pl.Trainer:
    """train.py's, with averaging and no other callback, no logger, no validation."""
    for problem in command.several_devices(config):  # of a checkpoint's run
        raise ConfigError(problem)
    averaging: Any = OmegaConf.select(config, "callbacks.averaging")
    callbacks: list[pl.Callback] = [Compiled()] if config.compile else []
    callbacks += [*([] if averaging is None else [instantiate(averaging)]), timer]
    timer.num_batches = KEPT
    passes = timer.most_passes(config.trainer.accumulate_grad_batches)
    try:
        trainer: pl.Trainer = instantiate(
            config.trainer,
            max_steps=max(config.trainer.max_steps, passes) if config.trainer.max_steps > 0 else -1,
            max_time=None,
            limit_train_batches=1.0,
            limit_val_batches=0,
            val_check_interval=1.0,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=str(folder),
            callbacks=callbacks,
            logger=False,
        )
    except InstantiationException as error:
        key = f"trainer.accelerator={config.trainer.accelerator}, trainer.devices={config.trainer.devices}"
        raise ConfigError(f"{key}: {error.__cause__}") from error
    for problem in command.several_devices(config, trainer.world_size):
        raise ConfigError(problem)
    if config.compile:
        check_compiler(trainer.strategy.root_device)
    return trainer


def _module(config: DictConfig, checkpoint: dict[str, Any] | None, datamodule: Any) -> TrainingModule:
    """The network that would be trained; a trunk from ImageNet is random, since its weights change no time."""
    if checkpoint is not None:
        stored = checkpoint["boxwright"]
        if list(stored["class_names"]) != list(datamodule.class_names):
            raise ConfigError(
                f"the checkpoint was trained on the classes {stored['class_names']}, the data set has "
                f"{list(datamodule.class_names)}; give its data, or init_from in place of checkpoint"
            )
        try:
            return load_module({**checkpoint, "boxwright": {**stored, "config": plain(config)}})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"the checkpoint's weights don't fit the model settings given: {reason}") from error
    if config.init_from is not None or config.model.backbone.weights == "imagenet":
        config.model.backbone.weights = None
    module: TrainingModule = instantiate(config.model)
    if config.init_from is not None:
        start_from(module, config.init_from, datamodule.class_names)
    if config.channels_last:
        module.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return module


def _size(module: TrainingModule, datamodule: Any) -> dict[str, Any]:
    """Parameters, and the operations of an image of the commonest canvas of validation."""
    loader: Any = datamodule.val_dataloader()
    canvases = Counter(cast("tuple[int, int]", key.canvas) for batch in loader.batch_sampler for key in batch)
    canvas = canvases.most_common(1)[0][0]
    parameters = [(p.numel(), p.requires_grad) for p in module.network.parameters()]
    return {
        "parameters": sum(number for number, _ in parameters),
        "trained": sum(number for number, is_trained in parameters if is_trained),
        "canvas": list(canvas),
        "gflops_per_image": gflops(module, canvas),
    }
