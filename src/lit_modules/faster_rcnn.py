"""Faster R-CNN on Lightning: features, proposals, sampling against the truth, refinement."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from detectors.anchors import scaled_anchors
from detectors.backbones.base import Backbone
from detectors.backbones.norms import Norm
from detectors.boxes import check_same_weights
from detectors.detections import Detections
from detectors.faster_rcnn import FasterRCNN, RegionDecoder, RegionLoss, RegionOutputs, RegionSampler, RegionSamples
from detectors.losses import BACKGROUND, IGNORED
from detectors.rpn import (
    PYRAMID_STRIDES,
    AnchorSampler,
    AnchorSamples,
    Proposals,
    RPNDecoder,
    RPNLoss,
    RPNOutputs,
    map_strides,
)
from evaluation.confusions import Matrix
from evaluation.metrics import Metrics
from evaluation.proposals import ImageProposals
from evaluation.truth import Predictions, Truth
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import in_original_pixels
from lit_modules.rpn import ANCHOR_CONFUSION, Entry, anchor_pairs, score_with_proposals
from lit_modules.training_module import MakeOptimizer, MakeSchedule


class TwoStageOutputs(NamedTuple):
    """Outputs of the first stage, from which losses and detections are computed."""

    rpn: RPNOutputs
    proposals: Proposals


class FasterRCNNModule(DetectionModule):
    """Faster R-CNN (arXiv 1506.01497), by default over a pyramid (arXiv 1612.03144), trained in one go.

    An evaluation also scores the proposals, and counts the classes that both stages predict for the samples of its
    loss. Those are drawn by the images' ids, so that the counts depend neither on ranks nor on interruptions;
    simple-faster-rcnn-pytorch, where the idea comes from, adds up the samples of an epoch of training.
    """

    network: FasterRCNN

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        lr: float = 0.02,
        pyramid_channels: int | None = 256,
        pyramid_strides: Sequence[int] = PYRAMID_STRIDES,
        pyramid_norm: Norm | None = None,
        rpn_convs: int = 1,
        anchor_sizes: tuple[float | tuple[float, ...], ...] = (32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_scales: tuple[float, ...] = (1.0,),
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        grid_offset: float = 0.5,
        round_anchors: bool | Literal["cell"] = False,
        spread_grid: bool = False,
        pooling: Literal["align", "max"] = "align",
        pooled_size: int = 7,
        aligned: bool = True,
        spare_columns: int = 0,
        pooling_samples: int = 2,
        head_convs: int = 0,
        head_channels: int = 1024,
        anchor_sampler: Callable[..., AnchorSamples] = AnchorSampler(),
        rpn_loss: Callable[..., dict[str, Tensor]] = RPNLoss(),
        train_proposer: RPNDecoder = RPNDecoder(candidates_per_level=2000, max_proposals=2000),
        proposer: RPNDecoder = RPNDecoder(),
        region_sampler: Callable[..., RegionSamples] = RegionSampler(),
        region_loss: Callable[..., dict[str, Tensor]] = RegionLoss(),
        decoder: Callable[..., Detections] = RegionDecoder(),
    ) -> None:
        anchors = scaled_anchors(
            map_strides(pyramid_channels, pyramid_strides),
            anchor_sizes,
            anchor_scales,
            anchor_ratios,
            grid_offset=grid_offset,
            round_anchors=round_anchors,
            spread_grid=spread_grid,
        )
        network = FasterRCNN(
            backbone,
            num_classes,
            anchors,
            pyramid_channels=pyramid_channels,
            pyramid_strides=pyramid_strides,
            pyramid_norm=pyramid_norm,
            rpn_convs=rpn_convs,
            head_convs=head_convs,
            head_channels=head_channels,
            pooling=pooling,
            pooled_size=pooled_size,
            aligned=aligned,
            spare_columns=spare_columns,
            pooling_samples=pooling_samples,
        )
        super().__init__(network, optimizer, schedule, lr)
        self.num_classes = num_classes
        check_same_weights(region_loss, decoder)
        self.sample_anchors, self.rpn_loss = anchor_sampler, rpn_loss
        self.train_proposer, self.proposer = train_proposer, proposer
        self.sample_regions, self.region_loss, self.decoder = region_sampler, region_loss, decoder

    def forward_batch(self, batch: Batch) -> TwoStageOutputs:
        """Computes features and proposals; training has more proposals, since its samples are drawn from them."""
        features = self.network(batch.images, batch.sizes)
        propose = self.train_proposer if torch.is_grad_enabled() else self.proposer
        return TwoStageOutputs(features, propose(features, batch.sizes))

    def losses(self, outputs: TwoStageOutputs, batch: Batch) -> dict[str, Tensor]:
        features, proposals = outputs
        seeds = self.sampling_seeds(batch)
        anchors = self.sample_anchors(features, batch.boxes, batch.labels, batch.sizes, seeds)
        regions = self.sample_regions(proposals, batch.boxes, batch.labels, seeds)
        refined = self.network.refine(features.maps, regions.regions)
        self.count_confusion("rpn", *anchor_pairs(features, anchors))
        self.count_confusion("roi_head", *region_pairs(refined, regions))
        return self.rpn_loss(features, anchors) | self.region_loss(refined, regions)

    def detect(self, outputs: TwoStageOutputs, batch: Batch) -> Detections:
        features, proposals = outputs
        return self.decoder(self.network.refine(features.maps, proposals.boxes), proposals, batch.sizes)

    def evaluate_batch(self, outputs: TwoStageOutputs, batch: Batch) -> list[Entry]:
        found = in_original_pixels(batch, self.detect(outputs, batch))
        proposed = in_original_pixels(batch, outputs.proposals)
        return [
            Entry(one.image_id, one, ImageProposals(one.image_id, every.boxes, every.scores))
            for one, every in zip(found, proposed, strict=True)
        ]

    def confusion_matrices(self, class_names: Sequence[str]) -> dict[str, Matrix]:
        regions = Matrix("Sampled regions of the head", (*class_names, "background"))
        return {"rpn": ANCHOR_CONFUSION, "roi_head": regions}

    def flops_beside_forward(self, network: nn.Module) -> None:
        cells = self.network.pooled_size
        regions = torch.empty(self.proposer.max_proposals, self.network.num_channels, cells, cells)
        cast(FasterRCNN, network).classify_regions(regions.to(next(network.parameters()).device))

    def score(self, truth: Truth, entries: Sequence[Entry]) -> tuple[Metrics, Predictions | None]:
        return score_with_proposals(super().score, truth, entries)


def region_pairs(outputs: RegionOutputs, samples: RegionSamples) -> tuple[Tensor, Tensor]:
    """Gives row and column of each sampled region in the head's confusion matrix, whose last class is background."""
    columns = outputs.logits.shape[2] - outputs.spare_columns
    background = columns - 1
    predicted = outputs.logits[:, :, :columns].argmax(dim=2) - 1
    rows = samples.labels.where(samples.labels != BACKGROUND, background).where(samples.labels != IGNORED, -1)
    return rows, predicted.where(predicted >= 0, background)
