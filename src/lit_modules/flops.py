"""Floating-point operations: two for each multiply-add of convolutions and matrix products, none for anything else."""

import copy

# What torch's counter exports is not typed.
# pyright: reportUnknownMemberType=false
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from lit_modules.training_module import TrainingModule


def gflops(module: TrainingModule, size: tuple[int, int]) -> float:
    """Counts 10^9 floating-point operations (two for a multiply-add) of one image, without computing it."""
    network = copy.deepcopy(module.network).to("meta").eval()
    counter = FlopCounterMode(display=False, custom_mapping=_deformable())
    with torch.no_grad(), counter:
        network(torch.empty(1, 3, *size, dtype=torch.uint8, device="meta"), torch.tensor([size], device="meta"))
        module.flops_beside_forward(network)
    return counter.get_total_flops() / 1e9


def counter() -> FlopCounterMode:
    """Makes a context that counts the operations within, including those of backward passes.

    PyTorch's formula ignores `groups` in the weight gradient of a convolution: for a depthwise convolution it is too
    large by the number of channels.
    """
    backward: Any = torch.ops.aten.convolution_backward
    return FlopCounterMode(display=False, custom_mapping={backward: _convolution_backward} | _deformable())


def _deformable() -> dict[Any, Any]:
    """Formulas of torchvision's deformable convolution: those of an ordinary one, without the sampling of its taps."""
    ops: Any = torch.ops.torchvision
    return {ops.deform_conv2d: _deformed, ops._deform_conv2d_backward: _deformed_backward}


def _deformed(x_shape: Sequence[int], w_shape: Sequence[int], *args: Any, out_shape: Sequence[int], **_: Any) -> int:
    return conv_flop_count(list(x_shape), list(w_shape), list(out_shape))


def _deformed_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], w_shape: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * conv_flop_count(list(x_shape), list(w_shape), list(grad_shape))


def _convolution_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], w_shape: Sequence[int], *args: Any, **_: Any
) -> int:
    """Counts the gradients of input and weight, each like the convolution itself, as far as they are needed."""
    _, _, _, _, transposed, _, _, output_mask = args
    of_each = conv_flop_count(list(x_shape), list(w_shape), list(grad_shape), transposed=transposed)
    return of_each * sum(output_mask[:2])
