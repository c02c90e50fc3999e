"""MobileNetV2 (Sandler et al., arXiv 1801.04381) and MobileNetV3-large (Howard et al., arXiv 1905.02244)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from itertools import pairwise
from pathlib import Path

from torch import nn
from torchvision import models

from detectors.backbones.base import Backbone
from detectors.backbones.norms import Norm, norm_layer


class MobileNetV2(Backbone):
    """Features 3, 6, 13 and 18 of MobileNetV2 (arXiv 1801.04381): the last of stride 4, 8, 16 and 32.

    Stages go by stride, as a ResNet's do: features 0-1 (stride 2), 2-3 (4), 4-6 (8), 7-13 (16) and 14-18
    (32). So `frozen_stages=2` keeps features 0-3 as they are. Without `last_convolution` it ends with feature 17, of
    320 channels, as fcos_core's does.
    """

    def __init__(
        self,
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
        norm_eps: float = 1e-5,
        last_convolution: bool = True,
    ) -> None:
        super().__init__()
        self.channels = {4: 24, 8: 32, 16: 96, 32: 1280 if last_convolution else 320}
        self.channels_of_first = {32: 160}
        features = models.mobilenet_v2(weights=None, norm_layer=norm_layer(norm, norm_eps)).features
        self.features = features if last_convolution else features[:-1]
        self._load_and_freeze(weights, models.MobileNet_V2_Weights.IMAGENET1K_V1, frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        layers = list(self.features)
        return [layers[start:end] for start, end in pairwise((0, 2, 4, 7, 14, len(layers)))]


class MobileNetV3Large(Backbone):
    """Features 3, 6, 12 and 16 of MobileNetV3-large (arXiv 1905.02244): the last of stride 4, 8, 16 and 32.

    Stages go by stride: features 0-1 (stride 2), 2-3 (4), 4-6 (8), 7-12 (16) and 13-16 (32). torchvision's classifier
    has an eps of 1e-3 in its norms, which is the default here; its detectors, which start from it, have 1e-5, and a
    pyramid over features 13 and 16 (`model.pyramid_strides=[32, 32]`).
    """

    def __init__(
        self,
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
        norm_eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.channels = {4: 24, 8: 40, 16: 112, 32: 960}
        self.channels_of_first = {32: 160}
        self.features = models.mobilenet_v3_large(weights=None, norm_layer=norm_layer(norm, norm_eps)).features
        self._load_and_freeze(weights, models.MobileNet_V3_Large_Weights.IMAGENET1K_V1, frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        layers = list(self.features)
        return [layers[start:end] for start, end in pairwise((0, 2, 4, 7, 13, 17))]
