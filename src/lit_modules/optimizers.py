"""Optimizers with the parameter groups of the detection papers."""

import logging
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torchvision.ops import FrozenBatchNorm2d  # pyright: ignore[reportMissingTypeStubs]

from detectors.backbones.base import Backbone

log = logging.getLogger(__name__)

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d)  # pyright: ignore[reportPrivateUsage]


def parameter_groups(
    network: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    bias_lr_factor: float = 1.0,
    bias_decay_factor: float = 1.0,
    norm_decay_factor: float = 1.0,
    backbone_lr_factor: float = 1.0,
    backbone_layer_decay: float = 1.0,
) -> list[dict[str, object]]:
    """Trainable parameters grouped by rate and decay, at most one group for each pair of values.

    A bias is what is called `bias`, in normalisation layers too (FCOS, solver/build.py); the two decay
    factors multiply where both apply. The backbone is what lies under `network.backbone`. Its last layer has
    `backbone_layer_decay` of the rate, the one before it the square, and so on down to the stem, as in
    ViTDet (arXiv 2203.16527); ValueError where its layers are not known.
    """
    if not 0 < backbone_layer_decay <= 1:
        raise ValueError(f"backbone_layer_decay={backbone_layer_decay}: expected more than 0, up to 1 (none)")
    depths = layers_above(network) if backbone_layer_decay < 1 else {}
    if depths:
        layers = max(depths.values())
        log.info(
            "backbone_layer_decay=%g: from %.3g of the rate in the stem to %g in the last of %d layers",
            backbone_layer_decay, backbone_layer_decay**layers, backbone_layer_decay, layers,
        )  # fmt: skip
    modules = cast(Iterable[tuple[str, nn.Module]], network.named_modules())
    norms = {name for name, module in modules if isinstance(module, _NORMS)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, kind = name.rpartition(".")
        rate, decay = lr, weight_decay
        if kind == "bias":
            rate, decay = rate * bias_lr_factor, decay * bias_decay_factor
        if owner in norms:
            decay *= norm_decay_factor
        if name.startswith("backbone."):
            rate *= backbone_lr_factor * backbone_layer_decay ** depths.get(name.removeprefix("backbone."), 0)
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def layers_above(network: nn.Module) -> dict[str, int]:
    """For each parameter of the backbone that is in one of its layers, which from the last it is in: 1, 2, ...

    ValueError where they are not known.
    """
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ValueError("backbone_layer_decay: the network has no backbone of this project; leave it at 1")
    numbers = backbone.layer_numbers()
    return {name: max(numbers.values()) + 1 - number for name, number in numbers.items()}


def sgd(
    network: nn.Module,
    lr: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    bias_lr_factor: float = 1.0,
    bias_decay_factor: float = 1.0,
    norm_decay_factor: float = 1.0,
    backbone_lr_factor: float = 1.0,
    backbone_layer_decay: float = 1.0,
) -> Optimizer:
    """Stochastic gradient descent with momentum; the defaults are detectron2's."""
    groups = parameter_groups(
        network,
        lr,
        weight_decay,
        bias_lr_factor=bias_lr_factor,
        bias_decay_factor=bias_decay_factor,
        norm_decay_factor=norm_decay_factor,
        backbone_lr_factor=backbone_lr_factor,
        backbone_layer_decay=backbone_layer_decay,
    )
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


def adamw(
    network: nn.Module,
    lr: float,
    *,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 0.05,
    bias_lr_factor: float = 1.0,
    bias_decay_factor: float = 0.0,
    norm_decay_factor: float = 0.0,
    backbone_lr_factor: float = 1.0,
    backbone_layer_decay: float = 1.0,
) -> Optimizer:
    """AdamW; biases and normalisation layers are not decayed by default."""
    groups = parameter_groups(
        network,
        lr,
        weight_decay,
        bias_lr_factor=bias_lr_factor,
        bias_decay_factor=bias_decay_factor,
        norm_decay_factor=norm_decay_factor,
        backbone_lr_factor=backbone_lr_factor,
        backbone_layer_decay=backbone_layer_decay,
    )
    # One pass over the weights on the CPU; on CUDA a fused step would forbid clipping under a GradScaler.
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=None if torch.cuda.is_available() else True)


def not_stored(network: nn.Module, lr: float) -> Optimizer:
    """Stands, in a checkpoint, for an optimizer that it could not store; raises ValueError."""
    raise ValueError(
        "the checkpoint could not store its optimizer, which is none of lit_modules.optimizers; to train on, give "
        "optimizer=... to load_from_checkpoint"
    )
