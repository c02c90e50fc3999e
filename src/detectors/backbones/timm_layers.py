"""The layers of a model of timm, for rates that fall from its last one down to its stem."""

import re
from collections.abc import Collection
from importlib import import_module

import torch


def timm_layers(name: str, parameters: Collection[str]) -> dict[str, int]:
    """The layer of each parameter of a model with feature maps, from 0, the stem, by timm's `group_matcher`.

    ValueError where timm does not tell.
    """
    numbers = _of_whole_model(name)
    found = {parameter: numbers.get(_name_there(parameter, numbers), -1) for parameter in parameters}
    if not numbers or -1 in found.values():
        raise ValueError(
            f"optimizer.backbone_layer_decay: timm does not tell the layers of model.backbone.name={name}; take "
            "another, such as convnext_tiny or vit_small_patch16_224, or give it all one rate by backbone_lr_factor"
        )
    return found


def _of_whole_model(name: str) -> dict[str, int]:
    """The layer of each parameter of the whole model, by its name there; empty where timm does not tell."""
    with torch.device("meta"):
        whole = import_module("timm").create_model(name)
    if not hasattr(whole, "group_matcher"):
        return {}
    group = import_module("timm.models").group_parameters
    numbers: dict[str, int] = group(whole, whole.group_matcher(coarse=False), reverse=True)
    return numbers if len(set(numbers.values())) > 1 else {}


def _name_there(name: str, whole: Collection[str]) -> str:
    """The name in the whole model of a parameter of one that gives maps: timm's wrappers put `model.` before it, or
    take the layers out of their list (`stages_0` for `stages.0`)."""
    inner, listed = name.removeprefix("model."), re.sub(r"^(\w+)_(\d+)\.", r"\1.\2.", name)
    return next((form for form in (name, inner, listed) if form in whole), "")
