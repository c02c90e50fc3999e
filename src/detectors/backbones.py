"""Trunks: torchvision's classification networks, cut where the strides are 8, 16 and 32."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from detectors.weights import load_backbone, load_published

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in 0-1: what torchvision's weights were trained with."""


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; each rank's gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, *grad_outputs)


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's, in one pass and in the input's precision under autocast.

    Multiplying by float32 buffers would make float32 maps out of bf16 ones, and the next convolution would
    cast them back; in float32 the two passes are the faster ones on a CPU.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        if x.dtype == torch.float32:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks on CPUs (gloo), for which `nn.SyncBatchNorm` has no path.

    Plain arithmetic with differentiable reductions: it makes two CPU ranks equal one, and is not fast.
    """

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        if not self.training or not dist.is_available() or not dist.is_initialized():
            return super().forward(input)
        x = input.float()
        count = torch.tensor(x.numel() / x.shape[1])
        dist.all_reduce(count)
        mean = cast(Tensor, _SumOverRanks.apply(x.sum(dim=(0, 2, 3)))) / count
        centred = x - mean[:, None, None]
        variance = cast(Tensor, _SumOverRanks.apply(centred.square().sum(dim=(0, 2, 3)))) / count
        with torch.no_grad():
            momentum = cast(float, self.momentum)
            cast(Tensor, self.running_mean).lerp_(mean, momentum)
            cast(Tensor, self.running_var).lerp_(variance * count / (count - 1), momentum)
            cast(Tensor, self.num_batches_tracked).add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def sync_batch_norm(num_channels: int) -> nn.Module:
    """torch's own where there are GPUs, which DistributedDataParallel refuses to wrap on a CPU."""
    return (nn.SyncBatchNorm if torch.cuda.is_available() else SyncBatchNorm)(num_channels)


def group_norm(num_channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups (arXiv 1803.08494), or of the largest number below that divides the channels
    into groups of two or more: a group of one channel makes nothing of a map of one cell.

    MobileNetV2 has layers of 16, 24, 32 and 144 channels: 8, 12, 16 and 24 groups.
    """
    most = min(32, max(1, num_channels // 2))
    return nn.GroupNorm(max(g for g in range(1, most + 1) if num_channels % g == 0), num_channels)


Norm = Literal["frozen_bn", "bn", "sync_bn", "gn"]
NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "frozen_bn": FrozenBatchNorm,
    "bn": nn.BatchNorm2d,
    "sync_bn": sync_batch_norm,
    "gn": group_norm,
}


class Backbone(nn.Module, ABC):
    """Images in, feature maps of rising stride out.

    The pixel scale belongs to the weights: it lies in persistent buffers and travels in checkpoints.
    """

    channels: tuple[int, ...]
    """Of each feature map."""
    strides: tuple[int, ...]
    pixel_mean: Tensor
    pixel_std: Tensor
    frozen_stages: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN))
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD))

    @abstractmethod
    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Feature maps of normalised images."""

    @abstractmethod
    def stages(self) -> list[nn.Module]:
        """The layers up to stride 2, those that follow up to stride 4, then 8, 16 and 32."""

    def normalize(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels as the weights expect them, in the parameters' precision; the padding becomes zero.

        Zero *after* normalisation, so that a convolution sees the padding as it sees its own.
        """
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        pixels = images.to(self.pixel_mean.dtype) / 255
        return (pixels - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None] * inside

    def train(self, mode: bool = True) -> "Backbone":
        """Training mode for all but the frozen stages, whose statistics must not move."""
        super().train(mode)
        for stage in self.stages()[: self.frozen_stages]:
            stage.eval()
        return self

    def _load_and_freeze(self, weights: str | Path | None, published: models.WeightsEnum, frozen_stages: int) -> None:
        stages = self.stages()
        if not 0 <= frozen_stages <= len(stages):
            raise ValueError(
                f"frozen_stages={frozen_stages}: expected 0 (all train) to {len(stages)} (none trains); "
                "n freezes the layers up to stride 2^n"
            )
        if weights == "imagenet":
            load_published(self, published)
        elif weights is not None:
            load_backbone(self, weights)
        for stage in stages[:frozen_stages]:
            stage.requires_grad_(False)
        self.frozen_stages = frozen_stages
        self.train()


RESNETS: dict[int, tuple[Callable[..., models.ResNet], models.WeightsEnum]] = {
    18: (models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1),
    34: (models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1),
    50: (models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1),
    101: (models.resnet101, models.ResNet101_Weights.IMAGENET1K_V1),
}
"""IMAGENET1K_V1 are the weights of the original recipe, which torchvision's detectors start from too."""


class ResNet(Backbone):
    """C3, C4 and C5 of a ResNet (arXiv 1512.03385); strides lie in the 3x3 convolutions, as in torchvision.

    `frozen_stages=2` is fcos_core's FREEZE_CONV_BODY_AT 2: stem and first residual stage. Random weights
    (`weights=null`) with `frozen_bn` have no normalisation at all; train those with `bn`, `sync_bn` or `gn`.
    """

    strides = (8, 16, 32)

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101],
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        build, published = RESNETS[depth]
        trunk = build(weights=None, norm_layer=NORMS[norm])
        self.channels = (128, 256, 512) if depth < 50 else (512, 1024, 2048)
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            trunk.layer1,
            trunk.layer2,
            trunk.layer3,
            trunk.layer4,
        )
        self._load_and_freeze(weights, published, frozen_stages)

    def stages(self) -> list[nn.Module]:
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c3 = self.layer2(self.layer1(x))
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


class MobileNetV2(Backbone):
    """Features 6, 13 and 18 of MobileNetV2 (arXiv 1801.04381): the last of stride 8, of 16 and of 32.

    Stages go by stride, as a ResNet's do: features 0-1 (stride 2), 2-3 (4), 4-6 (8), 7-13 (16) and 14-18
    (32). So `frozen_stages=2` keeps features 0-3 as they are.
    """

    channels = (32, 96, 1280)
    strides = (8, 16, 32)

    def __init__(
        self,
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        self.features = models.mobilenet_v2(weights=None, norm_layer=NORMS[norm]).features
        self._load_and_freeze(weights, models.MobileNet_V2_Weights.IMAGENET1K_V1, frozen_stages)

    def stages(self) -> list[nn.Module]:
        layers = list(self.features)
        ends = (0, 2, 4, 7, 14, 19)
        return [nn.Sequential(*layers[start:end]) for start, end in pairwise(ends)]

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        maps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in (6, 13, 18):
                maps.append(x)
        return maps
