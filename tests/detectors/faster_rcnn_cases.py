"""Builders that the Faster R-CNN tests share."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.anchors import FASTER_RCNN_FPN
from detectors.faster_rcnn import RegionOutputs
from detectors.rpn import Proposals, RPNOutputs


def random_rpn_outputs(num_images: int, size: int = 128, seed: int = 0) -> RPNOutputs:
    """RPN outputs of a square canvas, made from leaves that record gradients."""
    generator = torch.Generator().manual_seed(seed)
    strides = FASTER_RCNN_FPN.strides
    sizes = tuple(FASTER_RCNN_FPN.per_cell * math.ceil(size / stride) ** 2 for stride in strides)
    return RPNOutputs(
        torch.randn(num_images, sum(sizes), generator=generator).requires_grad_(),
        (torch.randn(num_images, sum(sizes), 4, generator=generator) / 2).requires_grad_(),
        FASTER_RCNN_FPN.grid((size, size)),
        sizes,
        (),
    )


def random_region_outputs(num_images: int, num_regions: int, num_classes: int) -> RegionOutputs:
    """Region outputs made from leaves that record gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, num_regions, num_classes + 1)
    return RegionOutputs(
        torch.randn(shape, generator=generator).requires_grad_(),
        torch.randn(*shape, 4, generator=generator).requires_grad_(),
    )


def rpn_outputs_on(
    anchors: Sequence[Sequence[float]] | Tensor,
    logits: Tensor | list[list[float]],
    deltas: Tensor | None = None,
    level_sizes: tuple[int, ...] | None = None,
) -> RPNOutputs:
    """RPN outputs for given anchors, by default all on one level; without deltas the boxes are the anchors."""
    anchors, logits = torch.as_tensor(anchors, dtype=torch.float32), torch.as_tensor(logits)
    deltas = torch.zeros(len(logits), len(anchors), 4) if deltas is None else deltas
    return RPNOutputs(logits, deltas, anchors, level_sizes or (len(anchors),), ())


def proposals_of(*images: Tensor | Sequence[Sequence[float]]) -> Proposals:
    """Proposals of each image, each from a different anchor, the images padded to the same number."""
    given = [torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in images]
    boxes = torch.zeros(len(given), max(len(x) for x in given), 4)
    labels = torch.full(boxes.shape[:2], -1)
    for image, x in enumerate(given):
        boxes[image, : len(x)], labels[image, : len(x)] = x, 0
    anchors = torch.arange(boxes.shape[1]).expand_as(labels)
    return Proposals(boxes, torch.where(labels >= 0, 0.5, 0.0), labels, anchors)


def of_images(proposals: Proposals, part: slice) -> Proposals:
    return Proposals(**{name: value[part] for name, value in vars(proposals).items()})


def random_boxes(num: int, size: float = 128.0, seed: int = 0) -> Tensor:
    """Boxes with sides from 5 to 5 plus half of the canvas, all inside."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * (size / 2 - 5)
    return torch.cat((corner, corner + torch.rand(num, 2, generator=generator) * size / 2 + 5), dim=1)


def as_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's Faster R-CNN by our names."""
    places = {
        "backbone.body.": "backbone.",
        "backbone.fpn.inner_blocks.": "pyramid.lateral.",
        "backbone.fpn.layer_blocks.": "pyramid.output.",
        "rpn.head.conv.0.0.": "rpn.conv.",
        "rpn.head.cls_logits.": "rpn.logits.",
        "rpn.head.bbox_pred.": "rpn.deltas.",
        "roi_heads.box_head.fc6.": "head.1.",
        "roi_heads.box_head.fc7.": "head.3.",
        "roi_heads.box_predictor.cls_score.": "logits.",
        "roi_heads.box_predictor.bbox_pred.": "deltas.",
    }
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        old, new = next((old, new) for old, new in places.items() if name.startswith(old))
        rest = name.removeprefix(old)
        renamed[new + (rest.replace(".0.", ".") if "blocks" in old else rest)] = value
    return renamed
