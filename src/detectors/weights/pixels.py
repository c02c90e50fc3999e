"""Pixels that weights were trained with, in our form: mean and deviation of RGB from 0 to 1."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

CAFFE_BGR = (102.9801, 115.9465, 122.7717)
DETECTRON2_BGR = (103.53, 116.28, 123.675)
RESNEXT_BGR = (57.375, 57.12, 58.395)
"""Deviation of detectron2's ResNeXt; of all others it is 1."""
FIRST = ("backbone.conv1.weight", "backbone.features.0.0.weight")


def bgr_255(mean: Sequence[float], std: Sequence[float] = (1.0, 1.0, 1.0)) -> dict[str, Tensor]:
    """Mean and deviation of BGR from 0 to 255 as those of our backbones."""
    return {
        "backbone.pixel_mean": torch.tensor(list(mean)).flip(0) / 255,
        "backbone.pixel_std": torch.tensor(list(std)).flip(0) / 255,
    }


def first_filters_in_rgb(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution's filters with their channels from BGR to RGB; once, when weights are read."""
    found = {name: state[name].flip(1).contiguous() for name in FIRST if name in state}
    if not found:
        raise ValueError(f"it lacks the tensor that is {' or '.join(FIRST)} here")
    return found
