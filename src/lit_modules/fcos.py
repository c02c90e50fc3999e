"""FCOS on Lightning: which network, which loss, which decoder."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from datamodules.batch import Batch
from detectors.backbones.base import Backbone
from detectors.detections import Detections
from detectors.fcos import FCOS, FCOSDecoder, FCOSLoss, FCOSOutputs
from lit_modules.detection_module import DetectionModule
from lit_modules.training_module import MakeOptimizer, MakeSchedule


class FCOSModule(DetectionModule):
    """FCOS (arXiv 1904.01355); the defaults are the paper's first version, conf/experiment/fcos_imprv_* its second."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        lr: float = 0.01,
        pyramid_channels: int = 256,
        p6_from: Literal["p5", "c5"] = "p5",
        num_convs: int = 4,
        head_norm: Literal["gn"] | None = "gn",
        prior: float = 0.01,
        normalize_targets: bool = False,
        centerness_on_box: bool = False,
        grid_offset: float = 0.5,
        spread_grid: bool = False,
        deformable_towers: bool = False,
        loss: Callable[..., dict[str, Tensor]] = FCOSLoss(),
        decoder: Callable[..., Detections] = FCOSDecoder(),
    ) -> None:
        network = FCOS(
            backbone,
            num_classes,
            pyramid_channels=pyramid_channels,
            p6_from=p6_from,
            num_convs=num_convs,
            head_norm=head_norm,
            prior=prior,
            normalize_targets=normalize_targets,
            centerness_on_box=centerness_on_box,
            grid_offset=grid_offset,
            spread_grid=spread_grid,
            deformable_towers=deformable_towers,
        )
        super().__init__(network, optimizer, schedule, lr)
        self.num_classes = num_classes
        self.loss, self.decoder = loss, decoder

    def losses(self, outputs: FCOSOutputs, batch: Batch) -> dict[str, Tensor]:
        return self.loss(outputs, batch.boxes, batch.labels)

    def detect(self, outputs: FCOSOutputs, batch: Batch) -> Detections:
        return self.decoder(outputs, batch.sizes)
