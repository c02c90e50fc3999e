"""RetinaNet on Lightning: which network, which loss, which decoder."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from datamodules.batch import Batch
from detectors.anchors import scaled_anchors
from detectors.backbones.base import Backbone
from detectors.boxes import check_same_weights
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
        anchor_sizes: tuple[float | tuple[float, ...], ...] = (32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_scales: tuple[float, ...] = (1.0, 1.2599210498948732, 1.5874010519681994),
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        grid_offset: float = 0.5,
        round_anchors: bool | Literal["cell"] = False,
        spread_grid: bool = False,
        loss: Callable[..., dict[str, Tensor]] = RetinaNetLoss(),
        decoder: Callable[..., Detections] = RetinaNetDecoder(),
    ) -> None:
        anchors = scaled_anchors(
            (8, 16, 32, 64, 128),
            anchor_sizes,
            anchor_scales,
            anchor_ratios,
            grid_offset=grid_offset,
            round_anchors=round_anchors,
            spread_grid=spread_grid,
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
        self.num_classes = num_classes
        check_same_weights(loss, decoder)
        self.loss, self.decoder = loss, decoder

    def losses(self, outputs: RetinaNetOutputs, batch: Batch) -> dict[str, Tensor]:
        return self.loss(outputs, batch.boxes, batch.labels)

    def detect(self, outputs: RetinaNetOutputs, batch: Batch) -> Detections:
        return self.decoder(outputs, batch.sizes)
