"""`DetectionModule`: the evaluation that all detectors share.

A detector's module gives a constructor, `losses(outputs, batch)` and `detect(outputs, batch)`; the steps are those of
`TrainingModule`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from datamodules.batch import Batch
from detectors.detections import Detections
from evaluation.metrics import Metrics, evaluate
from evaluation.results import ImagePredictions, collect
from evaluation.truth import Predictions, Truth
from lit_modules.evaluated import in_original_pixels
from lit_modules.training_module import TrainingModule


class DetectionModule(TrainingModule):
    """Trains and evaluates one detector."""

    @abstractmethod
    def detect(self, outputs: Any, batch: Batch) -> Detections:
        """Decodes outputs into detections in pixels of the network input."""

    def evaluate_batch(self, outputs: Any, batch: Batch) -> Sequence[Any]:
        """Returns `ImagePredictions`; a module that returns more passes that part of it on to `score`."""
        return in_original_pixels(batch, self.detect(outputs, batch))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[ImagePredictions]:
        """What is found on each image, in its original pixels."""
        return in_original_pixels(batch, self.detect(self.forward_batch(batch), batch)) if batch.infos else []

    def score(self, truth: Truth, entries: Sequence[Any]) -> tuple[Metrics, Predictions | None]:
        predictions = collect(entries, truth)
        return evaluate(truth, predictions), predictions

    def log_metrics(self, split: str) -> None:
        super().log_metrics(split)
        for name, values in self.last.metrics.per_class.items():
            self.log_metric(f"{split}/AP_class/{name}", values["AP"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["boxwright"]["thresholds"] = dict(self.last.thresholds)
