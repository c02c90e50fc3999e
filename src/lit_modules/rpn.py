"""A region proposal network alone, which detects objects of one class, on Lightning."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from torch import Tensor

from datamodules.batch import Batch
from detectors.anchors import scaled_anchors
from detectors.backbones.base import Backbone, refuse_region_head
from detectors.detections import Detections
from detectors.losses import IGNORED
from detectors.rpn import (
    PYRAMID_STRIDES,
    RPN,
    AnchorSampler,
    AnchorSamples,
    RPNDecoder,
    RPNLoss,
    RPNOutputs,
    map_strides,
)
from evaluation.confusions import Matrix
from evaluation.metrics import Metrics
from evaluation.proposals import ImageProposals, proposal_recall
from evaluation.results import ImagePredictions
from evaluation.truth import Predictions, Truth
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import in_original_pixels
from lit_modules.training_module import MakeOptimizer, MakeSchedule

ANCHOR_CONFUSION = Matrix("Sampled anchors of the proposal network", ("object", "background"))
"""Counts the anchors sampled for the validation loss."""

_DETECTIONS = 100
"""Boxes of an image that are scored as detections: those that COCO's AP sees. All are proposals."""


class Entry(NamedTuple):
    """The detections and proposals of one image that an evaluation keeps."""

    image_id: int | str
    found: ImagePredictions
    proposals: ImageProposals


class RPNModule(DetectionModule):
    """The first half of Faster R-CNN (arXiv 1506.01497); its boxes are the detections, for faces or lines of text.

    An evaluation scores the best 100 of an image as detections, and all as proposals.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        lr: float = 0.02,
        pyramid_channels: int | None = 256,
        pyramid_strides: Sequence[int] = PYRAMID_STRIDES,
        anchor_sizes: tuple[float | tuple[float, ...], ...] = (32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_scales: tuple[float, ...] = (1.0,),
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        grid_offset: float = 0.5,
        round_anchors: bool | Literal["cell"] = False,
        spread_grid: bool = False,
        anchor_sampler: Callable[..., AnchorSamples] = AnchorSampler(),
        loss: Callable[..., dict[str, Tensor]] = RPNLoss(),
        decoder: Callable[..., Detections] = RPNDecoder(max_proposals=100),
    ) -> None:
        if num_classes != 1:
            raise ValueError(
                f"model=rpn has one class, but num_classes={num_classes}: it separates objects from background. Make "
                "one of all classes (data.single_class=object), or give it data of one (data.classes=[NAME], of VOC "
                "with data.other_classes=drop), or take model=faster_rcnn"
            )
        anchors = scaled_anchors(
            map_strides(pyramid_channels, pyramid_strides),
            anchor_sizes,
            anchor_scales,
            anchor_ratios,
            grid_offset=grid_offset,
            round_anchors=round_anchors,
            spread_grid=spread_grid,
        )
        network = RPN(backbone, anchors, pyramid_channels=pyramid_channels, pyramid_strides=pyramid_strides)
        super().__init__(network, optimizer, schedule, lr)
        self.num_classes = num_classes
        refuse_region_head(backbone)
        if pyramid_channels is None:  # what lies behind stride 16 is not run
            backbone.leave_out((16,))
        self.sample_anchors, self.loss, self.decoder = anchor_sampler, loss, decoder

    def confusion_matrices(self, class_names: Sequence[str]) -> dict[str, Matrix]:
        return {"rpn": ANCHOR_CONFUSION}

    def losses(self, outputs: RPNOutputs, batch: Batch) -> dict[str, Tensor]:
        samples = self.sample_anchors(outputs, batch.boxes, batch.labels, batch.sizes, self.sampling_seeds(batch))
        self.count_confusion("rpn", *anchor_pairs(outputs, samples))
        return self.loss(outputs, samples)

    def detect(self, outputs: RPNOutputs, batch: Batch) -> Detections:
        return self.decoder(outputs, batch.sizes)

    def evaluate_batch(self, outputs: RPNOutputs, batch: Batch) -> list[Entry]:
        return [
            Entry(
                one.image_id,
                ImagePredictions(one.image_id, *(values[:_DETECTIONS] for values in one[1:])),
                ImageProposals(one.image_id, one.boxes, one.scores),
            )
            for one in in_original_pixels(batch, self.detect(outputs, batch))
        ]

    def score(self, truth: Truth, entries: Sequence[Entry]) -> tuple[Metrics, Predictions | None]:
        return score_with_proposals(super().score, truth, entries)


def score_with_proposals(
    score: Callable[[Truth, Sequence[ImagePredictions]], tuple[Metrics, Predictions | None]],
    truth: Truth,
    entries: Sequence[Entry],
) -> tuple[Metrics, Predictions | None]:
    """Scores detections, and the recall of the proposals beside them."""
    metrics, predictions = score(truth, [entry.found for entry in entries])
    recall = proposal_recall(truth, [entry.proposals for entry in entries])
    return replace(metrics, scalars=metrics.scalars | recall), predictions


def anchor_pairs(outputs: RPNOutputs, samples: AnchorSamples) -> tuple[Tensor, Tensor]:
    """Gives row and column of each sampled anchor in `ANCHOR_CONFUSION`; a logit over 0 predicts an object."""
    is_background = (samples.labels < 0).long().masked_fill(samples.labels == IGNORED, -1)
    return is_background, (outputs.logits.gather(1, samples.rows) <= 0).long()
