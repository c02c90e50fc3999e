"""A region proposal network alone, which detects objects of one class, on Lightning."""

from torch import Tensor

from datamodules.batch import Batch
from detectors.anchors import Anchors
from detectors.backbones import Backbone
from detectors.detections import Detections
from detectors.rpn import RPN, RPNDecoder, RPNLoss
from lit_modules.base import DetectionModule, MakeOptimizer, MakeSchedule


class RPNModule(DetectionModule):
    """The first half of Faster R-CNN (arXiv 1506.01497); its boxes are the detections, for faces or lines of text."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        lr: float = 0.02,
        pyramid_channels: int | None = 256,
        anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_scales: tuple[float, ...] = (1.0,),
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        grid_offset: float = 0.5,
        round_anchors: bool = False,
        background_iou: float = 0.3,
        foreground_iou: float = 0.7,
        inside_only: bool = False,
        num_samples: int = 256,
        positive_fraction: float = 0.5,
        smooth_l1_beta: float = 0.1111111111111111,
        candidates_per_level: int = 1000,
        nms_threshold: float = 0.7,
        min_size: float = 0.0,
        max_detections: int = 100,
    ) -> None:
        if num_classes != 1:
            raise ValueError(
                f"model=rpn with {num_classes} classes: it tells objects from background and knows no classes. Give it "
                "data of one class (data.classes=[NAME] data.other_classes=drop of VOC), or take model=faster_rcnn"
            )
        anchors = proposal_anchors(
            pyramid_channels, anchor_sizes, anchor_scales, anchor_ratios, grid_offset, round_anchors
        )
        super().__init__(RPN(backbone, anchors, pyramid_channels=pyramid_channels), optimizer, schedule, lr)
        self.loss = RPNLoss(
            background_iou=background_iou,
            foreground_iou=foreground_iou,
            inside_only=inside_only,
            num_samples=num_samples,
            positive_fraction=positive_fraction,
            smooth_l1_beta=smooth_l1_beta,
        )
        self.decoder = RPNDecoder(
            candidates_per_level=candidates_per_level,
            nms_threshold=nms_threshold,
            max_proposals=max_detections,
            min_size=min_size,
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)
        samples = self.loss.sample(outputs, batch.boxes, batch.labels, batch.sizes, self.sampling_seeds(batch))
        return self.loss(outputs, samples)

    def detect(self, batch: Batch) -> Detections:
        return self.decoder(self.outputs(batch), batch.sizes)


def proposal_anchors(
    pyramid_channels: int | None,
    sizes: tuple[float, ...],
    scales: tuple[float, ...],
    ratios: tuple[float, ...],
    grid_offset: float,
    round_anchors: bool,
) -> Anchors:
    """Those of P2-P6, or of the one map of stride 16."""
    strides = (16,) if pyramid_channels is None else (4, 8, 16, 32, 64)
    if len(sizes) != len(strides):
        where = "the map of stride 16" if pyramid_channels is None else "each of P2-P6"
        raise ValueError(f"model.anchor_sizes={list(sizes)}: expected {len(strides)}, one for {where}")
    return Anchors(
        strides=strides,
        sizes=tuple(tuple(size * scale for scale in scales) for size in sizes),
        ratios=tuple(ratios),
        grid_offset=grid_offset,
        round_anchors=round_anchors,
    )
