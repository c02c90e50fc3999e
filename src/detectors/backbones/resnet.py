"""ResNet (He et al., arXiv 1512.03385)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import nn
from torchvision import models

from detectors.backbones.base import Backbone
from detectors.backbones.norms import NORMS, Norm

RESNETS: dict[int, tuple[Callable[..., models.ResNet], models.WeightsEnum]] = {
    18: (models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1),
    34: (models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1),
    50: (models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1),
    101: (models.resnet101, models.ResNet101_Weights.IMAGENET1K_V1),
}
"""IMAGENET1K_V1 are the weights of the original recipe, which torchvision's detectors start from too."""


class ResNet(Backbone):
    """C2 to C5 of a ResNet (arXiv 1512.03385); strides lie in the 3x3 convolutions, as in torchvision.

    `frozen_stages=2` is fcos_core's FREEZE_CONV_BODY_AT 2: stem and first residual stage. Random weights
    (`weights=null`) with `frozen_bn` have no normalisation at all; train those with `bn`, `sync_bn` or `gn`.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101],
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        build, published = RESNETS[depth]
        network = build(weights=None, norm_layer=NORMS[norm])
        self.channels = {stride: stride * (16 if depth < 50 else 64) for stride in (4, 8, 16, 32)}
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )
        self._load_and_freeze(weights, published, frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        stem = [self.conv1, self.bn1, self.relu]
        return [stem, [self.maxpool, self.layer1], [self.layer2], [self.layer3], [self.layer4]]
