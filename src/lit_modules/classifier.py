"""A classifier on Lightning, whose checkpoint any detector takes for its backbone."""

from collections.abc import Sequence

from torch import Tensor

from datamodules.batch import Batch
from detectors.backbones.base import Backbone
from detectors.classifier import Classifier, classification_loss, top_classes
from evaluation.classification import TOP, ImageProbabilities, ImageRanking, accuracy
from evaluation.metrics import Metrics
from evaluation.truth import Truth
from lit_modules.training_module import MakeOptimizer, MakeSchedule, TrainingModule


class ClassifierModule(TrainingModule):
    """Trains a classifier: the first label of an image is its class, and its boxes are not used."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        lr: float = 0.0125,
    ) -> None:
        super().__init__(Classifier(backbone, num_classes), optimizer, schedule, lr)
        self.num_classes = num_classes

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(outputs, batch.labels[:, 0])

    def evaluate_batch(self, outputs: Tensor, batch: Batch) -> list[ImageRanking]:
        ranked = top_classes(outputs, TOP).cpu().numpy()
        return [ImageRanking(info.image_id, labels) for info, labels in zip(batch.infos, ranked, strict=True)]

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[ImageProbabilities]:
        """The probabilities of all classes on each image."""
        logits = self.forward_batch(batch).float()
        labels, shares = top_classes(logits, 1).cpu().numpy(), logits.softmax(dim=1).cpu().numpy()
        return [
            ImageProbabilities(info.image_id, int(label), share)
            for info, (label,), share in zip(batch.infos, labels, shares, strict=False)
        ]

    def score(self, truth: Truth, entries: Sequence[ImageRanking]) -> tuple[Metrics, None]:
        return Metrics(*accuracy(truth, entries)), None
