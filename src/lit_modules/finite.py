"""A loss that is not finite ends the run, named."""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batch import Batch


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; names the step, its images and each part."""


class Flags(NamedTuple):
    """Of a step whose loss has not been judged yet."""

    on_device: Tensor
    """float32 (2,): 1 where the loss is not finite, 1 where a rank was told to end."""
    on_host: Tensor
    copied: torch.cuda.Event | None
    """When `on_host` is there."""
    parts: dict[str, Tensor]
    batch: Batch
    where: str
