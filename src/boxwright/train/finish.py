"""The end of a run: tests and times its best checkpoint, and sums up its results."""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from boxwright.checkpoints.reading import (
    read_checkpoint,
)
from boxwright.expected import figures_of_run
from boxwright.runs.folder import Run
from datamodules.base import DetectionDataModule
from datamodules.dataset import spaced_batches
from evaluation.expected import Compared, MeasuredOn, compare, misses
from evaluation.metrics import Metrics, has_score, headline
from evaluation.submission import write_submission
from lit_modules.callbacks import report
from lit_modules.callbacks.checkpoints import Checkpoints
from lit_modules.callbacks.early_stopping import stopped_early
from lit_modules.callbacks.log import train_seconds
from lit_modules.machine import device_name
from lit_modules.training_module import TrainingModule, is_limited
from reports.expected import expected_text
from reports.terminal import metrics_text

log = logging.getLogger(__name__)


def finish(run: Run, module: TrainingModule, datamodule: DetectionDataModule, trainer: pl.Trainer) -> dict[str, Any]:
    """Scores the best checkpoint where the test split differs from the validated one, and sums the run up: returns its
    results."""
    best = cast(Checkpoints, trainer.checkpoint_callback)
    has_list = datamodule.test_list is not None
    is_val = datamodule.test_is_val and not is_limited(trainer.limit_val_batches)
    tested = best.best_metrics if has_list and is_val else {}
    if run.config.test and has_list and not is_val and best.best_step >= 0:
        module.load_state_dict(read_checkpoint(best.best_path)["state_dict"])
        trainer.test(module, datamodule, verbose=False)
        tested = module.last.metrics.scalars
        if not has_score(tested):
            tested = {}
            if (found := module.last).truth is not None and found.predictions is not None:  # on rank 0
                line = write_submission(run.folder, found.truth, found.predictions)
                log.info("test: nothing to score, since its split has no object in its annotations; found: %s", line)
    results = {
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "score": best.best_score,
        "best_step": best.best_step,
        "val": best.best_metrics,
        "test": tested,
        "train_seconds": train_seconds(trainer),
    }
    if best.best_of != best.monitor:
        results["score_of"] = best.best_of
    if (started := module.run.get("started_from")) is not None:
        results["started_from"] = started
    if reason := stopped_early(trainer):
        results["stopped"] = reason
    expected = _expected(run, module, datamodule, tested, is_val)
    if expected and trainer.is_global_zero:
        results["expected"] = [one.content() for one in expected]
        if missed := misses(expected):
            results["unexpected"] = missed
        callbacks = cast("list[pl.Callback]", trainer.callbacks)  # pyright: ignore
        for callback in callbacks:
            if isinstance(callback, report.Report):
                callback.add_expected(trainer, module, expected)
    run.finish(results)
    if run.config.test and (tested is best.best_metrics or not has_list):
        what = "test is the validation" if has_list else "there is no list to test on; the validation"
        text = metrics_text(Metrics(best.best_metrics, best.best_per_class))
        log.info("%s of the best checkpoint\n%s", what, text)
    if best.best_step < 0:
        log.info("best: %s, since there was no validation", best.best_text)
    else:
        log.info("best: %s at step %d", best.best_text, best.best_step)
    if run.config.test and tested:
        log.info("test: %s", headline(tested))
    if expected:
        log.info("%s", expected_text(expected))
    if trainer.is_global_zero:
        run.finish(results | timed(module, trainer, datamodule))
    log.info("run folder: %s", run.folder)
    if (run.folder / report.FILE).exists():
        log.info("report: %s", run.folder / report.FILE)
    return results


def _expected(
    run: Run, module: TrainingModule, datamodule: DetectionDataModule, tested: Mapping[str, float], is_val: bool
) -> Sequence[Compared]:
    """Holds the published figures of the run's recipe against its test; empty on other ranks, or without a test."""
    if not tested or not (figures := figures_of_run(run)):
        return []
    if not is_val:
        truth, unread = module.last.truth, 0  # without those
    else:
        truth, unread = datamodule.truth("val"), len(module.skipped.images.get("val", {}))
    return [] if truth is None else compare(figures, tested, MeasuredOn.of(truth, "test", unread))


def timed(module: TrainingModule, trainer: pl.Trainer, datamodule: DetectionDataModule) -> dict[str, Any]:
    """Measures `ms_per_image` of the best weights, for finished.json and the loggers; on rank 0."""
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


_MOST = 32
"""Number of images that are timed, at most."""
_SECONDS = 3.0
_WARM_UP = 3
"""Passes before the first that counts; one for each further canvas, whose first pass is slow under cuDNN."""


def ms_per_image(module: TrainingModule, trainer: pl.Trainer, datamodule: DetectionDataModule) -> dict[str, Any]:
    """Times a forward pass and `module.evaluate_batch` over validation images, one at a time; returns the median.

    That is network, decoder and the results that validation keeps on the host, at the size and in the precision of
    validation; reading, resizing and the way to the device are not timed. The images are `_MOST` evenly spaced ones,
    or as many as it takes until `_SECONDS` are over, three at least.
    """
    device = trainer.strategy.root_device
    module.to(device).eval()
    times: list[float] = []
    canvases: set[torch.Size] = set()
    begin = time.perf_counter()
    precision: Any = trainer.precision_plugin
    with torch.inference_mode(), precision.forward_context():
        for batch in spaced_batches(datamodule.val_dataloader(), _MOST):
            batch = batch.to(device)
            for _ in range(0 if batch.images.shape in canvases else 1 if canvases else _WARM_UP):
                module.evaluate_batch(module.forward_batch(batch), batch)
            canvases.add(batch.images.shape)
            start = time.perf_counter()
            # Its entries are on the host, so that nothing is left to wait for.
            module.evaluate_batch(module.forward_batch(batch), batch)
            times.append(time.perf_counter() - start)
            if len(times) >= 3 and time.perf_counter() - begin > _SECONDS:
                break
    if not times:
        raise ValueError("no validation image could be read")
    return {
        "ms_per_image": 1000 * statistics.median(times),
        "images": len(times),
        "batch": 1,
        "device": device_name(trainer),
        "precision": str(trainer.precision),
    }
