"""Box algebra that torchvision.ops lacks: boxes as seen from points and from anchors, and clipping to many sizes.

Distances are (left, top, right, bottom), non-negative for a point inside its box. Deltas are (x, y, width, height).
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def boxes_to_distances(points: Float[Tensor, "*#n 2"], boxes: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """Distances from points to the four sides (FCOS, equation 1)."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def distances_to_boxes(points: Float[Tensor, "*#n 2"], distances: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """The inverse of `boxes_to_distances`."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


LARGEST_LOG_RATIO = math.log(1000 / 16)
"""Bound on the log ratio of a decoded side to the anchor's, so that an untrained network has no infinite boxes
(Detectron's bound)."""

Weights = Sequence[float]
"""Four factors of the deltas (x, y, width, height)."""


def check_weights(weights: Weights) -> None:
    if len(weights) != 4 or min(weights) <= 0:
        raise ValueError(f"box_weights={list(weights)}: expected four numbers over 0")


def check_same_weights(loss: object, decoder: object) -> None:
    """Raises ValueError where a loss and a decoder weigh deltas differently; a part without weights passes."""
    ours: Weights | None = getattr(loss, "box_weights", None)
    theirs: Weights | None = getattr(decoder, "box_weights", None)
    if ours is not None and theirs is not None and tuple(ours) != tuple(theirs):
        raise ValueError(
            f"box_weights={list(theirs)} of the decoder: expected {list(ours)}, those of the loss that its deltas were "
            "trained with"
        )


def boxes_to_deltas(
    anchors: Float[Tensor, "*#n 4"], boxes: Float[Tensor, "*#n 4"], weights: Weights
) -> Float[Tensor, "*n 4"]:
    """Offset of the centre in sides of the anchor, log of the ratio of sides (R-CNN, arXiv 1311.2524, equations 6-9).

    `weights` multiply the four; (10, 10, 5, 5) are "variances" of (0.1, 0.1, 0.2, 0.2).
    """
    centre, extent = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    box_centre, box_extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    deltas = torch.cat(((box_centre - centre) / extent, (box_extent / extent).log()), dim=-1)
    return _by_column(torch.mul, deltas, weights)


def deltas_to_boxes(
    anchors: Float[Tensor, "*#n 4"], deltas: Float[Tensor, "*#n 4"], weights: Weights
) -> Float[Tensor, "*n 4"]:
    """The inverse of `boxes_to_deltas`, for sides of at most 62.5 times the anchor's."""
    centre, extent = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    deltas = _by_column(torch.div, deltas, weights)
    box_centre = centre + deltas[..., :2] * extent
    half = extent * deltas[..., 2:].clamp(max=LARGEST_LOG_RATIO).exp() / 2
    return torch.cat((box_centre - half, box_centre + half), dim=-1)


def _by_column(
    operation: Callable[[Tensor, float], Tensor], deltas: Float[Tensor, "*n 4"], weights: Weights
) -> Float[Tensor, "*n 4"]:
    """Applies an operation column by column; a tensor of the weights would have to be copied to the device."""
    return torch.stack([operation(x, weight) for x, weight in zip(deltas.unbind(dim=-1), weights, strict=True)], dim=-1)


def clip_boxes(boxes: Float[Tensor, "*#n 4"], size: Int[Tensor, "*#n 2"]) -> Float[Tensor, "*n 4"]:
    """Boxes cut off at [0, width] x [0, height]; one wholly outside is left without area.

    `torchvision.ops.clip_boxes_to_image` wants the size as Python numbers, which a size on the device has
    to be waited for.
    """
    width_height = size.flip(-1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), torch.cat((width_height, width_height), dim=-1))


def box_areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Width times height, without the legacy "+1"; `torchvision.ops.box_area` takes (N, 4) only."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
