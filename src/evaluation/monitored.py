"""The number that validations are compared by, and what stands in for it where a split can't have it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

STAND_INS = ("val/AP", "val/top1")
"""What is best where the monitored metric is not known: the first that is. Where none is, the newest validation."""


class Score(NamedTuple):
    """A metric of a validation by its name."""

    name: str
    value: float

    @property
    def is_known(self) -> bool:
        """False for -1 (COCO) and nan (VOC), where the split has nothing to find, and for a loss that is not finite."""
        return math.isfinite(self.value) and (self.value >= 0 or self._is_loss)

    def __str__(self) -> str:
        if not self.is_known:
            return f"{self.name} -"
        return f"{self.name} {self.value:.4f}" if self._is_loss else f"{self.name} {100 * self.value:.2f} %"

    @property
    def _is_loss(self) -> bool:
        return self.name.startswith("val/loss")


@dataclass(frozen=True)
class Monitor:
    """A metric by its name in the log, `val/AP`, and which of its values is best."""

    name: str
    mode: Literal["min", "max"] = "max"

    def score(self, metrics: Mapping[str, float]) -> Score:
        """Finds the number that a validation is judged by: a stand-in where the monitored one is not known."""
        own = Score(self.name, metrics.get(self.name, math.nan))
        others = (Score(name, metrics.get(name, math.nan)) for name in STAND_INS)
        return next((score for score in (own, *others) if score.is_known), own)

    def is_better(self, score: Score, best: Score | None, min_delta: float = 0.0) -> bool:
        """Tells whether a score beats the best before it. The monitored metric beats any stand-in; where nothing is
        known, the newer is better.
        """
        if best is None or self._rank(score) < self._rank(best):
            return True
        if self._rank(score) > self._rank(best):
            return False
        sign = -1 if self.mode == "min" and score.name == self.name else 1
        return not score.is_known or sign * (score.value - best.value) > min_delta

    def _rank(self, score: Score) -> int:
        names = (self.name, *STAND_INS)
        return names.index(score.name) if score.is_known and score.name in names else len(names)

    def warning(self, score: Score) -> str:
        """Says what a validation is judged by instead of the monitored metric; empty where that is known."""
        if score.name == self.name and score.is_known:
            return ""
        if score.is_known:
            instead = f"best.ckpt and callbacks.early_stopping go by {score.name} instead"
        else:
            instead = "the newest checkpoint counts as the best, and callbacks.early_stopping never ends the run"
        return (
            f"callbacks.checkpoints.monitor={self.name}: this validation has no such number (its split has nothing to "
            f"measure it by, or it is not finite); {instead}"
        )
