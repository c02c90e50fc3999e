"""Feature pyramid P3-P7 of the one-stage detectors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.backbones import Backbone


class FeaturePyramid(nn.Module):
    """FPN (arXiv 1612.03144) with P6 and P7 by strided convolution (RetinaNet, arXiv 1708.02002, section 4).

    `p6_from` is `p5` in FCOS and `c5` in RetinaNet. torchvision's `LastLevelP6P7` would choose by comparing
    channel counts, which takes P5 for C5 where they happen to be equal.
    """

    def __init__(self, backbone: Backbone, num_channels: int = 256, p6_from: str = "p5") -> None:
        super().__init__()
        if p6_from not in ("p5", "c5"):
            raise ValueError(f"p6_from={p6_from}: expected p5 or c5")
        self.p6_from = p6_from
        self.strides = (*backbone.strides, 2 * backbone.strides[-1], 4 * backbone.strides[-1])
        self.lateral = nn.ModuleList(nn.Conv2d(c, num_channels, 1) for c in backbone.channels)
        self.output = nn.ModuleList(nn.Conv2d(num_channels, num_channels, 3, padding=1) for _ in backbone.channels)
        top = num_channels if p6_from == "p5" else backbone.channels[-1]
        self.p6 = nn.Conv2d(top, num_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(num_channels, num_channels, 3, stride=2, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        inner = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for finer in range(len(inner) - 2, -1, -1):
            size = inner[finer].shape[-2:]  # twice the coarser one, less one where the canvas is odd
            inner[finer] = inner[finer] + F.interpolate(inner[finer + 1], size=size, mode="nearest")
        outputs = [output(x) for output, x in zip(self.output, inner, strict=True)]
        p6 = _halved(self.p6, outputs[-1] if self.p6_from == "p5" else maps[-1])
        return [*outputs, p6, _halved(self.p7, F.relu(p6))]


def _halved(convolution: nn.Module, x: Tensor) -> Tensor:
    """In float32 where only one cell is left: oneDNN's bf16 weight gradient of a strided convolution over a
    1 x 1 map reads memory that nobody wrote (torch 2.15), so that it is NaN now and then.
    """
    if x.shape[-2:] != (1, 1) or x.is_meta:  # which autocast does not know
        return convolution(x)
    with torch.autocast(x.device.type, enabled=False):
        return convolution(x.float())
