"""What train.py is made of: the objects of a run, and its end."""

import logging
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.trainer.states import TrainerFn

from evaluation.metrics import Metrics, headline
from lit_modules import runs, startup
from lit_modules.callbacks import report
from lit_modules.callbacks.checkpoints import Checkpoints
from lit_modules.callbacks.compiled import Compiled, check_compiler
from lit_modules.callbacks.log import ProgressBar, as_text, show_bar, train_seconds
from lit_modules.checkpoints import (
    FORMAT,
    AtomicCheckpointIO,
    read_checkpoint,
    refuse_unresumable,
    without_weights,
)
from lit_modules.initial import start_from
from lit_modules.steps import TrainingModule, is_limited
from lit_modules.timing import ms_per_image

log = logging.getLogger(__name__)


def make_datamodule(cfg: DictConfig) -> pl.LightningDataModule:
    """Opened at once: what is wrong with the data is said before weights are loaded and loggers start."""
    datamodule: pl.LightningDataModule = instantiate(cfg.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    if cfg.test:
        datamodule.setup("test")
    return datamodule


def make_module(cfg: DictConfig, run: runs.Run, datamodule: Any) -> TrainingModule:
    """The module with its network; it knows its run, which its checkpoints tell of."""
    init_from = cfg.get("init_from")  # which runs of an earlier version lack
    replaced = init_from is not None or run.checkpoint is not None
    module: TrainingModule = instantiate(without_weights(runs.plain(cfg.model)) if replaced else cfg.model)
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
    if cfg.channels_last:
        module.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module.folder = run.folder
    module.run = {"format": FORMAT, "config": runs.plain(run.config), "versions": startup.environment()}
    return module


def make_trainer(cfg: DictConfig, run: runs.Run) -> pl.Trainer:
    """Lightning's Trainer with what exactness needs; see TrainingModule, Checkpoints and datamodules.sampler."""
    interval, accumulate = cfg.trainer.val_check_interval, cfg.trainer.accumulate_grad_batches
    is_compiled = cfg.get("compile", False)  # which runs of an earlier version lack
    callbacks: list[pl.Callback] = [*([Compiled()] if is_compiled else []), *instantiate(cfg.callbacks).values()]
    loggers: list[Any] = [instantiate(node, folder=str(run.folder)) for node in cfg.logger.values()]
    step = int(read_checkpoint(run.checkpoint)["global_step"]) if run.checkpoint else 0
    bar = cfg.trainer.enable_progress_bar and show_bar()
    trainer: pl.Trainer = instantiate(
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
    if is_compiled:
        check_compiler(trainer.strategy.root_device)
    for logger in loggers:  # only now: what Lightning refuses is no run in a dashboard
        logger.log_hyperparams(runs.plain(run.config))
        if hasattr(logger, "drop_after"):
            logger.drop_after(step)
    return trainer


def finish(run: runs.Run, module: TrainingModule, datamodule: Any, trainer: pl.Trainer) -> float:
    """Score the best checkpoint where the test split is another than the validated one, and sum the run up."""
    best = cast(Checkpoints, trainer.checkpoint_callback)
    is_val = datamodule.test_is_val and not is_limited(trainer.limit_val_batches)
    tested = best.best_metrics if is_val else {}
    if run.config.test and not is_val and best.best_step >= 0:
        module.load_state_dict(read_checkpoint(best.best_path)["state_dict"])
        trainer.test(module, datamodule, verbose=False)
        tested = module.metrics.scalars
    results = {
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "score": best.best_score,
        "best_step": best.best_step,
        "val": best.best_metrics,
        "test": tested,
        "train_seconds": train_seconds(trainer),
    }
    run.finish(results)
    if run.config.test and tested is best.best_metrics:
        text = as_text(Metrics(best.best_metrics, best.best_per_class))
        log.info("test is the validation of the best checkpoint\n%s", text)
    log.info("best: %s at step %d", best.best_told, best.best_step)
    if run.config.test and tested:
        log.info("test: %s", headline(tested))
    if trainer.is_global_zero:
        run.finish(results | timed(module, trainer, datamodule))
    log.info("run folder: %s", run.folder)
    if (run.folder / report.FILE).exists():
        log.info("report: %s", run.folder / report.FILE)
    return best.best_score


def timed(module: TrainingModule, trainer: pl.Trainer, datamodule: Any) -> dict[str, Any]:
    """`ms_per_image` of the best weights and how it was taken, for finished.json and the loggers; on rank 0."""
    best = cast(Checkpoints, trainer.checkpoint_callback)
    try:
        if best.best_step >= 0 and trainer.state.fn != TrainerFn.TESTING:  # else they are loaded
            module.load_state_dict(read_checkpoint(best.best_path)["state_dict"])
        speed = ms_per_image(module, trainer, datamodule)
    except Exception as error:  # the run is finished whatever comes of it
        log.warning("ms per image could not be measured: %s: %s", type(error).__name__, error)
        return {}
    milliseconds: float = speed.pop("ms_per_image")
    log.info(
        "%.1f ms per image, one at a time (median of %d, %s, %s)",
        milliseconds, speed["images"], speed["device"], speed["precision"],
    )  # fmt: skip
    spent = train_seconds(trainer)
    cost = {"time/ms_per_image": milliseconds} | ({} if spent is None else {"time/training": spent})
    for logger in trainer.loggers:
        logger.log_metrics(cost, step=trainer.global_step)
    return {"ms_per_image": milliseconds, "timed": speed}
