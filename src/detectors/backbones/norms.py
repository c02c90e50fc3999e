"""Normalisation layers of backbones: batch norm frozen, synchronised or plain, and group norm."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torchvision.ops import FrozenBatchNorm2d


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
    """torchvision's frozen batch norm, folded into the convolution before it (see `fold_frozen_norms`)."""

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    folded = False

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x if self.folded else super().forward(x)


class ConvolutionWithNorm(nn.Conv2d):
    """A convolution that applies the frozen batch norm that follows it: w x + b, then scale and shift, is
    (scale w) x + (scale b + shift). Its weights are scaled in each pass, so that they train as before.
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
    """Folds each frozen batch norm into the convolution that its parent lists before it; names of weights stay.

    As passes of their own they take up to a fifth of a training step, and under autocast make float32 maps of bf16
    ones, which the next convolution casts back.
    """
    for parent in network.modules():
        for before, layer in pairwise(parent.children()):
            if isinstance(layer, FrozenBatchNorm) and isinstance(before, nn.Conv2d):
                before.__class__ = ConvolutionWithNorm
                cast(ConvolutionWithNorm, before).follow_by(layer)


def has_frozen_norms(network: nn.Module) -> bool:
    """Whether some batch norms stay as they are: this project's, torchvision's or timm's."""
    return any(type(layer).__name__.startswith("FrozenBatchNorm") for layer in network.modules())


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


def sync_batch_norm(num_channels: int, eps: float = 1e-5) -> nn.Module:
    """Returns torch's synchronised batch norm where there are GPUs; DistributedDataParallel refuses it on a CPU."""
    return (nn.SyncBatchNorm if torch.cuda.is_available() else SyncBatchNorm)(num_channels, eps)


class GroupNorm(nn.GroupNorm):
    """Group norm in the input's precision under autocast; sums stay in float32.

    On CUDA autocast would make float32 maps of bf16 ones, which the next convolution would cast back.
    """

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        if not input.is_cuda or input.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(input)
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def group_norm(num_channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm of 32 groups (arXiv 1803.08494), or of the largest number below that divides the channels
    into groups of two or more: a group of one channel makes nothing of a map of one cell.

    MobileNetV2 has layers of 16, 24, 32 and 144 channels: 8, 12, 16 and 24 groups.
    """
    most = min(32, max(1, num_channels // 2))
    return GroupNorm(max(g for g in range(1, most + 1) if num_channels % g == 0), num_channels, eps)


Norm = Literal["frozen_bn", "bn", "sync_bn", "gn"]
NORMS: dict[Norm, Callable[..., nn.Module]] = {
    "frozen_bn": FrozenBatchNorm,
    "bn": nn.BatchNorm2d,
    "sync_bn": sync_batch_norm,
    "gn": group_norm,
}
"""Each takes the number of channels and `eps`, which is 1e-5 by default."""


def norm_layer(norm: Norm, eps: float) -> Callable[[int], nn.Module]:
    """A norm with the `eps` that a backbone's weights were trained with."""
    if not 0 <= eps < 1:
        raise ValueError(f"model.backbone.norm_eps={eps}: expected 0 or a small number such as 1e-5")
    return partial(NORMS[norm], eps=eps)
