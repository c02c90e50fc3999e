"""Builds what is measured, measures its parts, and saves the figures."""

import json
import logging
import warnings
from collections import Counter
from dataclasses import dataclass
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
from boxwright.benchmark.fresh import set_frozen_norms
from boxwright.benchmark.inference import measure_inference
from boxwright.benchmark.step import StepTimer, measure_step
from boxwright.build import make_datamodule, make_trainer, with_trunk
from boxwright.checkpoints.init_from import start_from
from boxwright.checkpoints.reading import load_module, read_checkpoint, source_of
from boxwright.checkpoints.trust import refuse_foreign_run
from boxwright.config.errors import ConfigError
from boxwright.config.files import plain
from boxwright.runs.folder import resolved
from boxwright.runs.scaling import scaled
from datamodules.base import DetectionDataModule
from datamodules.batch import Batch
from datamodules.dataset import spaced_batches
from evaluation.files import write_text
from lit_modules.flops import gflops
from lit_modules.machine import choose_precision, device_name, environment
from lit_modules.training_module import TrainingModule

log = logging.getLogger(__name__)


@dataclass
class Bench:
    """The objects of a training run that is measured, without loggers and validations."""

    cfg: DictConfig
    """The config of benchmark.py."""
    config: DictConfig
    """The config of the run that would train, scaled."""
    folder: Path
    timer: StepTimer
    trainer: pl.Trainer
    datamodule: DetectionDataModule
    module: TrainingModule
    weights: str
    """What the weights were read from, or fresh; of the Hub with the commit."""
    batches: list[Batch]
    """The batches on which the step is measured."""

    @property
    def limit(self) -> Limit:
        return Limit(self.cfg.rounds, self.cfg.seconds)


def set_up(cfg: DictConfig) -> Bench:
    """Builds the objects of a training run, or of a checkpoint's run."""
    warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
    folder = Path(HydraConfig.get().runtime.output_dir)
    checkpoint = None if cfg.checkpoint is None else _read(cfg.checkpoint)
    config = resolved(cfg) if checkpoint is None else command.of_checkpoint(cfg, checkpoint["boxwright"]["config"])
    config.test = False
    config.trainer.precision = choose_precision(config.trainer.precision, config.trainer.accelerator)
    config = scaled(config, quiet=True)
    pl.seed_everything(config.seed, verbose=False)
    timer = StepTimer(cfg.warmup, Limit(cfg.rounds, cfg.seconds), config.compile)
    trainer = _trainer(config, timer, folder)
    datamodule = make_datamodule(config)
    datamodule.trainer = trainer  # loaders ask it for its device and its micro-batches
    module, weights = _module(config, cfg.checkpoint, checkpoint, datamodule)
    module.attach(folder, datamodule.seed)
    module.logs_itself = False  # nor does it in train.py
    log.info("%s on %s, %s", tables.named(config), device_name(trainer), trainer.precision)
    return Bench(cfg, config, folder, timer, trainer, datamodule, module, weights, [])


def _read(file: str) -> dict[str, Any]:
    """Reads a checkpoint whose Trainer, average and augmentations will be made again too."""
    checkpoint = read_checkpoint(file)
    try:
        refuse_foreign_run(checkpoint["boxwright"]["config"])
    except ValueError as error:
        raise ConfigError(f"checkpoint={file} can't be measured: {error}") from error
    return checkpoint


def describe(bench: Bench) -> dict[str, Any]:
    """Describes command, versions, device and network, without which the figures mean nothing."""
    device, precision = bench.trainer.strategy.root_device, str(bench.trainer.precision)
    is_new = bench.cfg.checkpoint is None
    return {
        "command": list(HydraConfig.get().overrides.task),
        "versions": environment(),
        "device": device_name(bench.trainer),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "weights": bench.weights,
        "backbone_weights": bench.config.model.backbone.weights if is_new else None,
        "network": _size(bench.module, bench.datamodule),
        "matrix_rate": matrix_rate(device, precision),
    }


def measure_loader(bench: Bench) -> dict[str, Any]:
    """Times loading, and keeps the first batches for the step."""
    log.info("measuring the loader")
    figures, bench.batches = measure_data(bench.datamodule, bench.cfg.warmup, bench.limit)
    return figures


def prepare_weights(bench: Bench) -> None:
    """Gives the frozen batch norms of a random network statistics, without which its activations overflow."""
    if "step" in bench.cfg.parts and not bench.batches:
        bench.batches = first_batches(bench.datamodule)
    is_random = bench.config.init_from is None and bench.config.model.backbone.weights is None
    if bench.cfg.checkpoint is None and is_random:
        batch = bench.batches[0] if bench.batches else next(spaced_batches(bench.datamodule.val_dataloader(), 1))
        set_frozen_norms(bench.module, batch, bench.trainer.strategy.root_device)


def measure_training(bench: Bench) -> dict[str, Any]:
    """Times whole optimizer steps and their parts."""
    log.info("measuring the training step")
    return measure_step(bench.module, bench.trainer, bench.timer, bench.batches)


def measure_validation(bench: Bench) -> list[dict[str, Any]]:
    """Times network and decoder on validation images, in batches where there are any, and one at a time."""
    log.info("measuring inference")
    several = list(spaced_batches(bench.datamodule.val_dataloader(), KEPT, single=False))
    if not several:
        raise ConfigError("none of the validation images chosen could be read; see inspect_data.py")
    ways = [several] if len(several[0].images) > 1 else []
    ways.append(list(spaced_batches(bench.datamodule.val_dataloader(), 2 * KEPT)))
    return [measure_inference(bench.module, bench.trainer, way, bench.cfg.warmup, bench.limit) for way in ways]


def save(bench: Bench, figures: dict[str, Any]) -> None:
    """Prints the table, and writes benchmark.json and benchmark.md."""
    figures = tables.with_shares(figures) | {"config": plain(bench.config)}
    write_text(bench.folder / "benchmark.json", json.dumps(figures, indent=1))
    write_text(bench.folder / "benchmark.md", tables.as_markdown(figures))
    log.info("%s", tables.as_text(figures))
    log.info("saved in %s", bench.folder)


def _trainer(config: DictConfig, timer: StepTimer, folder: Path) -> pl.Trainer:
    """Builds train.py's Trainer with averaging, the freezing of the run's start and no other callback, no logger, no
    validation."""
    for problem in command.several_devices(config):  # of a checkpoint's run
        raise ConfigError(problem)
    averaging: Any = OmegaConf.select(config, "callbacks.averaging")
    freezing: Any = OmegaConf.select(config, "callbacks.freezing")
    made = [] if freezing is None else [instantiate(freezing, until_step=None, until_epoch=None)]
    callbacks: list[pl.Callback] = [*made, *([] if averaging is None else [instantiate(averaging)]), timer]
    timer.num_batches = KEPT
    passes = timer.most_passes(config.trainer.accumulate_grad_batches)
    try:
        trainer = make_trainer(
            config,
            folder,
            callbacks,
            max_steps=max(config.trainer.max_steps, passes) if config.trainer.max_steps > 0 else -1,
            max_time=None,
            limit_train_batches=1.0,
            limit_val_batches=0,
            val_check_interval=1.0,
            enable_progress_bar=False,
            enable_checkpointing=False,
            logger=False,
        )
    except InstantiationException as error:
        key = f"trainer.accelerator={config.trainer.accelerator}, trainer.devices={config.trainer.devices}"
        raise ConfigError(f"{key}: {error.__cause__}") from error
    for problem in command.several_devices(config, trainer.world_size):
        raise ConfigError(problem)
    return trainer


def _module(
    config: DictConfig, given: str | None, checkpoint: dict[str, Any] | None, datamodule: DetectionDataModule
) -> tuple[TrainingModule, str]:
    """Builds the module, and says where its weights are from; an ImageNet backbone gets random ones, since they do not
    change the time."""
    if checkpoint is not None:
        stored = checkpoint["boxwright"]
        if list(stored["class_names"]) != list(datamodule.class_names):
            raise ConfigError(
                f"the checkpoint was trained on the classes {stored['class_names']}, the data set has "
                f"{list(datamodule.class_names)}; give its data, or init_from in place of checkpoint"
            )
        try:
            module = load_module({**checkpoint, "boxwright": {**stored, "config": plain(config)}})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"the checkpoint's weights don't fit the model settings given: {reason}") from error
        return module, source_of(checkpoint, str(given))
    if config.init_from is not None or config.model.backbone.weights in ("imagenet", "pretrained"):
        config.model.backbone.weights = None
    module = cast(TrainingModule, instantiate(with_trunk(config.model)))
    weights = "fresh"
    if config.init_from is not None:
        renamed: dict[str, str | None] = dict(config.get("init_classes") or {})
        weights = start_from(module, config.init_from, datamodule.class_names, renamed)
    module.lay_out(config.channels_last)
    return module, weights


def _size(module: TrainingModule, datamodule: DetectionDataModule) -> dict[str, Any]:
    """Counts the parameters, and the operations for an image of validation's most frequent canvas."""
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
