"""The learning rate and weight decay of each parameter."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import built, composed
from torch import nn
from torch.optim import Optimizer
from torchvision.ops import FrozenBatchNorm2d

from lit_modules.optimizers import adamw, sgd

PARAM_GROUPS = Path(__file__).parents[2] / "../shared/golden/solver_fcos/param_groups.json"


class Tiny(nn.Module):
    """A network with one parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), FrozenBatchNorm2d(2))
        self.head = nn.Sequential(nn.Conv2d(2, 3, 1), nn.GroupNorm(1, 3))
        self.scale = nn.Parameter(torch.ones(()))


def rates_and_decays(network: nn.Module, optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """(rate, weight decay) of each parameter in the optimizer, rounded so that the numbers are easy to read."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    listed = [
        (names[id(parameter)], (round(group["lr"], 9), round(group["weight_decay"], 9)))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(listed) == len(dict(listed)), "a parameter is in two groups"
    return dict(listed)


@pytest.fixture
def original() -> dict[str, Any]:
    """The recorded parameter groups of the original's FCOS R-50."""
    if not PARAM_GROUPS.exists():
        pytest.skip(f"recorded parameter groups of the original are not at {PARAM_GROUPS}")
    return json.loads(PARAM_GROUPS.read_text())


def test_the_groups_of_fcos_r50_1x_are_the_originals(original):
    """The same tensors have the same rate, decay and momentum, whatever their names.

    The original keeps the five scales of the levels as vectors of one element, ours are scalars; everything
    else has its shape. It makes a group for every tensor, ours one for every pair of values.
    """
    module = built(composed("experiment=fcos_r50_1x"), device="meta")
    optimizer = module.make_optimizer(module.network, module.lr)

    theirs = Counter(
        (() if group["name"].endswith(".scale") else tuple(group["shape"]), *values(group))
        for group in original["groups"]
    )
    ours = Counter(
        (tuple(parameter.shape), *values(group)) for group in optimizer.param_groups for parameter in group["params"]
    )
    assert ours == theirs
    assert ours.total() == 101
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == original["total_trainable"]
    assert len(optimizer.param_groups) == 2


def test_what_fcos_r50_1x_freezes_is_what_the_original_freezes(original):
    module = built(composed("experiment=fcos_r50_1x"), device="meta")
    frozen = {name for name, parameter in module.network.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name.replace("backbone.body.", "backbone.").replace("stem.", "") for name in original["frozen_params"]
    }
    assert not frozen & set(rates_and_decays(module.network, module.make_optimizer(module.network, module.lr)))


def values(group: dict) -> tuple[float, float, float]:
    return group["lr"], group["weight_decay"], group["momentum"]


def test_every_trained_parameter_is_in_one_group_and_no_frozen_one_is():
    network = Tiny()
    network.backbone[0].requires_grad_(False)
    network.head[1].bias.requires_grad_(False)
    assert set(rates_and_decays(network, sgd(network, 1.0))) == {
        "backbone.1.weight", "backbone.1.bias", "head.0.weight", "head.0.bias", "head.1.weight", "scale",
    }  # fmt: skip


def test_without_factors_all_parameters_share_rate_and_decay():
    network = Tiny()
    optimizer = sgd(network, 0.1, weight_decay=0.01)
    assert set(rates_and_decays(network, optimizer).values()) == {(0.1, 0.01)}
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["momentum"] == 0.9


EXPECTED = {
    # only parameters called bias, in normalisation layers too
    "bias_lr_factor": ((2.0, 0.1), {"backbone.0.bias", "backbone.1.bias", "head.0.bias", "head.1.bias"}),
    "bias_decay_factor": ((1.0, 0.2), {"backbone.0.bias", "backbone.1.bias", "head.0.bias", "head.1.bias"}),
    # weights and biases of normalisation layers
    "norm_decay_factor": ((1.0, 0.2), {"backbone.1.weight", "backbone.1.bias", "head.1.weight", "head.1.bias"}),
    # all that lies under `backbone`
    "backbone_lr_factor": (
        (2.0, 0.1), {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"},
    ),
}  # fmt: skip
"""For each factor, set to 2 with rate 1 and decay 0.1: the pair that it gives, and the parameters that get it."""


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("factor", EXPECTED)
def test_each_factor_reaches_its_parameters_and_no_others(factor, make):
    changed, names = EXPECTED[factor]
    network = Tiny()
    factors = dict.fromkeys(EXPECTED, 1.0) | {factor: 2.0}
    found = rates_and_decays(network, make(network, 1.0, weight_decay=0.1, **factors))
    assert found == {name: changed if name in names else (1.0, 0.1) for name, _ in network.named_parameters()}


def test_factors_multiply_where_several_apply():
    network = Tiny()
    optimizer = sgd(
        network, 1.0, weight_decay=1.0,
        bias_lr_factor=2, bias_decay_factor=0.5, norm_decay_factor=0.1, backbone_lr_factor=0.1,
    )  # fmt: skip
    assert rates_and_decays(network, optimizer) == {
        "backbone.0.weight": (0.1, 1.0),
        "backbone.0.bias": (0.2, 0.5),
        "backbone.1.weight": (0.1, 0.1),
        "backbone.1.bias": (0.2, 0.05),
        "head.0.weight": (1.0, 1.0),
        "head.0.bias": (2.0, 0.5),
        "head.1.weight": (1.0, 0.1),
        "head.1.bias": (2.0, 0.05),
        "scale": (1.0, 1.0),
    }


def test_adamw_decays_weights_alone_by_default():
    network = Tiny()
    optimizer = adamw(network, 1e-3)
    assert rates_and_decays(network, optimizer) == {
        name: (1e-3, 0.05 if name in ("backbone.0.weight", "head.0.weight", "scale") else 0.0)
        for name, _ in network.named_parameters()
    }
    assert all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)


def test_a_step_uses_the_rates_and_decays():
    network = Tiny()
    optimizer = sgd(network, 0.1, momentum=0, weight_decay=0.5, bias_lr_factor=2, bias_decay_factor=0)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        after = 1 - 0.2 * 1 if name.endswith("bias") else 1 - 0.1 * (1 + 0.5)
        torch.testing.assert_close(parameter, torch.full_like(parameter, after))


def with_timm(name: str) -> nn.Module:
    pytest.importorskip("timm")
    overrides = ["model=fcos", "data=shapes", "model/backbone=timm", f"model.backbone.name={name}"]
    return built(composed(*overrides), device="meta").network


@pytest.mark.parametrize(("name", "layers"), [("test_convnext", 10), ("test_vit", 7)])
def test_a_decay_by_layer_is_timms_in_the_backbone_and_none_elsewhere(name, layers):
    network = with_timm(name)
    import timm
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        whole = timm.create_model(name)
    groups = param_groups_layer_decay(whole, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    theirs = {param: scales[id(parameter)] for param, parameter in whole.named_parameters()}
    found = rates_and_decays(network, adamw(network, 1000.0, backbone_layer_decay=0.5, backbone_lr_factor=0.2))
    seen = set()
    for param, (rate, _) in found.items():
        part, _, inner = param.partition(".body.")
        if inner:
            inner = re.sub(r"^(stem|stages)_(\d)\.", r"\1.\2.", inner.removeprefix("model."))  # of timm's wrappers
            seen.add(theirs[inner])
            assert rate == pytest.approx(200 * theirs[inner]), param
        else:  # pyramid and head, and behind the layers of a ViT the maps that are made of its last one
            assert rate == pytest.approx(200 if part.startswith("backbone") else 1000), param
    assert seen == {0.5**above for above in range(1, layers + 1)}


def test_a_decay_by_layer_of_a_vit_is_vitdets():
    """detectron2, projects/ViTDet: decay ^ (number of blocks + 1 - layer); the embedding is 0, block i is i + 1."""
    network = with_timm("test_vit")
    found = rates_and_decays(network, sgd(network, 1.0, backbone_layer_decay=0.7))
    for param, (rate, _) in found.items():
        block = re.match(r"backbone\.body\.model\.blocks\.(\d+)\.", param)
        layer = int(block[1]) + 1 if block else 0 if param.startswith("backbone.body.") else 7
        assert rate == pytest.approx(0.7 ** (6 + 1 - layer), abs=1e-9), param


def test_a_backbone_whose_layers_are_not_known_is_refused():
    network = built(composed("model=fcos", "data=shapes"), device="meta").network
    with pytest.raises(
        ValueError, match="ResNet does not tell: take one of model/backbone=timm, or give all of it one"
    ):
        sgd(network, 1.0, backbone_layer_decay=0.7)
    with pytest.raises(ValueError, match="no backbone of this project"):
        sgd(Tiny(), 1.0, backbone_layer_decay=0.7)


def test_a_model_whose_layers_timm_does_not_know_is_refused():
    network = with_timm("densenet121")
    with pytest.raises(ValueError, match=r"timm does not tell the layers of model\.backbone\.name=densenet121"):
        sgd(network, 1.0, backbone_layer_decay=0.7)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"backbone_layer_decay={decay}: expected more than 0, up to 1"):
        sgd(Tiny(), 1.0, backbone_layer_decay=decay)
