"""Feature pyramids: P3-P7 of the one-stage detectors, P2-P6 of Faster R-CNN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.backbones.base import Backbone, refuse_region_head
from detectors.backbones.norms import NORMS, Norm


class FeaturePyramid(nn.Module):
    """FPN (arXiv 1612.03144) over a backbone's maps.

    `p6_from` `p5` (FCOS) or `c5` (RetinaNet) gives P3-P7, the two coarsest by strided convolution (arXiv 1708.02002,
    section 4); `pool` gives P2-P6, where P6 is every second cell of P5 (arXiv 1612.03144, section 4.1). torchvision's
    `LastLevelP6P7` would choose by comparing channel counts, which takes P5 for C5 where they happen to be equal.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_channels: int = 256,
        p6_from: str = "p5",
        strides: tuple[int, ...] | None = None,
        norm: Norm | None = None,
    ) -> None:
        """`strides` of the maps that go in; None: those of P3-P5, with `pool` of P2-P5. `norm` follows each lateral and
        output convolution, which have no bias then."""
        super().__init__()
        refuse_region_head(backbone)
        if p6_from not in ("p5", "c5", "pool"):
            raise ValueError(f"p6_from={p6_from}: expected p5, c5 or pool")
        self.p6_from = p6_from
        self.inputs = strides or ((4, 8, 16, 32) if p6_from == "pool" else (8, 16, 32))
        """Strides of the input maps."""
        last = self.inputs[-1]
        self.strides = (*self.inputs, 2 * last) if p6_from == "pool" else (*self.inputs, 2 * last, 4 * last)
        channels = backbone.channels_at(self.inputs)
        backbone.leave_out(self.inputs)
        bias = norm is None
        self.lateral = nn.ModuleList(nn.Conv2d(c, num_channels, 1, bias=bias) for c in channels)
        self.output = nn.ModuleList(nn.Conv2d(num_channels, num_channels, 3, padding=1, bias=bias) for _ in channels)
        self.lateral_norm = None if norm is None else nn.ModuleList(NORMS[norm](num_channels) for _ in channels)
        self.output_norm = None if norm is None else nn.ModuleList(NORMS[norm](num_channels) for _ in channels)
        if p6_from != "pool":
            top = num_channels if p6_from == "p5" else channels[-1]
            self.p6 = nn.Conv2d(top, num_channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(num_channels, num_channels, 3, stride=2, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        inner = _through(self.lateral, self.lateral_norm, maps)
        for finer in range(len(inner) - 2, -1, -1):
            size = inner[finer].shape[-2:]  # twice the coarser one, less one where the canvas is odd
            inner[finer] = inner[finer] + F.interpolate(inner[finer + 1], size=size, mode="nearest")
        outputs = _through(self.output, self.output_norm, inner)
        if self.p6_from == "pool":
            return [*outputs, outputs[-1][:, :, ::2, ::2]]
        p6 = _halved(self.p6, outputs[-1] if self.p6_from == "p5" else maps[-1])
        return [*outputs, p6, _halved(self.p7, F.relu(p6))]


def _through(layers: nn.ModuleList, norms: nn.ModuleList | None, maps: list[Tensor]) -> list[Tensor]:
    out = [layer(x) for layer, x in zip(layers, maps, strict=True)]
    return out if norms is None else [norm(x) for norm, x in zip(norms, out, strict=True)]


def _halved(convolution: nn.Module, x: Tensor) -> Tensor:
    """Strided convolution, in float32 where only one cell is left: oneDNN's bf16 weight gradient
    over a 1 x 1 map reads memory that nobody wrote (torch 2.15), so that it is NaN now and then.
    """
    if x.shape[-2:] != (1, 1) or x.is_meta:  # which autocast does not know
        return convolution(x)
    with torch.autocast(x.device.type, enabled=False):
        return convolution(x.float())
