"""The part of an evaluation that each rank keeps, and the results of the whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.batch import Batch
from detectors.detections import Detections
from evaluation.analysis import Analysis, analyse
from evaluation.confusions import Confusion, Matrix, summed
from evaluation.metrics import Metrics
from evaluation.results import ImagePredictions
from evaluation.truth import Predictions, Truth


def in_original_pixels(batch: Batch, detections: Detections) -> list[ImagePredictions]:
    """Maps detections back by the scale of each image's resizing, clips them to it, and drops padding."""
    boxes = detections.boxes.float().cpu().numpy()
    scores = detections.scores.float().cpu().numpy()
    labels = detections.labels.cpu().numpy()
    entries: list[ImagePredictions] = []
    for info, box, score, label in zip(batch.infos, boxes, scores, labels, strict=True):
        (height, width), (y, x) = info.original_size, info.scale
        keep = label >= 0
        original = box[keep] / np.array([x, y, x, y], np.float32)
        original = original.clip(0, np.array([width, height, width, height], np.float32))
        entries.append(ImagePredictions(info.image_id, original, score[keep], label[keep]))
    return entries


@dataclass(frozen=True)
class Evaluated:
    """The results of an evaluation; truth, predictions and their analysis are there on rank 0 alone."""

    metrics: Metrics = field(default_factory=lambda: Metrics({}, {}))
    mean_losses: dict[str, float] = field(default_factory=dict[str, float])
    """The mean of each loss over the images."""
    thresholds: dict[str, float] = field(default_factory=dict[str, float])
    """The score of each class with the best F1 at IoU 0.5."""
    truth: Truth | None = None
    predictions: Predictions | None = None
    """In the order of `truth`; None where the model predicts no boxes."""

    @cached_property
    def analysis(self) -> Analysis | None:
        """The right and wrong boxes, made when first asked for; None without boxes."""
        if self.truth is None or self.predictions is None:
            return None
        return analyse(self.truth, self.predictions, self.metrics)


@dataclass
class Evaluation:
    """One rank's part of an evaluation: an entry for each image, and losses by batch."""

    entries: list[Any] = field(default_factory=list[Any])
    """The results of the module's `evaluate_batch`, each with an `image_id`."""
    losses: dict[Any, tuple[int, dict[str, float]]] = field(default_factory=dict[Any, tuple[int, dict[str, float]]])
    """(images, loss by name) of each batch, keyed by the first image's id: batches are never cut."""
    pairs: dict[Any, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict[Any, dict[str, Any]])
    """`evaluation.confusions.pairs` of each batch by name of the matrix, keyed as its losses."""
    unread: dict[Any, str] = field(default_factory=dict[Any, str])
    """Images that could not be read, with the reason; they count for nothing."""

    def add(
        self,
        batch: Batch,
        losses: dict[str, Tensor],
        entries: Iterable[Any],
        pairs: dict[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """Adds one batch."""
        self.unread |= {info.image_id: str(info.error) for info in batch.unread}
        if not batch.infos:  # none of it could be read
            return
        self.entries += entries
        values = {"loss": float(sum(v.item() for v in losses.values()))} | {k: v.item() for k, v in losses.items()}
        self.losses[batch.infos[0].image_id] = (len(batch.infos), values)
        self.pairs[batch.infos[0].image_id] = pairs or {}

    @staticmethod
    def merged(shards: Sequence["Evaluation"]) -> "Evaluation":
        """Joins the parts of all ranks into the whole evaluation."""
        whole = Evaluation()
        for shard in shards:
            whole.entries += shard.entries
            whole.losses |= shard.losses
            whole.pairs |= shard.pairs
            whole.unread |= shard.unread
        return whole

    def scored_part(self, truth: Truth, limited: bool) -> Truth:
        """Selects the truth of the images that count: all that could be read, or those seen in a limited run."""
        if not self.unread and not limited:
            return truth
        seen = {entry.image_id for entry in self.entries}
        ids = truth.image_ids.tolist()
        return truth.only(np.array([(i in seen) if limited else (i not in self.unread) for i in ids], bool))

    def mean_losses(self) -> dict[str, float]:
        """Averages losses over images, summed in the order of the ids: the same digits on any number of ranks."""
        if not self.losses:
            return {}
        ordered = [self.losses[key] for key in sorted(self.losses)]
        count = sum(number for number, _ in ordered)
        return {name: sum(n * values[name] for n, values in ordered) / count for name in ordered[0][1]}

    def confusions(self, matrices: Mapping[str, Matrix]) -> dict[str, Confusion]:
        """Sums the confusions of all batches, each counted once, whichever ranks had it."""
        return {name: summed(matrix, (of[name] for of in self.pairs.values())) for name, matrix in matrices.items()}
