"""What an evaluation keeps of each image, whichever rank saw it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.batch import Batch
from detectors.detections import Detections
from evaluation.confusions import Confusion, Matrix, summed
from evaluation.results import ImagePredictions
from evaluation.truth import Truth


def in_original_pixels(batch: Batch, detections: Detections) -> list[ImagePredictions]:
    """Of each image without padding, mapped back with the scale that it was resized by, and cut at its border."""
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


@dataclass
class Evaluation:
    """What one rank saw of a split: what it made of each image, losses by batch."""

    entries: list[Any] = field(default_factory=list[Any])
    """Each with an `image_id`."""
    losses: dict[Any, tuple[int, dict[str, float]]] = field(default_factory=dict[Any, tuple[int, dict[str, float]]])
    """(images, loss by name) of each batch, keyed by the first image's id: batches are never cut."""
    pairs: dict[Any, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict[Any, dict[str, Any]])
    """By name of a confusion matrix, as `evaluation.confusions.pairs` has them, of each batch, keyed as its losses."""
    unread: dict[Any, str] = field(default_factory=dict[Any, str])
    """Images that could not be read, with the reason; they count for nothing."""

    def add(
        self,
        batch: Batch,
        losses: dict[str, Tensor],
        entries: Iterable[Any],
        pairs: dict[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """Take one batch."""
        self.unread |= {info.image_id: str(info.error) for info in batch.unread}
        if not batch.infos:  # none of it could be read
            return
        self.entries += entries
        values = {"loss": float(sum(v.item() for v in losses.values()))} | {k: v.item() for k, v in losses.items()}
        self.losses[batch.infos[0].image_id] = (len(batch.infos), values)
        self.pairs[batch.infos[0].image_id] = pairs or {}

    @staticmethod
    def merged(shards: Sequence["Evaluation"]) -> "Evaluation":
        whole = Evaluation()
        for shard in shards:
            whole.entries += shard.entries
            whole.losses |= shard.losses
            whole.pairs |= shard.pairs
            whole.unread |= shard.unread
        return whole

    def scored_part(self, truth: Truth, limited: bool) -> Truth:
        """The truth of the images that count: all that could be read, or those seen in a limited run."""
        if not self.unread and not limited:
            return truth
        seen = {entry.image_id for entry in self.entries}
        ids = truth.image_ids.tolist()
        return truth.only(np.array([(i in seen) if limited else (i not in self.unread) for i in ids], bool))

    def mean_losses(self) -> dict[str, float]:
        """Mean over images, summed in the order of the ids: the same digits however the batches were dealt."""
        if not self.losses:
            return {}
        ordered = [self.losses[key] for key in sorted(self.losses)]
        count = sum(number for number, _ in ordered)
        return {name: sum(n * values[name] for n, values in ordered) / count for name in ordered[0][1]}

    def confusions(self, matrices: Mapping[str, Matrix]) -> dict[str, Confusion]:
        """Each batch counted once, whichever ranks it was dealt to."""
        return {name: summed(matrix, (of[name] for of in self.pairs.values())) for name, matrix in matrices.items()}
