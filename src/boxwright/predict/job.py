"""Reads, detects, draws and writes; reading and drawing run in threads beside the network."""

import logging
import math
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Column, Table

from boxwright.checkpoints.detector import Detector, equal_canvases, load_detector
from boxwright.config.errors import ConfigError, few
from boxwright.predict.media import Film, Media, Pictures, Read, Reading, Unread
from boxwright.predict.sources import DRAWN, Source, natural
from boxwright.predict.threads import Behind, ahead
from datamodules.dataset import Sample
from datamodules.decoding import Decoding
from evaluation.coco_file import CocoFile
from evaluation.results import ImagePredictions
from evaluation.wording import counted
from reports.drawing import draw
from reports.terminal import as_text, show_bar

log = logging.getLogger(__name__)

_THRESHOLD = 0.3
"""Score threshold of all classes, where neither the command line nor the checkpoint has one."""
_DEVICES = {"auto": None, "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}


@contextmanager
def open_job(cfg: DictConfig, source: Source, detector: Detector) -> Generator["Job"]:
    """Opens the source, drawn/ and predictions.json; removes half-written files unless the job is closed.

    Ends with status 1 where the source can't be opened.
    """
    cv2.setNumThreads(0)  # pictures are read side by side instead
    folder = Path(HydraConfig.get().runtime.output_dir)
    if source.passed_over:
        log.info("skipped, since they are not pictures: %d (%s)", len(source.passed_over), few(source.passed_over))
    with ExitStack() as stack:
        try:
            media = open_media(source, folder / DRAWN, cfg.num_workers, detector.decoding)
        except ValueError as error:
            log.error("%s", error)
            sys.exit(1)
        stack.callback(media.discard)
        info = {
            "checkpoint": detector.source or cfg.checkpoint,
            "source": cfg.source,
            "score_thresholds": detector.thresholds,
        }
        path = folder / "predictions.json"
        file = stack.enter_context(CocoFile(path, info, detector.category_ids, detector.class_names))
        yield Job(detector, media, file)


def open_media(source: Source, drawn: Path, num_workers: int, decoding: Decoding) -> Media:
    return Film(source, drawn) if source.is_video else Pictures(source, drawn, num_workers, decoding)


def make_detector(cfg: DictConfig) -> Detector:
    """Loads the checkpoint with the score thresholds asked for, else those of the best F1 if it has them."""
    for name in ("batch_size", "num_workers"):
        if cfg[name] is not None and cfg[name] < 1:
            raise ConfigError(f"{name}={cfg[name]}: expected 1 or more")
    if cfg.accelerator not in _DEVICES:
        raise ConfigError(f"accelerator={cfg.accelerator}: expected one of {', '.join(_DEVICES)}")
    device = _DEVICES[cfg.accelerator]
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"accelerator={cfg.accelerator}: torch finds no GPU here; give accelerator=cpu or auto")
    try:
        detector = load_detector(cfg.checkpoint, device, cfg.precision, cfg.score_threshold)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    asked, why = cfg.score_threshold, ""
    if asked is None:
        asked, why = ("best_f1", "") if detector.best_f1 else (_THRESHOLD, ", since the checkpoint has no best_f1")
        detector.set_threshold(asked)
    log.info(
        "%s: %d classes, %s %d, %s on %s, score_threshold=%s%s",
        detector.source or cfg.checkpoint, len(detector.class_names), detector.resize.rule, detector.resize.resize,
        detector.precision, detector.device, asked, why,
    )  # fmt: skip
    never = [name for name, score in detector.thresholds.items() if score >= 1]
    if asked == "best_f1" and never:
        log.warning(
            "nothing passes the threshold of %s, since validation found none of them right: %s. To see them give a "
            "number, such as score_threshold=%g", counted(len(never), "class", "classes"), few(never), _THRESHOLD
        )  # fmt: skip
    return detector


class Item(NamedTuple):
    """A picture, and the sample of it that the network gets."""

    read: Read
    sample: Sample

    @property
    def canvas(self) -> tuple[int, int]:
        return self.sample.canvas


class Job:
    """All pictures of a source on their way through a detector."""

    def __init__(self, detector: Detector, media: Media, file: CocoFile) -> None:
        self.detector, self.media, self.file = detector, media, file
        self.unread: list[str] = []
        self.detections = np.zeros(len(detector.class_names), np.int64)
        """Number of detections of each class."""
        self.images = np.zeros(len(detector.class_names), np.int64)
        """Number of images with a detection of each class."""
        self.highest = 0.0, ""
        """The highest of all scores, whether it reaches its threshold or not, and its class."""
        self.seconds = 0.0
        self._results: dict[int, tuple[str, tuple[int, int], ImagePredictions] | None] = {}
        self._next = 0

    def run(self, batch_size: int, draws: bool) -> None:
        started, threads = time.perf_counter(), self.media.threads
        bar = Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), disable=not show_bar())
        items = ahead((partial(self._prepare, reading) for reading in self.media.readings()), threads, 2 * batch_size)
        with bar, closing(items), Behind(threads, count=2 * threads) as behind:
            task = bar.add_task("", total=self.media.total)
            for batch in equal_canvases(self._readable(items), batch_size):
                found = self.detector.detect([item.sample for item in batch])
                for (read, _), every in zip(batch, found, strict=True):
                    if len(every.scores):  # they fall
                        name = self.detector.class_names[int(every.labels[0])]
                        self.highest = max(self.highest, (float(every.scores[0]), name))
                    one = self.detector.above_threshold(every)
                    self._take(read.place, (read.name, read.pixels.shape[:2], one))
                    if draws:
                        behind(self._draw, read, one)
                bar.update(task, completed=self._next + len(self._results))
        self.seconds = time.perf_counter() - started

    def _prepare(self, reading: Reading) -> Item | Unread | None:
        read = reading()
        return Item(read, self.detector.sample(read.pixels, read.place)) if isinstance(read, Read) else read

    def _readable(self, items: Iterator[Item | Unread]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Item):
                yield item
            else:
                self.unread.append(item.name)
                log.warning("%s", item.error)
                self._take(item.place, None)

    def _take(self, place: int, result: tuple[str, tuple[int, int], ImagePredictions] | None) -> None:
        """Adds results to the file in the order of the source; batches of several canvases end out of turn."""
        self._results[place] = result
        while self._next in self._results:
            result = self._results.pop(self._next)
            self._next += 1
            if result is not None:
                self.file.add(*result)
                counts = np.bincount(result[2].labels, minlength=len(self.detections))
                self.detections += counts
                self.images += counts > 0

    def _draw(self, read: Read, found: ImagePredictions) -> None:
        drawn = draw(read.pixels, found.boxes, found.labels, self.detector.class_names, found.scores)
        self.media.write(read, drawn)

    def _why_nothing(self) -> str:
        score, name = self.highest
        if not name:
            return "no box has a score over the model's own score_threshold, so a lower score_threshold shows no more"
        low, high = min(self.detector.thresholds.values()), max(self.detector.thresholds.values())
        thresholds = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}, depending on the class"
        return (
            f"no score reaches its threshold ({thresholds}); the highest is {score:.3f} ({name}): to see it, give "
            f"score_threshold={math.floor(100 * score) / 100:g}"
        )

    def close(self, source: str) -> None:
        """Completes the drawn files; ends with status 1 where nothing could be read."""
        if not self.file.num_images:
            log.error("source=%s: none of it could be read", source)
            sys.exit(1)
        self.media.close()

    def sum_up(self, source: Source) -> None:
        """Logs the numbers of detections by class, and the names that could not be read."""
        count = self.file.num_images
        unit = "frames" if source.is_video else "images"
        table = Table(
            "class", *(Column(name, justify="right") for name in ("detections", unit, "score from")), box=SIMPLE_HEAD
        )
        for label in np.flatnonzero(self.detections).tolist():
            name = self.detector.class_names[label]
            threshold = f"{self.detector.thresholds[name]:.2f}"
            table.add_row(escape(name), str(self.detections[label]), str(self.images[label]), threshold)
        log.info(
            "%s: %d in %.1f s (%.1f a second); detections: %d%s", unit, count, self.seconds, count / self.seconds,
            self.detections.sum(), f"\n{as_text(table)}" if self.detections.any() else "",
        )  # fmt: skip
        if not self.detections.any():
            log.info("%s", self._why_nothing())
        if self.unread:
            log.warning("%d of %d could not be read: %s", len(self.unread), count + len(self.unread), few(self.unread))
        if several := sorted(self.media.several, key=natural):
            log.info("several pictures in a file (an animation, pages), the first was taken: %s", few(several))
        stated = self.media.total or 0
        if source.is_video and count < stated:
            log.warning("the video states %d frames; %d could be read", stated, count)
        log.info("saved in %s", self.file.path.parent)
