"""`Backbone`: images to feature maps, with frozen stages, norms and normalisation of its weights."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchvision import models

from detectors.arguments import KeepsArguments
from detectors.backbones.norms import fold_frozen_norms
from detectors.weights import load_backbone, load_published

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of RGB in 0-1 that torchvision's weights were trained with."""
CAFFE_MEAN = (122.7717, 115.9465, 102.9801)
"""Mean of RGB in 0-255, with a deviation of 1, that Caffe's weights were trained with, though on BGR."""


def refuse_region_head(backbone: "Backbone") -> None:
    """Raises ValueError where the head would not be used: its parameters would have no gradient."""
    if backbone.region_size is not None:
        raise ValueError(
            "model.backbone.fully_connected=true: fc6 and fc7 are of use to model=faster_rcnn "
            "model.pyramid_channels=null alone; set it to false"
        )


class Backbone(KeepsArguments, nn.Module, ABC):
    """Images in, feature maps of rising stride out.

    The pixel scale belongs to the weights: it lies in persistent buffers and travels in checkpoints.
    """

    channels: dict[int, int]
    """Number of channels of the feature map at each stride, from 4 to that of the last stage, mostly 32."""
    channels_of_first: Mapping[int, int] = MappingProxyType({})
    """Number of channels behind the first layer of a stride, where that is a map of its own: see `forward`."""
    stage_strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Stride behind each of `stages`."""
    pixel_mean: Tensor
    pixel_std: Tensor
    frozen_stages: int = 0
    has_region_head: bool = True
    """Whether layers follow the map of stride 16; where it is the last one, a detector brings its own head."""
    region_size: int | None = None
    """Cells in x and in y that `region_head` needs; None where any number will do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN))
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD))

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Layers by stride: those up to stride 2, those that follow up to stride 4, then 8, 16 and 32, as
        `stage_strides` has them."""

    def forward(self, x: Float[Tensor, "B 3 H W"], strides: tuple[int, ...] = (8, 16, 32)) -> list[Tensor]:
        """Feature maps of normalised images, the finest first; layers after the last of them are not run.

        A stride named twice gives the map behind its first layer too, as torchvision's detectors on a MobileNetV3 have
        it: `strides=(32, 32)`.
        """
        maps: list[Tensor] = []
        for stage, stride in zip(self.stages(), self.stage_strides, strict=True):
            if stride > max(strides):
                break
            for number, layer in enumerate(stage):
                x = layer(x)
                if number == 0 and strides.count(stride) > 1:
                    maps.append(x)
            if stride in strides:
                maps.append(x)
        return maps

    def channels_at(self, strides: tuple[int, ...]) -> list[int]:
        """Channels of the maps of these strides; ValueError where one does not exist."""
        if absent := [stride for stride in strides if stride not in self.channels]:
            raise ValueError(
                f"model.backbone has maps of stride {', '.join(map(str, self.channels))}, and none of "
                f"{', '.join(map(str, absent))}, which this model needs; {self._without_map()}"
            )
        twice = {stride for stride in strides if strides.count(stride) > 1}
        if list(strides) != sorted(strides) or any(strides.count(stride) > 2 for stride in twice):
            raise ValueError(f"model.pyramid_strides={list(strides)}: expected rising strides, none more than twice")
        if no_first := sorted(twice - self.channels_of_first.keys()):
            raise ValueError(
                f"model.pyramid_strides={list(strides)}: of stride {no_first[0]} this backbone has one map; the first "
                "of two is one of mobilenet_v2 and mobilenet_v3_large"
            )
        return [
            self.channels_of_first[stride] if stride in strides[i + 1 :] else self.channels[stride]
            for i, stride in enumerate(strides)
        ]

    def _without_map(self) -> str:
        """What to do where a map does not exist."""
        return "take another backbone"

    def leave_out(self, strides: tuple[int, ...]) -> None:
        """Freezes layers that the maps of these strides do not need: without a gradient they would stop DDP.

        A backbone with a `forward` of its own may have fewer stages than strides, and decides for itself.
        """
        for stage, stride in zip(self.stages(), self.stage_strides, strict=False):
            if stride > max(strides):
                for layer in stage:
                    layer.requires_grad_(False)

    def layer_numbers(self) -> dict[str, int]:
        """The layer that each parameter is in, from 0, the stem; without those that come behind all layers.

        ValueError where the layers are not known.
        """
        raise ValueError(
            f"optimizer.backbone_layer_decay needs a backbone whose layers are known, and {type(self).__name__} does "
            "not tell: take one of model/backbone=timm, or give all of it one rate by backbone_lr_factor"
        )

    @property
    def region_channels(self) -> int:
        """Number of channels that `region_head` returns."""
        return self.channels[32]

    def region_head(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D"]:
        """Features of regions pooled from the map of stride 16: the last stage as a head (1512.03385, appendix A)."""
        for layer in self.stages()[-1]:
            x = layer(x)
        return x.mean(dim=(2, 3))

    def normalize(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B 3 H W"]:
        """Normalises pixels as the weights expect them, in the parameters' precision and layout; padding becomes zero.

        Zero *after* normalisation, so that a convolution sees the padding as it sees its own.
        """
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        # Convolutions of contiguous weights would otherwise follow the images, which come channels last.
        contiguous = next(self.parameters()).is_contiguous()
        layout = torch.contiguous_format if contiguous else torch.channels_last
        pixels = images.to(self.pixel_mean.dtype, memory_format=layout) / 255
        return (pixels - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None] * inside

    def train(self, mode: bool = True) -> "Backbone":
        """Sets training mode for all but the frozen stages, whose statistics must not change."""
        super().train(mode)
        for layer in chain(*self.stages()[: self.frozen_stages]):
            layer.eval()
        return self

    def _load_and_freeze(
        self,
        weights: str | Path | None,
        published: models.WeightsEnum | None,
        frozen_stages: int,
        *,
        caffe: bool = False,
    ) -> None:
        """Loads weights and freezes stages. `caffe`: the file's first filters were trained on BGR of 0-255; they are
        turned to RGB and the pixel scale is theirs, unless the file has one, as our checkpoints do.
        """
        fold_frozen_norms(self)
        self._check_frozen_stages(frozen_stages)
        if caffe:
            if weights == "imagenet":
                raise ValueError(
                    "model.backbone.caffe=true with model.backbone.weights=imagenet: these are torchvision's; give the "
                    "file of Caffe's weights, or caffe=false"
                )
            self.pixel_mean.copy_(torch.tensor(CAFFE_MEAN) / 255)
            self.pixel_std.fill_(1 / 255)
        taken: Set[str] = set()
        if weights == "imagenet" and published is not None:
            taken = load_published(self, published)
        elif weights is not None:
            taken = load_backbone(self, weights)
        if caffe and taken and "pixel_mean" not in taken:
            first = next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))
            first.weight.data = first.weight.data.flip(1).contiguous()
        self._freeze(frozen_stages)

    def _check_frozen_stages(self, frozen_stages: int) -> None:
        number = len(self.stages())
        if not 0 <= frozen_stages <= number:
            raise ValueError(
                f"frozen_stages={frozen_stages}: expected 0 (all train) to {number} (none trains); "
                "n freezes the layers up to stride 2^n"
            )

    def _freeze(self, frozen_stages: int) -> None:
        for layer in chain(*self.stages()[:frozen_stages]):
            layer.requires_grad_(False)
        self.frozen_stages = frozen_stages
        self.train()
