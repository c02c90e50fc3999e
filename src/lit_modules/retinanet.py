"""RetinaNet on Lightning: which network, which loss, which decoder."""

from typing import Literal

from torch import Tensor

from datamodules.batch import Batch
from detectors.anchors import scaled_anchors
from detectors.backbones.base import Backbone
from detectors.detections import Detections
from detectors.retinanet import RetinaNet, RetinaNetDecoder, RetinaNetLoss, RetinaNetOutputs
from lit_modules.detection_module import DetectionModule
from lit_modules.training_module import MakeOptimizer, MakeSchedule


class RetinaNetModule(DetectionModule):
    """RetinaNet (arXiv 1708.02002); the defaults are those of Detectron's successors, deltas weighted as in R-CNN."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        lr: float = 0.01,
        pyramid_channels: int = 256,
        p6_from: Literal["p5", "c5"] = "c5",
        num_convs: int = 4,
        head_norm: Literal["gn"] | None = None,
        prior: float = 0.01,
        anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_scales: tuple[float, ...] = (1.0, 1.2599210498948732, 1.5874010519681994),
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        grid_offset: float = 0.5,
        round_anchors: bool = False,
        background_iou: float = 0.4,
        foreground_iou: float = 0.5,
        low_quality: bool = True,
        box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        box_loss: Literal["smooth_l1", "l1", "giou"] = "smooth_l1",
        smooth_l1_beta: float = 0.1111111111111111,
        box_loss_weight: float = 0.25,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        fast_decode: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        candidates_per_level: int = 1000,
        max_detections: int = 100,
    ) -> None:
        anchors = scaled_anchors(
            (8, 16, 32, 64, 128),
            anchor_sizes,
            anchor_scales,
            anchor_ratios,
            grid_offset=grid_offset,
            round_anchors=round_anchors,
        )
        network = RetinaNet(
            backbone,
            num_classes,
            anchors,
            pyramid_channels=pyramid_channels,
            p6_from=p6_from,
            num_convs=num_convs,
            head_norm=head_norm,
            prior=prior,
        )
        super().__init__(network, optimizer, schedule, lr)
        x, y, width, height = box_weights
        self.loss = RetinaNetLoss(
            box_weights=(x, y, width, height),
            background_iou=background_iou,
            foreground_iou=foreground_iou,
            low_quality=low_quality,
            box_loss=box_loss,
            smooth_l1_beta=smooth_l1_beta,
            box_loss_weight=box_loss_weight,
            focal_alpha=focal_alpha,
            focal_gamma=focal_gamma,
        )
        self.decoder = RetinaNetDecoder(
            box_weights=self.loss.box_weights,
            fast_decode=fast_decode,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            candidates_per_level=candidates_per_level,
            max_detections=max_detections,
        )

    def losses(self, outputs: RetinaNetOutputs, batch: Batch) -> dict[str, Tensor]:
        return self.loss(outputs, batch.boxes, batch.labels)

    def detect(self, outputs: RetinaNetOutputs, batch: Batch) -> Detections:
        return self.decoder(outputs, batch.sizes)
