"""Box algebra that torchvision.ops lacks: boxes as distances from points, and clipping to many sizes at once.

Distances are (left, top, right, bottom), non-negative for a point inside its box.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def boxes_to_distances(points: Float[Tensor, "*#n 2"], boxes: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """Distances from points to the four sides (FCOS, equation 1)."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def distances_to_boxes(points: Float[Tensor, "*#n 2"], distances: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """The inverse of `boxes_to_distances`."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


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
