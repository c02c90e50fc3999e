"""Builders that the FCOS tests share; other detectors use the truth too."""

import torch
from torch import Tensor

from detectors.fcos import FCOSOutputs, grid_points

STRIDES = (8, 16, 32, 64, 128)


def rows(maps: list[Tensor]) -> Tensor:
    """(B, C, h, w) maps of all levels as one (B, R, C), written independently of the network's code."""
    return torch.cat([x.reshape(*x.shape[:2], -1).transpose(1, 2) for x in maps], dim=1)


def outputs_of(logits: list[Tensor], distances: list[Tensor], centerness: list[Tensor]) -> FCOSOutputs:
    """Head outputs made from maps; distances in pixels."""
    points, strides = grid_points(logits, STRIDES)
    sizes = tuple(x.shape[-2] * x.shape[-1] for x in logits)
    return FCOSOutputs(rows(logits), rows(distances), rows(centerness)[..., 0], points, strides, sizes)


def pad_truth(boxes: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pads the boxes of each image to one batch; labels are the originals', which start at 1."""
    most = max(len(b) for b in boxes)
    padded, numbers = torch.zeros(len(boxes), most, 4), torch.full((len(boxes), most), -1)
    for i, (b, n) in enumerate(zip(boxes, labels, strict=True)):
        padded[i, : len(b)], numbers[i, : len(n)] = b, n - 1
    return padded, numbers


def random_outputs(num_images: int, num_classes: int, size: int = 128, seed: int = 0) -> FCOSOutputs:
    """Head outputs of a square canvas, made from leaves that record gradients."""
    generator = torch.Generator().manual_seed(seed)
    sizes = tuple((size // s or 1) ** 2 for s in STRIDES)
    points, strides = grid_points([torch.empty(1, 1, size // s or 1, size // s or 1) for s in STRIDES], STRIDES)
    shape = (num_images, sum(sizes))
    return FCOSOutputs(
        (torch.randn(*shape, num_classes, generator=generator) - 4).requires_grad_(),
        (torch.rand(*shape, 4, generator=generator) * 40).requires_grad_(),
        torch.randn(*shape, generator=generator).requires_grad_(),
        points,
        strides,
        sizes,
    )


def random_truth(num_images: int, num_boxes: int, num_classes: int, size: int = 128) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_boxes)
    corner = torch.rand(num_images, num_boxes, 2, generator=generator) * size * 0.7
    extent = torch.rand(num_images, num_boxes, 2, generator=generator) * size * 0.5 + 1
    labels = torch.randint(num_classes, (num_images, num_boxes), generator=generator)
    return torch.cat((corner, corner + extent), dim=-1), labels
