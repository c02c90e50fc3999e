"""What every decoder returns."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """The best boxes of each image, by falling score, padded to the same number."""

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    """0 where padded."""
    labels: Int[Tensor, "B D"]
    """-1 where padded."""


torch.export.register_dataclass(Detections)
