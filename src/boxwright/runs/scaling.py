"""Rate and iterations fitted to the batch size."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from boxwright.config.files import plain

log = logging.getLogger(__name__)


def scaled(cfg: DictConfig, quiet: bool = False) -> DictConfig:
    """Fits rate and iterations to `data.batch_size`; the config states them for 16 images a step.

    The linear rule of Goyal et al. (arXiv 1706.02677): rate x b/16, iterations x 16/b, so that each image is
    seen as often.
    """
    factor = cfg.data.batch_size / 16
    if not cfg.scale_schedule or factor == 1:
        return cfg
    new = OmegaConf.create(plain(cfg))
    changes: list[str] = []

    def change(key: str, value: Any) -> None:
        changes.append(f"{key} {OmegaConf.select(new, key)} -> {value}")
        OmegaConf.update(new, key, value)

    change("model.lr", cfg.model.lr * factor)
    counts = (
        "trainer.max_steps", "trainer.val_check_interval", "schedule.warmup_steps", "callbacks.back_to_best.at",
        "callbacks.freezing.until_step",
    )  # fmt: skip
    for key in counts:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, int) and value > 0:  # a float is a fraction of the run
            change(key, max(1, round(value / factor)))
    for where in ("schedule", "model.schedule"):
        milestones = OmegaConf.select(cfg, f"{where}.milestones")
        if milestones is not None:
            change(f"{where}.milestones", [_scaled_milestone(m, factor) for m in milestones])
    if OmegaConf.select(cfg, "model.schedule.warmup_steps") is not None:
        new.model.schedule.warmup_steps = new.schedule.warmup_steps
    if not quiet:
        log.info(
            "%d images a step, stated for 16: %s (scale_schedule=false keeps them)",
            cfg.data.batch_size,
            "; ".join(changes),
        )
    return new


def _scaled_milestone(milestone: float, factor: float) -> float:
    is_fraction = isinstance(milestone, float) and milestone <= 1  # of the run, as `schedules.multistep` reads it
    return milestone if is_fraction else round(milestone / factor)
