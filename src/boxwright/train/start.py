"""The start of a run: fixes its precision, seed and schedule, and logs environment and config."""

import json
import logging
from textwrap import TextWrapper

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from boxwright.config.files import choices, flat, plain, reference
from boxwright.frame import quieten
from boxwright.runs.folder import Run, resolved
from boxwright.runs.log import FILE_ONLY, is_rank_zero
from boxwright.runs.scaling import scaled
from evaluation.files import write_text
from lit_modules.flops import gflops
from lit_modules.machine import choose_precision, device_name, environment
from lit_modules.training_module import TrainingModule

log = logging.getLogger(__name__)

_WIDTH = 110


def prepare(run: Run) -> DictConfig:
    """Chooses the precision, stores it with the run, seeds the weights, and fits rates and iterations to the batch."""
    quieten()
    trainer = run.config.trainer
    trainer.precision = choose_precision(trainer.precision, trainer.accelerator)
    if is_rank_zero():
        write_text(run.folder / "config.yaml", OmegaConf.to_yaml(run.config))
    pl.seed_everything(run.config.seed, verbose=False)
    return scaled(run.config)


def announce(composed: DictConfig, run: Run, module: TrainingModule, trainer: pl.Trainer) -> None:
    """Logs environment, config and the network's size, which one wants to know of a run years later."""
    if not trainer.is_global_zero:
        return
    cfg = run.config
    log.info("run folder %s", trainer.default_root_dir)
    if composed.resume is None:  # else the run's own, whose differences were logged
        log.info("config (all of it is in config.yaml):\n%s", chosen(composed))
        log.info("config:\n%s", whole(cfg), extra=FILE_ONLY)
    log.info("environment: %s", "  ".join(f"{name} {value}" for name, value in environment().items()))
    log.info("devices: %d x %s, precision %s", trainer.world_size, device_name(trainer), trainer.precision)
    parameters = sum(p.numel() for p in module.network.parameters())
    trained = sum(p.numel() for p in module.network.parameters() if p.requires_grad)
    size = image_size(cfg.data.resize, cfg.data.rule)
    log.info(
        "network: %.2f M parameters, %.2f M of them trained, %.1f GFLOPs for an image of %d x %d",
        parameters / 1e6, trained / 1e6, gflops(module, size), *size,
    )  # fmt: skip
    if run.checkpoint is not None:
        log.info("resumes from %s", run.checkpoint)
    log.info("batch: %d images a step, rate %g, %d steps", cfg.data.batch_size, module.lr, trainer.max_steps)


def chosen(cfg: DictConfig) -> str:
    """Lists the files chosen of groups, then each setting that differs from them."""
    default, values, chosen_files = flat(reference()), flat(resolved(cfg)), choices()
    groups = [f"{group}={chosen_files[group]}" for group in sorted(chosen_files) if chosen_files[group] != "default"]
    changed = [line for line in plain(HydraConfig.get().overrides)["task"] if line.startswith("~")]
    for key, written in flat(cfg).items():
        if key not in default or default[key] != written:
            value = values.get(key, written)
            changed.append(f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}")
    paragraph = TextWrapper(_WIDTH, "  ", "  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(paragraph.fill("  ".join(items)) for items in (groups, changed) if items)


def whole(cfg: DictConfig) -> str:
    """Writes the config as YAML; model.optimizer and model.schedule appear as interpolations."""
    config = plain(cfg)
    same = [key for key in ("optimizer", "schedule") if config["model"].get(key) == config[key]]
    config["model"] |= {key: f"${{{key}}}" for key in same}
    return OmegaConf.to_yaml(OmegaConf.create(config)).rstrip()


def image_size(resize: int, rule: str) -> tuple[int, int]:
    """Computes a typical canvas: the square, or a photo of 3 : 4, rounded up to multiples of 32."""
    height, width = (resize, resize * 4 / 3) if rule == "short_side" else (resize, resize)
    return int(np.ceil(height / 32) * 32), int(np.ceil(width / 32) * 32)
