"""Deformable convolution v2 (Zhu et al., arXiv 1811.11168)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConvolution(nn.Module):
    """A convolution whose taps are moved and weighted by a second one, of one group: for each tap an offset (y, x) in
    cells, and a weight by a sigmoid (equation 1).

    The second one begins at zero: no offset, each weight one half. Names of weights are those of fcos_core:
    `conv.weight`, `offset.weight`, `offset.bias`.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Makes a convolution deformable; its weights are kept."""
        super().__init__()
        of = convolution
        self.taps = of.kernel_size[0] * of.kernel_size[1]
        self.offset = nn.Conv2d(
            of.in_channels,
            3 * self.taps,
            of.kernel_size,  # pyright: ignore[reportArgumentType]
            stride=of.stride,  # pyright: ignore[reportArgumentType]
            padding=of.padding,  # pyright: ignore[reportArgumentType]
            dilation=of.dilation,  # pyright: ignore[reportArgumentType]
        )
        self.conv = convolution
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Sets all offsets to zero, and so the weight of each tap to one half."""
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(cast(Tensor, self.offset.bias))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D i j"]:
        """The result has the precision of `x`, but is computed in that of the weights: torchvision's operation has no
        rule for autocast on a CPU, and raises there for 16 bits.
        """
        moved = self.offset(x)
        weight, bias = self.conv.weight, self.conv.bias
        offsets, mask = moved[:, : 2 * self.taps], moved[:, 2 * self.taps :].sigmoid()
        out = deform_conv2d(
            x.to(weight.dtype),
            offsets.to(weight.dtype),
            weight,
            bias,
            stride=cast(tuple[int, int], self.conv.stride),
            padding=cast(tuple[int, int], self.conv.padding),
            dilation=cast(tuple[int, int], self.conv.dilation),
            mask=mask.to(weight.dtype),
        )
        return out.to(x.dtype)


def plain_into_deformable(network: nn.Module, state: dict[str, Tensor]) -> set[str]:
    """Renames in `state` the weights of ordinary convolutions that are deformable in `network`; returns the names of
    the tensors that such a state lacks: those of the offsets, which stay at zero.
    """
    lacking: set[str] = set()
    for name, layer in network.named_modules():
        if isinstance(layer, DeformableConvolution) and f"{name}.conv.weight" not in state:
            for part in layer.conv.state_dict():
                if f"{name}.{part}" in state:
                    state[f"{name}.conv.{part}"] = state.pop(f"{name}.{part}")
            lacking |= {f"{name}.offset.{part}" for part in layer.offset.state_dict()}
    return lacking
