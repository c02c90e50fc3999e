"""VGG-16 (Simonyan and Zisserman, arXiv 1409.1556)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models

from detectors.backbones.base import Backbone
from detectors.backbones.norms import NORMS, Norm

VGG16S: dict[bool, tuple[Callable[..., models.VGG], models.WeightsEnum]] = {
    False: (models.vgg16, models.VGG16_Weights.IMAGENET1K_V1),
    True: (models.vgg16_bn, models.VGG16_BN_Weights.IMAGENET1K_V1),
}
"""Networks and weights without a norm, and with one."""


class VGG16(Backbone):
    """VGG-16 (arXiv 1409.1556): conv3_3, conv4_3, conv5_3 and its pooling; `norm` as in torchvision's
    `vgg16_bn`, behind each convolution, or none as published.

    A stage begins with the pooling that leads to its stride. So `frozen_stages=1` keeps conv1 and conv2 as they are,
    as Faster R-CNN has it (arXiv 1506.01497, section 3.1); fc6 and fc7 are in no stage, and train.
    """

    def __init__(
        self,
        weights: str | Path | None = "imagenet",
        norm: Norm | None = None,
        frozen_stages: int = 1,
        fully_connected: bool = False,
        dropout: float = 0.0,
        caffe: bool = False,
    ) -> None:
        """Builds the network; `fully_connected` keeps fc6 and fc7 for `region_head`, with `dropout` behind each.

        `caffe` says that the file is Caffe's: its first filters, which were trained on BGR, are turned to RGB, and
        pixels are scaled as there. A checkpoint of ours holds both already.
        """
        super().__init__()
        build, published = VGG16S[norm is not None]
        network = build(weights=None, dropout=dropout, init_weights=weights is None)
        self.channels = {4: 256, 8: 512, 16: 512, 32: 512}
        layers = list(cast(nn.Sequential, network.features))
        if norm is not None:
            layers = [NORMS[norm](x.num_features) if isinstance(x, nn.BatchNorm2d) else x for x in layers]
        self.features = nn.Sequential(*layers)
        self.classifier = network.classifier[:6] if fully_connected else None
        self.region_size = 7 if fully_connected else None
        self._load_and_freeze(weights, published, frozen_stages, caffe=caffe)

    def stages(self) -> list[list[nn.Module]]:
        layers = list(self.features)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        return [layers[start:end] for start, end in pairwise((0, *pools[1:], len(layers)))]

    @property
    def region_channels(self) -> int:
        if self.classifier is None:
            raise ValueError(
                "model.backbone.fully_connected=false: regions of one map go through fc6 and fc7; set it to true, or "
                "take a pyramid (model.pyramid_channels=256)"
            )
        return 4096

    def region_head(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D"]:
        """Features of regions pooled to 7 x 7, by fc6 and fc7."""
        return cast(nn.Module, self.classifier)(x.flatten(1))
