"""Builds the module that a config describes, by classes that a checkpoint may name."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from boxwright.checkpoints.trust import refuse_foreign
from lit_modules.stored import without_weights
from lit_modules.training_module import TrainingModule


def build_module(config: Mapping[str, Any]) -> TrainingModule:
    """Builds the module of a resolved model config; accepts only classes of trusted packages and of torch.optim."""
    refuse_foreign(config, "model")
    return instantiate(config)


def expected_state(config: Mapping[str, Any], most: int | None = None) -> Mapping[str, Tensor]:
    """Tensors of a model config's module, without memory, however large; ValueError beyond `most` parameters."""
    with torch.device("meta"), _at_most(most):
        return build_module(without_weights(config)).state_dict()


@contextmanager
def _at_most(number: int | None) -> Generator[None]:
    """Raises ValueError in a constructor that makes more than `number` parameters."""
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if number is not None and made > number:
            raise ValueError(
                f"its config describes a network of over {number} parameters, many more than it has tensors"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
