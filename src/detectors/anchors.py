"""Anchors of RetinaNet and Faster R-CNN, and how well the best of them fits a box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Anchors:
    """Boxes of a few shapes around the centre of each cell of a pyramid; they may stick out of the canvas.

    Cells are centred at ((j + 0.5) stride, (i + 0.5) stride), like FCOS's points, and sides are not rounded.
    torchvision and detectron2 centre them at (j stride, i stride): weights from there need `grid_offset=0`.
    torchvision also rounds half sides, `round_anchors=True`, cuts RetinaNet's `sizes` to integers, and spreads the
    cells of a map over a canvas that their stride doesn't divide, `spread_grid=True`.
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    """Square roots of the anchors' areas in pixels, level by level."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    grid_offset: float = 0.5
    """Centre of the first cell, in strides."""
    round_anchors: bool | Literal["cell"] = False
    """Whether half sides are rounded to whole pixels; "cell" rounds the sides of an anchor of the stride's size, which
    are then multiplied, as Detectron does."""
    spread_grid: bool = False
    """Whether the distance of neighbouring centres is the canvas's side // cells, which is below the stride where that
    does not divide the side."""

    @property
    def per_cell(self) -> int:
        return len(self.ratios) * len(self.sizes[0])

    def shapes(self, level: int) -> Float[Tensor, "A 2"]:
        """(width, height) of the anchors of a cell, ordered by ratio and then by size."""
        sizes = torch.tensor(self.sizes[level], dtype=torch.float64)
        ratios = torch.tensor(self.ratios, dtype=torch.float64)[:, None]
        if self.round_anchors == "cell":
            stride = self.strides[level]
            width = (stride / ratios.sqrt()).round()
            return (
                (torch.stack((width, (width * ratios).round()), dim=-1) * sizes[:, None] / stride).flatten(0, 1).float()
            )
        stretch = ratios.sqrt()
        shapes = torch.stack((sizes / stretch, sizes * stretch), dim=-1).flatten(0, 1)
        return (2 * (shapes / 2).round() if self.round_anchors else shapes).float()

    def grid(self, canvas: tuple[int, int], device: torch.device | None = None) -> Float[Tensor, "R 4"]:
        """All anchors of a canvas (height, width), finest level first, row by row, the shapes of a cell together.

        A level has ceil(height / stride) rows, as the maps of a pyramid over that canvas do.
        """
        levels: list[Tensor] = []
        for level, stride in enumerate(self.strides):
            rows, columns = (
                (torch.arange(cells, device=device) + self.grid_offset)
                * (side // cells if self.spread_grid else stride)
                for side, cells in ((side, math.ceil(side / stride)) for side in canvas)
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centres = torch.stack((x, y), dim=-1).flatten(0, 1)[:, None]
            # A plain copy to a GPU waits for all that is queued there; on other devices only a plain one is safe.
            half = self.shapes(level).to(device, non_blocking=torch.cuda.is_available()) / 2
            levels.append(torch.cat((centres - half, centres + half), dim=-1).flatten(0, 1))
        return torch.cat(levels)


def scaled_anchors(
    strides: tuple[int, ...],
    sizes: Sequence[int | float | Sequence[int | float]],
    scales: Sequence[int | float],
    ratios: Sequence[int | float],
    *,
    grid_offset: float,
    round_anchors: bool | Literal["cell"],
    spread_grid: bool = False,
) -> Anchors:
    """Builds anchors from a config's numbers: one size for each level, or as many for each, times the same scales."""
    of_levels = [[size] if isinstance(size, int | float) else list(size) for size in sizes]
    every = [size for level in of_levels for size in level]
    if len({len(level) for level in of_levels}) > 1:
        raise ValueError(f"model.anchor_sizes={of_levels}: expected as many sizes for each map as for the others")
    for name, values in (("sizes", every), ("scales", scales), ("ratios", ratios)):
        if not values or min(values) <= 0:
            raise ValueError(f"model.anchor_{name}={list(values)}: expected numbers over 0, one at least")
    if len(sizes) != len(strides):
        levels = ", ".join(map(str, strides))
        raise ValueError(
            f"model.anchor_sizes={list(sizes)}: expected {len(strides)}, one for each map, of stride {levels}"
        )
    return Anchors(
        strides=strides,
        sizes=tuple(tuple(float(size * scale) for size in level for scale in scales) for level in of_levels),
        ratios=tuple(float(ratio) for ratio in ratios),
        grid_offset=grid_offset,
        round_anchors=round_anchors,
        spread_grid=spread_grid,
    )


def _octave(size: float) -> tuple[float, ...]:
    return tuple(size * 2 ** (step / 3) for step in range(3))


RETINANET = Anchors((8, 16, 32, 64, 128), tuple(_octave(size) for size in (32.0, 64.0, 128.0, 256.0, 512.0)))
"""P3-P7, three sizes an octave (arXiv 1708.02002, section 4)."""

FASTER_RCNN_FPN = Anchors((4, 8, 16, 32, 64), ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)))
"""P2-P6, one size a level (arXiv 1612.03144, section 4.1)."""

FASTER_RCNN_VGG16 = Anchors((16,), ((128.0, 256.0, 512.0),))
"""One map at stride 16 (arXiv 1506.01497, section 3.3)."""


def best_ious(anchors: Anchors, boxes: Float[Tensor, "M 4"], canvases: Int[Tensor, "M 2"]) -> Float[Tensor, " M"]:
    """Largest IoU of each box with an anchor of its canvas (height, width).

    No search is needed: for anchors of one shape the intersection grows as the centres approach, so the nearest cell
    has the largest IoU.
    """
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    width, height = extent.unbind(dim=1)
    area, best = width * height, torch.zeros_like(width)
    for level, stride in enumerate(anchors.strides):
        sides = canvases.flip(1)
        last = torch.div(sides + stride - 1, stride, rounding_mode="floor") - 1
        step = torch.div(sides, last + 1, rounding_mode="floor") if anchors.spread_grid else stride
        cell = (centre / step - anchors.grid_offset).round().clamp(min=0).minimum(last)
        off = (centre - (cell + anchors.grid_offset) * step).abs()
        # Intervals of lengths a and b whose centres are `off` apart overlap by (a + b) / 2 - off, unless one contains
        # the other or they are disjoint.
        in_x, in_y = (extent / 2 - off).unbind(dim=1)
        shapes = cast(list[list[float]], anchors.shapes(level).tolist())  # pyright: ignore[reportUnknownMemberType]
        for anchor_width, anchor_height in shapes:
            across = (in_x + anchor_width / 2).minimum(width).clamp(0, anchor_width)
            common = (in_y + anchor_height / 2).minimum(height).clamp(0, anchor_height) * across
            best = best.maximum(common / (area + anchor_width * anchor_height - common))
    return best
