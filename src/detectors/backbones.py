"""Trunks: torchvision's classification networks, cut where the strides are 4, 8, 16 and 32."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from itertools import chain, pairwise
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
CAFFE_MEAN = (122.7717, 115.9465, 102.9801)
"""Of RGB in 0-255, with a deviation of 1: what Caffe's weights were trained with, though on BGR."""


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
    """torchvision's; where it follows a convolution it is part of that, see `fold_frozen_norms`."""

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    folded = False

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x if self.folded else super().forward(x)


class ConvolutionWithNorm(nn.Conv2d):
    """A convolution that does what the frozen batch norm behind it would: w x + b, then scale and shift, is
    (scale w) x + (scale b + shift). Its weights are scaled anew in each pass, so that they train as before.
    """

    def follow_by(self, norm: FrozenBatchNorm) -> None:
        self._norm = (norm,)  # in a tuple, which makes it no part of this module's state
        norm.folded = True

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D i j"]:
        (norm,) = self._norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        mean = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        shift = torch.addcmul(norm.bias, mean, scale, value=-1)
        return self._conv_forward(input, self.weight * scale[:, None, None, None], shift)


def fold_frozen_norms(network: nn.Module) -> None:
    """Make each frozen batch norm part of the convolution that its parent lists before it; names of weights stay.

    As passes of their own they take up to a fifth of a training step, and under autocast make float32 maps of bf16
    ones, which the next convolution casts back.
    """
    for parent in network.modules():
        for before, layer in pairwise(parent.children()):
            if isinstance(layer, FrozenBatchNorm) and isinstance(before, nn.Conv2d):
                before.__class__ = ConvolutionWithNorm
                cast(ConvolutionWithNorm, before).follow_by(layer)


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


class GroupNorm(nn.GroupNorm):
    """In the input's precision under autocast, with sums in float32 as ever.

    On CUDA autocast would make float32 maps of bf16 ones, which the next convolution would cast back.
    """

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        if not input.is_cuda or input.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(input)
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def group_norm(num_channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups (arXiv 1803.08494), or of the largest number below that divides the channels
    into groups of two or more: a group of one channel makes nothing of a map of one cell.

    MobileNetV2 has layers of 16, 24, 32 and 144 channels: 8, 12, 16 and 24 groups.
    """
    most = min(32, max(1, num_channels // 2))
    return GroupNorm(max(g for g in range(1, most + 1) if num_channels % g == 0), num_channels)


def refuse_region_head(backbone: "Backbone") -> None:
    """Where it would lie idle: parameters without a gradient, in every checkpoint."""
    if backbone.region_size is not None:
        raise ValueError(
            "model.backbone.fully_connected=true: fc6 and fc7 are of use to model=faster_rcnn "
            "model.pyramid_channels=null alone; set it to false"
        )


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

    channels: dict[int, int]
    """Of the feature map at each stride from 4 to 32."""
    pixel_mean: Tensor
    pixel_std: Tensor
    frozen_stages: int = 0
    region_size: int | None = None
    """Cells in x and in y that layers behind all stages need in `regions`; None where there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN))
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD))

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """The layers up to stride 2, those that follow up to stride 4, then 8, 16 and 32."""

    def forward(self, x: Float[Tensor, "B 3 H W"], strides: tuple[int, ...] = (8, 16, 32)) -> list[Tensor]:
        """Feature maps of normalised images, the finest first; what lies behind the last of them is not run."""
        maps: list[Tensor] = []
        for stage, stride in zip(self.stages(), (2, 4, 8, 16, 32), strict=True):
            if stride > max(strides):
                break
            for layer in stage:
                x = layer(x)
            if stride in strides:
                maps.append(x)
        return maps

    @property
    def region_channels(self) -> int:
        """Of what `regions` returns."""
        return self.channels[32]

    def regions(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D"]:
        """What the layers behind stride 16 make of regions cut out of that map (arXiv 1512.03385, appendix A)."""
        for layer in self.stages()[-1]:
            x = layer(x)
        return x.mean(dim=(2, 3))

    def normalize(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels as the weights expect them, in the parameters' precision and memory layout; the padding becomes zero.

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
        """Training mode for all but the frozen stages, whose statistics must not move."""
        super().train(mode)
        for layer in chain(*self.stages()[: self.frozen_stages]):
            layer.eval()
        return self

    def _load_and_freeze(
        self, weights: str | Path | None, published: models.WeightsEnum, frozen_stages: int
    ) -> Set[str]:
        """The names of the tensors that the weights had."""
        fold_frozen_norms(self)
        stages = self.stages()
        if not 0 <= frozen_stages <= len(stages):
            raise ValueError(
                f"frozen_stages={frozen_stages}: expected 0 (all train) to {len(stages)} (none trains); "
                "n freezes the layers up to stride 2^n"
            )
        taken: Set[str] = set()
        if weights == "imagenet":
            taken = load_published(self, published)
        elif weights is not None:
            taken = load_backbone(self, weights)
        for layer in chain(*stages[:frozen_stages]):
            layer.requires_grad_(False)
        self.frozen_stages = frozen_stages
        self.train()
        return taken


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
        trunk = build(weights=None, norm_layer=NORMS[norm])
        self.channels = {stride: stride * (16 if depth < 50 else 64) for stride in (4, 8, 16, 32)}
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            trunk.layer1,
            trunk.layer2,
            trunk.layer3,
            trunk.layer4,
        )
        self._load_and_freeze(weights, published, frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        stem = [self.conv1, self.bn1, self.relu]
        return [stem, [self.maxpool, self.layer1], [self.layer2], [self.layer3], [self.layer4]]


class MobileNetV2(Backbone):
    """Features 3, 6, 13 and 18 of MobileNetV2 (arXiv 1801.04381): the last of stride 4, 8, 16 and 32.

    Stages go by stride, as a ResNet's do: features 0-1 (stride 2), 2-3 (4), 4-6 (8), 7-13 (16) and 14-18
    (32). So `frozen_stages=2` keeps features 0-3 as they are.
    """

    def __init__(
        self,
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
    ) -> None:
        super().__init__()
        self.channels = {4: 24, 8: 32, 16: 96, 32: 1280}
        self.features = models.mobilenet_v2(weights=None, norm_layer=NORMS[norm]).features
        self._load_and_freeze(weights, models.MobileNet_V2_Weights.IMAGENET1K_V1, frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        layers = list(self.features)
        return [layers[start:end] for start, end in pairwise((0, 2, 4, 7, 14, 19))]


VGG16S: dict[bool, tuple[Callable[..., models.VGG], models.WeightsEnum]] = {
    False: (models.vgg16, models.VGG16_Weights.IMAGENET1K_V1),
    True: (models.vgg16_bn, models.VGG16_BN_Weights.IMAGENET1K_V1),
}
"""Without a norm, and with one."""


class VGG16(Backbone):
    """VGG-16 (arXiv 1409.1556): conv3_3, conv4_3, conv5_3 and what pooling makes of that; `norm` as in torchvision's
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
        """`fully_connected` keeps fc6 and fc7 of the weights for `regions`, with `dropout` behind each.

        `caffe` says that the file is Caffe's: its first filters, which were trained on BGR, are turned to RGB, and
        pixels are scaled as there. A checkpoint of ours holds both already.
        """
        super().__init__()
        if caffe and weights == "imagenet":
            raise ValueError(
                "model.backbone.caffe=true with model.backbone.weights=imagenet: these are torchvision's; give the "
                "file of Caffe's weights, or caffe=false"
            )
        build, published = VGG16S[norm is not None]
        network = build(weights=None, dropout=dropout, init_weights=weights is None)
        self.channels = {4: 256, 8: 512, 16: 512, 32: 512}
        layers = list(cast(nn.Sequential, network.features))
        if norm is not None:
            layers = [NORMS[norm](x.num_features) if isinstance(x, nn.BatchNorm2d) else x for x in layers]
        self.features = nn.Sequential(*layers)
        self.classifier = network.classifier[:6] if fully_connected else None
        self.region_size = 7 if fully_connected else None
        if caffe:
            self.pixel_mean.copy_(torch.tensor(CAFFE_MEAN) / 255)
            self.pixel_std.fill_(1 / 255)
        taken = self._load_and_freeze(weights, published, frozen_stages)
        if caffe and taken and "pixel_mean" not in taken:
            first = cast(nn.Conv2d, self.features[0]).weight
            first.data = first.data.flip(1).contiguous()

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

    def regions(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D"]:
        """fc6 and fc7 of regions pooled to 7 x 7."""
        return cast(nn.Module, self.classifier)(x.flatten(1))
