"""`DetectionModule`: what every detector shares beside its steps.

A detector's module gives a constructor, `losses(outputs, batch)` and `detect(outputs, batch)`; the steps are those of
`TrainingModule`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import nn

from datamodules.batch import Batch
from detectors.detections import Detections
from evaluation.analysis import Analysis, analyse
from evaluation.curves import best_thresholds
from evaluation.metrics import Metrics, evaluate
from evaluation.results import collect
from evaluation.truth import Predictions, Truth
from lit_modules.evaluated import in_original_pixels
from lit_modules.training_module import MakeOptimizer, MakeSchedule, TrainingModule


class DetectionModule(TrainingModule):
    """Trains and evaluates one detector."""

    def __init__(self, network: nn.Module, optimizer: MakeOptimizer, schedule: MakeSchedule, lr: float) -> None:
        super().__init__(network, optimizer, schedule, lr)
        self.thresholds: dict[str, float] = {}
        """Of each class the score with the best F1 at IoU 0.5, in the last evaluation."""
        self.predictions: Predictions | None = None
        """Of the last evaluation, on rank 0, in the order of `truth`."""
        self._analysis: Analysis | None = None

    @abstractmethod
    def detect(self, outputs: Any, batch: Batch) -> Detections:
        """Detections in pixels of the network input."""

    def evaluate_batch(self, outputs: Any, batch: Batch) -> Sequence[Any]:
        """`ImagePredictions`; a module that keeps more gives `score` its part."""
        return in_original_pixels(batch, self.detect(outputs, batch))

    def score(self, truth: Truth, entries: Sequence[Any]) -> Metrics:
        self.predictions = collect(entries, truth)
        return evaluate(truth, self.predictions)

    @property
    def analysis(self) -> Analysis | None:
        """Of the last evaluation, on rank 0; made when first asked for."""
        if self._analysis is None and self.truth is not None and self.predictions is not None:
            self._analysis = analyse(self.truth, self.predictions, self.metrics)
        return self._analysis

    def log_metrics(self, split: str) -> None:
        super().log_metrics(split)
        self._analysis = None
        self.thresholds = best_thresholds(self.metrics.curves)
        for name, values in self.metrics.per_class.items():
            self.log(f"{split}/AP_class/{name}", values["AP"], logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["boxwright"]["thresholds"] = dict(self.thresholds)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.thresholds = dict(checkpoint["boxwright"].get("thresholds", {}))
