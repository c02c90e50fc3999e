"""From an opened run to a scored checkpoint."""

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lit_modules import runs, startup
from lit_modules.base import DetectionModule
from lit_modules.callbacks.checkpoints import Checkpoints
from lit_modules.callbacks.log import ProgressBar, show_bar
from lit_modules.checkpoints import AtomicCheckpointIO, read_checkpoint

log = logging.getLogger(__name__)


def fit(run: runs.Run) -> float:
    """Train, score the best checkpoint, and return the monitored metric."""
    quieten()
    run.config.trainer.precision = startup.choose_precision(
        run.config.trainer.precision, run.config.trainer.accelerator
    )
    if runs.is_rank_zero():
        runs.write(run.folder / "config.yaml", OmegaConf.to_yaml(run.config))
    cfg = runs.scaled(run.config)
    pl.seed_everything(cfg.seed, verbose=False)

    datamodule = instantiate(cfg.data)
    module: DetectionModule = instantiate(cfg.model)
    module.folder = run.folder
    if cfg.channels_last:
        module.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    callbacks: dict[str, Any] = instantiate(cfg.callbacks)
    trainer = make_trainer(cfg, run, list(callbacks.values()))
    module.run = {"config": OmegaConf.to_container(run.config), "versions": startup.environment()}
    if trainer.is_global_zero:
        startup.announce(run.config, module, trainer)
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(run.config))
    if run.checkpoint is not None:
        log.info("resumes from %s", run.checkpoint)
    trainer.fit(module, datamodule, ckpt_path=run.checkpoint, weights_only=True)

    checkpoints: Checkpoints = callbacks["checkpoints"]
    results = {
        "step": trainer.global_step,
        "score": checkpoints.best_score,
        "best_step": checkpoints.best_step,
    }
    results["val"] = checkpoints.best_metrics
    if cfg.test and checkpoints.best_step >= 0:
        if datamodule.test_is_val:
            results["test"] = checkpoints.best_metrics
        else:
            module.load_state_dict(read_checkpoint(checkpoints.best_path)["state_dict"])
            trainer.test(module, datamodule, verbose=False)
            results["test"] = module.metrics.scalars
    run.finish(results)
    log.info("best: %s = %.4f at step %d", checkpoints.monitor, checkpoints.best_score, checkpoints.best_step)
    for name, value in results.get("test", {}).items():
        log.info("test/%s = %.4f", name, value)
    log.info("run folder: %s", run.folder)
    return checkpoints.best_score


def make_trainer(cfg: DictConfig, run: runs.Run, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning's Trainer with what exactness needs; see DetectionModule, Checkpoints and datamodules.sampler."""
    interval, accumulate = cfg.trainer.val_check_interval, cfg.trainer.accumulate_grad_batches
    loggers = [instantiate(node, folder=str(run.folder)) for node in cfg.logger.values()]
    step = int(read_checkpoint(run.checkpoint)["global_step"]) if run.checkpoint else 0
    for logger in loggers:
        if hasattr(logger, "drop_after"):
            logger.drop_after(step)
    bar = cfg.trainer.enable_progress_bar and show_bar()
    return instantiate(
        cfg.trainer,
        val_check_interval=1.0 if interval is None else interval * accumulate,
        check_val_every_n_epoch=1 if interval is None else None,
        enable_progress_bar=bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=str(run.folder),
        plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, *([ProgressBar()] if bar else [])],
        logger=loggers,
    )


def quieten() -> None:
    """Hide what other libraries say about themselves; ranks other than 0 say nothing but warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*is deprecated.*",
        ".*smaller than the logging.*",
        ".*in eval mode at the start.*",
    ):
        warnings.filterwarnings("ignore", message)
    if not runs.is_rank_zero():
        logging.getLogger().setLevel(logging.WARNING)
