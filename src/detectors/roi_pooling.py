"""Pooling of regions of feature maps to one size."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align, roi_pool  # pyright: ignore[reportUnknownVariableType]

SAMPLES = 2
"""Sampling points per bin and axis of RoIAlign (`sampling_ratio`): 2, as in torchvision and in Detectron's recipes with
a pyramid; over one map, and in detectron2 and mmdetection, it is chosen by the size of the bin."""


def pyramid_levels(boxes: Float[Tensor, "N 4"], strides: Sequence[int]) -> Int[Tensor, " N"]:
    """Level that each region is pooled from (FPN, arXiv 1612.03144, equation 1): 224 x 224 pixels of stride 16.

    A region a millionth of a level below the border counts as on it, as in Detectron and torchvision; of two maps of
    one stride the first is taken, as there.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (4 + (side / 224).log2() + 1e-6).floor() - math.log2(strides[0])
    return level.clamp(0, math.log2(strides[-1] / strides[0])).long()


def align_regions(
    maps: Sequence[Float[Tensor, "B C _ _"]],
    strides: Sequence[int],
    images: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
    aligned: bool,
    samples: int = SAMPLES,
) -> Float[Tensor, "N C size size"]:
    """RoIAlign (Mask R-CNN, arXiv 1703.06870, section 3) of each box on its level's map, in float32.

    `aligned` takes the value of a cell to be that of its centre, as our anchors do; torchvision's detectors, and
    Detectron before its second version, take it to be that of its corner, half a cell off. `samples` is the number of
    sampling points per bin and axis; 0: the bin's side in cells, rounded up. On a CPU two samples are one
    weighted sum of cells, equal to torchvision's kernel up to rounding and many times as fast backwards; else it is
    that kernel, once a level, and each level waits for the device to count its boxes.
    """
    level = pyramid_levels(boxes, strides) if len(maps) > 1 else torch.zeros_like(images)
    if boxes.device.type == "cpu" and samples == SAMPLES:
        return _weighted_sum(maps, strides, level, images, boxes, size, aligned)
    rois = torch.cat((images[:, None].to(boxes.dtype), boxes), dim=1)
    pooled = boxes.new_zeros(len(boxes), maps[0].shape[1], size, size)
    for index, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        (chosen,) = (level == index).nonzero(as_tuple=True)
        part = roi_align(x.float(), rois[chosen], size, 1 / stride, samples, aligned)
        pooled = pooled.index_copy(0, chosen, part)
    return pooled


def _weighted_sum(
    maps: Sequence[Float[Tensor, "B C _ _"]],
    strides: Sequence[int],
    level: Int[Tensor, " N"],
    images: Int[Tensor, " N"],
    boxes: Float[Tensor, "N 4"],
    size: int,
    aligned: bool,
) -> Float[Tensor, "N C size size"]:
    """RoIAlign as one weighted sum: all cells of all maps are the rows of a table, and a bin sums 16 of them."""
    table = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps]).float()
    shapes = torch.tensor([(*x.shape[2:], len(x) * x.shape[2] * x.shape[3]) for x in maps])
    height, width, _ = shapes[level].unbind(dim=1)
    first = (shapes[:, 2].cumsum(0) - shapes[:, 2])[level] + images * height * width
    stride = torch.tensor(list(strides))[level]
    scaled = boxes / stride[:, None] - (0.5 if aligned else 0.0)
    column, across = _bilinear(scaled[:, 0], scaled[:, 2], width, size, aligned)
    row, down = _bilinear(scaled[:, 1], scaled[:, 3], height, size, aligned)
    row = row * width[:, None, None] + first[:, None, None]
    cell = row[:, :, None, :, None] + column[:, None, :, None, :]
    weight = down[:, :, None, :, None] * across[:, None, :, None, :]
    corners = (2 * SAMPLES) ** 2
    pooled = F.embedding_bag(
        cell.reshape(-1, corners), table, per_sample_weights=weight.reshape(-1, corners), mode="sum"
    )
    return pooled.view(len(boxes), size, size, table.shape[1]).permute(0, 3, 1, 2)


def _bilinear(
    low: Float[Tensor, " N"], high: Float[Tensor, " N"], cells: Int[Tensor, " N"], size: int, aligned: bool
) -> tuple[Int[Tensor, "N size k"], Float[Tensor, "N size k"]]:
    """Cells and weights of each bin along one axis: both neighbours of each sampling point.

    Points up to one cell outside of the map have the value of its border, those farther off count as 0.
    """
    extent = high - low if aligned else (high - low).clamp(min=1)  # the legacy form knows no smaller region
    steps = (torch.arange(size * SAMPLES) + 0.5) / (size * SAMPLES)
    at = low[:, None] + extent[:, None] * steps
    last = (cells - 1)[:, None]
    inside = (at >= -1) & (at <= last + 1)
    at = at.clamp(min=0).minimum(last.to(at.dtype))
    below = at.long()
    above = torch.minimum(below + 1, last)
    part = at - below
    cell = torch.stack((below, above), dim=-1)
    weight = torch.stack((1 - part, part), dim=-1) * (inside[..., None] / SAMPLES)
    return cell.view(len(low), size, 2 * SAMPLES), weight.view(len(low), size, 2 * SAMPLES)


def max_pool_regions(
    x: Float[Tensor, "B C h w"], stride: int, images: Int[Tensor, " N"], boxes: Float[Tensor, "N 4"], size: int
) -> Float[Tensor, "N C size size"]:
    """RoI pooling (Fast R-CNN, arXiv 1504.08083, section 2.1): the largest value of each bin, borders rounded to cells,
    in float32.
    """
    return roi_pool(x.float(), torch.cat((images[:, None].to(boxes.dtype), boxes), dim=1), size, 1 / stride)
