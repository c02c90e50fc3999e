"""Frozen batch norms of a network that is timed and not trained."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from datamodules.batch import Batch
from detectors.backbones.norms import FrozenBatchNorm
from lit_modules.training_module import TrainingModule


def set_frozen_norms(module: TrainingModule, batch: Batch, device: torch.device) -> None:
    """Gives frozen batch norms the statistics of one image: the mean of each channel, and one variance.

    Without them, a random backbone doubles its activations from block to block, until 16 bits overflow. A variance of
    each channel would be computed from four cells where the canvas is small. Fresh norms change nothing, so a
    convolution with a folded norm shows its own outputs, and the norm has to be applied by itself in this one pass.
    """

    def take(norm: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        (x,) = inputs
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3))
        _buffer(norm, "running_mean").copy_(mean)
        _buffer(norm, "running_var").fill_(var.mean())
        if isinstance(norm, FrozenBatchNorm) and norm.folded:
            return (FrozenBatchNorm2d.forward(norm, x),)
        return None

    norms = [part for part in module.network.modules() if isinstance(part, FrozenBatchNorm2d)]
    if not norms:
        return
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    module.to(device)
    with torch.no_grad():
        module.network(batch.images[:1].to(device), batch.sizes[:1].to(device))
    for handle in handles:
        handle.remove()


def _buffer(norm: nn.Module, name: str) -> Tensor:
    buffer: Tensor = getattr(norm, name)
    return buffer
