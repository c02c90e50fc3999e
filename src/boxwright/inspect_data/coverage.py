"""Measures how well FCOS's locations and the anchors of RetinaNet and Faster R-CNN cover a data set's boxes."""

# torch's conversions to and from numpy are only partly typed.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.survey import Survey
from datamodules.transforms import Resize
from detectors.anchors import FASTER_RCNN_FPN, FASTER_RCNN_VGG16, RETINANET, Anchors, best_ious
from detectors.fcos import SIZE_RANGES, FCOSLoss, SizeRanges, assign_fcos, grid_points
from reports.inspection_tables import OWN, RECALL_IOU, Alternative, Coverage

ANCHORS = {"RetinaNet": RETINANET, "Faster R-CNN, FPN": FASTER_RCNN_FPN, "Faster R-CNN, VGG16": FASTER_RCNN_VGG16}
ASSIGNMENTS = {"anywhere inside": None, "centre sampling 1.5": 1.5}
"""Assignments of FCOS's locations by name: values of `model.loss.center_sampling`."""
_STRIDES = RETINANET.strides  # FCOS has the same pyramid
_WIDER = (1 / 3, 0.5, 1.0, 2.0, 3.0)
_RESIZES = (0.5, 1.5, 2.0)
_PORTION = 2**15  # boxes: few enough for the processor's cache

T = TypeVar("T")


@dataclass(frozen=True)
class Targets:
    """Anchors and assignments to compare boxes with, by name: the chosen model's first, then the papers'."""

    anchors: dict[str, Anchors]
    assignments: dict[str, float | None]
    size_ranges: SizeRanges = SIZE_RANGES
    """Range of the distances that each level of FCOS regresses."""

    @classmethod
    def of(cls, model: Any = None) -> "Targets":
        """Takes anchors and assignment of a LightningModule, where it has them."""
        anchors, assignments, size_ranges = ANCHORS, ASSIGNMENTS, SIZE_RANGES
        own, loss = getattr(getattr(model, "network", None), "anchors", None), getattr(model, "loss", None)
        if isinstance(own, Anchors):
            anchors = _own_first(own, ANCHORS, _equal_anchors)
        if isinstance(loss, FCOSLoss):
            names = {f"centre sampling {loss.center_sampling:g}": loss.center_sampling} if loss.center_sampling else {}
            size_ranges = loss.size_ranges
            assignments = _own_first(loss.center_sampling, ASSIGNMENTS | names, lambda one, other: one == other)
        return cls(anchors, assignments, size_ranges)


def _own_first(own: T, known: dict[str, T], equal: Callable[[T, T], bool]) -> dict[str, T]:
    same = [name for name, value in known.items() if equal(own, value)]
    name = f"{OWN}: {same[0]}" if same else OWN
    return {name: own, **{name: value for name, value in known.items() if name not in same}}


def _equal_anchors(one: Anchors, other: Anchors) -> bool:
    """Whether anchors are equal up to the rounding of a config's numbers."""
    grids = [
        (anchors.strides, anchors.grid_offset, anchors.round_anchors, anchors.per_cell) for anchors in (one, other)
    ]
    levels = range(len(one.strides))
    return grids[0] == grids[1] and all(torch.allclose(one.shapes(level), other.shapes(level)) for level in levels)


@dataclass(frozen=True, eq=False)
class NetworkBoxes:
    """Boxes that training uses, resized as evaluation resizes their images."""

    boxes: Tensor
    """float32 (M, 4)."""
    canvases: Tensor
    """int64 (M, 2): canvas of each box's image by itself."""
    image_index: np.ndarray
    """int64 (M,), not decreasing."""
    labels: np.ndarray


def network_boxes(survey: Survey, rule: Resize) -> NetworkBoxes:
    """Resizes the boxes that training uses to the network's input."""
    truth, used = survey.truth, survey.used
    originals = truth.sizes.astype(np.int64)
    sizes = rule.sizes(originals)
    image_index = truth.image_index[used]
    scale = (sizes / originals)[image_index][:, [1, 0, 1, 0]]
    canvases = torch.from_numpy(rule.canvases(sizes)[image_index])
    boxes = torch.from_numpy(survey.boxes[used] * scale).float()
    return NetworkBoxes(boxes, canvases, image_index, truth.labels[used])


def cover(
    survey: Survey,
    rule: Resize,
    role: str,
    sample: int | None,
    seed: int,
    track: Callable[[Iterable[int], int], Iterable[int]],
    targets: Targets,
) -> Coverage:
    """Measures coverage exactly over all boxes; only FCOS's assignment is limited to `sample` images.

    `track` shows a bar over a number of images.
    """
    boxes = network_boxes(survey, rule)
    starts = np.flatnonzero(np.diff(boxes.image_index, prepend=-1))
    ends = np.append(starts[1:], len(boxes.image_index))
    images = np.arange(len(starts))
    if sample is not None and sample < len(images):
        images = np.sort(np.random.default_rng(seed).permutation(images)[:sample])
    members: list[np.ndarray] = [np.arange(a, b) for a, b in zip(starts[images], ends[images], strict=True)]
    unassigned: list[Tensor] = [
        _unassigned(boxes, members[i], targets) for i in track(range(len(members)), len(members))
    ]
    together = torch.cat(unassigned, dim=1).numpy()
    return Coverage(
        role=role,
        extents=(boxes.boxes[:, 2:] - boxes.boxes[:, :2]).double().numpy(),
        labels=boxes.labels.astype(np.int64),
        locations=locations_inside(boxes),
        best_iou={name: _best(anchors, boxes) for name, anchors in targets.anchors.items()},
        sample=np.concatenate(members),
        unassigned=dict(zip(targets.assignments, together, strict=True)),
        images=len(starts),
        sampled_images=len(images),
        level_ranges=[
            (f"P{level + 3}", max(low, 0.0), high if high < 1e8 else math.inf)
            for level, (low, high) in enumerate(targets.size_ranges)
        ],
        alternatives=_alternatives(survey, rule, boxes, targets.anchors),
    )


def locations_inside(boxes: NetworkBoxes, stride: int = _STRIDES[0]) -> np.ndarray:
    """Counts the points of a level strictly inside each box, as `assign_fcos` does."""
    last = torch.div(boxes.canvases.flip(1) + stride - 1, stride, rounding_mode="floor") - 1
    first_inside = ((boxes.boxes[:, :2] / stride - 0.5).floor() + 1).clamp(min=0)
    last_inside = ((boxes.boxes[:, 2:] / stride - 0.5).ceil() - 1).minimum(last)
    return (last_inside - first_inside + 1).clamp(min=0).prod(dim=1).long().numpy()


def _unassigned(boxes: NetworkBoxes, members: np.ndarray, targets: Targets) -> Tensor:
    """Finds the boxes of one image to which no location is assigned: bool (assignments, G)."""
    height, width = (int(side) for side in boxes.canvases[members[0]])
    maps = [torch.empty(math.ceil(height / stride), math.ceil(width / stride)) for stride in _STRIDES]
    points, strides = grid_points(maps, _STRIDES)
    numbers = torch.arange(len(members))[None]  # in the place of labels: each location names its box
    found: list[Tensor] = []
    for center_sampling in targets.assignments.values():
        chosen, _ = assign_fcos(
            points, strides, tuple(level.numel() for level in maps), boxes.boxes[members][None], numbers,
            center_sampling=center_sampling, size_ranges=targets.size_ranges,
        )  # fmt: skip
        found.append(torch.bincount(chosen[chosen >= 0], minlength=len(members)) == 0)
    return torch.stack(found)


def _best(anchors: Anchors, boxes: NetworkBoxes) -> np.ndarray:
    starts = range(0, len(boxes.boxes), _PORTION)
    portions = ((boxes.boxes[start : start + _PORTION], boxes.canvases[start : start + _PORTION]) for start in starts)
    return torch.cat([best_ious(anchors, *portion) for portion in portions]).double().numpy()


def _alternatives(survey: Survey, rule: Resize, boxes: NetworkBoxes, anchors: dict[str, Anchors]) -> list[Alternative]:
    """Computes the figures of other anchors, then of other sizes of the network's input."""

    def recall(boxes: NetworkBoxes, change: Callable[[Anchors], Anchors]) -> dict[str, float]:
        return {name: float((_best(change(a), boxes) >= RECALL_IOU).mean()) for name, a in anchors.items()}

    found = [
        Alternative("anchors half as large", recall(boxes, lambda a: _scaled(a, 0.5)), None),
        Alternative("anchors twice as large", recall(boxes, lambda a: _scaled(a, 2.0)), None),
        Alternative("ratios 1/3, 1/2, 1, 2, 3", recall(boxes, lambda a: replace(a, ratios=_WIDER)), None),
    ]
    for factor in _RESIZES:
        resize = max(1, round(rule.resize * factor))
        resized = network_boxes(survey, replace(rule, resize=resize))
        without = float((locations_inside(resized) == 0).mean())
        found.append(Alternative(f"data.resize={resize}", recall(resized, lambda a: a), without))
    return found


def _scaled(anchors: Anchors, factor: float) -> Anchors:
    return replace(anchors, sizes=tuple(tuple(size * factor for size in level) for level in anchors.sizes))
