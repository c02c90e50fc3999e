"""FCOS: Fully Convolutional One-Stage Object Detection (arXiv 1904.01355; improved version 2006.09214)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from detectors.backbones.base import Backbone
from detectors.backbones.norms import group_norm
from detectors.boxes import box_areas, boxes_to_distances, clip_boxes, distances_to_boxes
from detectors.class_rows import ClassRows
from detectors.deformable import DeformableConvolution
from detectors.detections import Detections, check_decoding, nms_and_pad, stack_detections
from detectors.losses import BOX_LOSSES, BoxLoss, fused_sigmoid_focal_loss, mean_over_ranks
from detectors.pyramid import FeaturePyramid

SizeRanges = Sequence[Sequence[float]]
SIZE_RANGES: SizeRanges = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))
"""Smallest and largest distance in pixels that each level P3-P7 regresses, by the largest of the four (section 3.2)."""


@dataclass(frozen=True)
class FCOSOutputs:
    """The head's outputs for each point, finest level first, row by row."""

    logits: Float[Tensor, "B R K"]
    """Class logits in the precision of the convolutions, like `centerness`."""
    distances: Float[Tensor, "B R 4"]
    """float32 pixels to the left, top, right and bottom side, whatever the head regresses."""
    centerness: Float[Tensor, "B R"]
    """Centerness logits."""
    points: Float[Tensor, "R 2"]
    """Points (x, y) in pixels."""
    strides: Float[Tensor, " R"]
    """Distance in pixels between neighbouring points."""
    level_sizes: tuple[int, ...]
    """Number of points of each level; they sum to R."""


torch.export.register_dataclass(FCOSOutputs)


class FCOSHead(nn.Module):
    """Two towers over all levels: one for classes, one for boxes (figure 2)."""

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        strides: tuple[int, ...],
        *,
        num_convs: int,
        head_norm: str | None,
        prior: float,
        normalize_targets: bool,
        centerness_on_box: bool,
        grid_offset: float = 0.5,
        spread_grid: bool = False,
        deformable_towers: bool = False,
    ) -> None:
        super().__init__()
        if deformable_towers and num_convs < 1:
            raise ValueError(f"deformable_towers=true with num_convs={num_convs}: expected 1 or more convolutions")
        if head_norm not in ("gn", None):
            raise ValueError(f"head_norm={head_norm}: expected gn or null")
        if not 0 < prior < 1:
            raise ValueError(f"prior={prior}: expected 0 < prior < 1")
        self.strides = strides
        self.normalize_targets = normalize_targets
        self.centerness_on_box = centerness_on_box
        self.grid_offset, self.spread_grid = grid_offset, spread_grid

        def tower() -> nn.Sequential:
            layers: list[nn.Module] = []
            for number in range(1, num_convs + 1):
                convolution = nn.Conv2d(num_channels, num_channels, 3, padding=1)
                deforms = deformable_towers and number == num_convs
                layers.append(DeformableConvolution(convolution) if deforms else convolution)
                if head_norm == "gn":
                    layers.append(group_norm(num_channels))
                layers.append(nn.ReLU(inplace=True))
            return nn.Sequential(*layers)

        self.class_tower, self.box_tower = tower(), tower()
        self.logits = nn.Conv2d(num_channels, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(num_channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(num_channels, 1, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in strides)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, DeformableConvolution):
                layer.reset_offsets()
        nn.init.constant_(cast(Tensor, self.logits.bias), -math.log((1 - prior) / prior))

    def forward(self, maps: list[Tensor], canvas: tuple[int, int] | None = None) -> FCOSOutputs:
        """Runs the towers over maps of images on a canvas (height, width), on which the points lie."""
        logits: list[Tensor] = []
        distances: list[Tensor] = []
        centerness: list[Tensor] = []
        for x, scale, stride in zip(maps, self.scales, self.strides, strict=True):
            class_features, box_features = self.class_tower(x), self.box_tower(x)
            logits.append(_rows(self.logits(class_features)))
            centerness.append(_rows(self.centerness(box_features if self.centerness_on_box else class_features)))
            raw = scale * _rows(self.distances(box_features)).float()
            # In strides, all levels regress the same range (2006.09214); the IoU losses do not see the unit.
            distances.append(raw.relu() * stride if self.normalize_targets else raw.exp())
        points, strides = grid_points(maps, self.strides, self.grid_offset, canvas if self.spread_grid else None)
        return FCOSOutputs(
            logits=torch.cat(logits, dim=1),
            distances=torch.cat(distances, dim=1),
            centerness=torch.cat(centerness, dim=1)[..., 0],
            points=points,
            strides=strides,
            level_sizes=tuple(x.shape[1] for x in logits),
        )


def _rows(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h*w C"]:
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def grid_points(
    maps: list[Tensor], strides: tuple[int, ...], offset: float = 0.5, spread_over: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "R 2"], Float[Tensor, " R"]]:
    """Centres ((j + 0.5) stride, (i + 0.5) stride) of all cells, and the stride of each.

    torchvision has an `offset` of 0, and spreads the cells over the canvas (height, width): the distance of its centres
    is side // cells, which is below the stride where that does not divide the side.
    """
    points: list[Tensor] = []
    spacing: list[Tensor] = []
    for level, stride in zip(maps, strides, strict=True):
        rows, columns = (
            (torch.arange(cells, device=level.device, dtype=torch.float32) + offset) * step
            for cells, step in zip(level.shape[-2:], _steps(level, stride, spread_over), strict=True)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        points.append(torch.stack((x, y), dim=-1).flatten(0, 1))
        spacing.append(torch.full_like(points[-1][:, 0], stride))
    return torch.cat(points), torch.cat(spacing)


def _steps(level: Tensor, stride: int, spread_over: tuple[int, int] | None) -> tuple[int, int]:
    if spread_over is None:
        return stride, stride
    return spread_over[0] // level.shape[-2], spread_over[1] // level.shape[-1]


class FCOS(nn.Module):
    """Backbone, pyramid P3-P7 and head; uint8 images in, raw outputs out."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pyramid_channels: int = 256,
        p6_from: str = "p5",
        num_convs: int = 4,
        head_norm: str | None = "gn",
        prior: float = 0.01,
        normalize_targets: bool = False,
        centerness_on_box: bool = False,
        grid_offset: float = 0.5,
        spread_grid: bool = False,
        deformable_towers: bool = False,
    ) -> None:
        """`deformable_towers`: the last convolution of each tower is deformable, as in fcos_core's dcnv2 models."""
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone, pyramid_channels, p6_from)
        self.head = FCOSHead(
            pyramid_channels,
            num_classes,
            self.pyramid.strides,
            num_convs=num_convs,
            head_norm=head_norm,
            prior=prior,
            normalize_targets=normalize_targets,
            centerness_on_box=centerness_on_box,
            grid_offset=grid_offset,
            spread_grid=spread_grid,
            deformable_towers=deformable_towers,
        )

    def class_rows(self) -> dict[str, ClassRows]:
        return {"head.logits": ClassRows()}

    def forward(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> FCOSOutputs:
        x = self.backbone.normalize(images, sizes)
        return self.head(self.pyramid(self.backbone(x)), (images.shape[2], images.shape[3]))


@torch.no_grad()
def assign_fcos(
    points: Float[Tensor, "R 2"],
    strides: Float[Tensor, " R"],
    level_sizes: tuple[int, ...],
    boxes: Float[Tensor, "B G 4"],
    labels: Int[Tensor, "B G"],
    *,
    center_sampling: float | None = None,
    size_ranges: SizeRanges = SIZE_RANGES,
    max_pairs: int = 2**21,
) -> tuple[Int[Tensor, "B R"], Float[Tensor, "B R 4"]]:
    """Assigns each point a label (-1: background) and its pixel distances to the sides of a box (sections 3.1, 3.2).

    A point is positive for a box that it lies strictly inside of (with `center_sampling`: within so many
    strides of the centre as well) if the largest distance to its sides is in the range of the point's
    level, both ends included, so that a distance of exactly 64 counts on P3 and on P4. Among several such boxes the
    smallest is taken, among equal areas the first. Distances of background points are zero.

    Every point is compared with every box, so boxes are processed in portions of at most `max_pairs` (image, point,
    box) triples, at least one box at a time: 8 MiB for each array alive, and the same result.
    """
    num_boxes = boxes.shape[1]
    boxes = F.pad(boxes, (0, 0, 0, 1))  # one more row, which stands for the background
    labels = F.pad(labels, (0, 1), value=-1)
    areas = box_areas(boxes).masked_fill(labels < 0, torch.inf)
    low, high = (
        torch.cat([points.new_full((n,), r[end]) for n, r in zip(level_sizes, size_ranges, strict=True)])
        for end in (0, 1)
    )
    smallest = areas.new_full((len(boxes), len(points)), torch.inf)
    chosen = torch.full_like(smallest, num_boxes, dtype=torch.int64)
    portion = max(1, max_pairs // smallest.numel())
    for start in range(0, num_boxes, portion):
        part = slice(start, min(start + portion, num_boxes))
        candidate = _may_be_assigned(points, strides, low, high, boxes[:, part], center_sampling)
        area, index = areas[:, None, part].where(candidate, torch.inf).min(dim=2)
        closer = area < smallest
        smallest = torch.where(closer, area, smallest)
        chosen = torch.where(closer, index + start, chosen)
    target_labels = labels.gather(1, chosen)
    target_boxes = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    distances = boxes_to_distances(points, target_boxes)
    return target_labels, distances.where(target_labels[..., None] >= 0, 0.0)


def _may_be_assigned(
    points: Float[Tensor, "R 2"],
    strides: Float[Tensor, " R"],
    low: Float[Tensor, " R"],
    high: Float[Tensor, " R"],
    boxes: Float[Tensor, "B G 4"],
    center_sampling: float | None,
) -> Tensor:
    """Whether each point may be assigned to each box: bool (B, R, G)."""
    x, y = points[:, None].unbind(dim=-1)
    x1, y1, x2, y2 = boxes[:, None].unbind(dim=-1)
    left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    if center_sampling is not None:
        off_centre = torch.maximum((left - right).abs(), (top - bottom).abs()) / 2
        nearest = torch.minimum(nearest, center_sampling * strides[:, None] - off_centre)
    return (nearest > 0) & (farthest >= low[:, None]) & (farthest <= high[:, None])


def centerness_of(distances: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Centerness: 1 in the middle of the box, 0 on its border (equation 3)."""
    left, top, right, bottom = distances.unbind(dim=-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).sqrt()


def check_size_ranges(size_ranges: SizeRanges) -> None:
    if len(size_ranges) != len(SIZE_RANGES) or not all(len(pair) == 2 and pair[0] < pair[1] for pair in size_ranges):
        raise ValueError(
            f"size_ranges={[list(pair) for pair in size_ranges]}: expected {len(SIZE_RANGES)} pairs, one for each "
            "level, the first number of each smaller than the second"
        )


@dataclass(frozen=True)
class FCOSLoss:
    """Focal loss for classes, IoU loss weighted by centerness, cross-entropy for centerness (equation 2).

    The normalisers, the number of positives and the sum of their centerness, are means over ranks, so that
    N ranks take the step of one rank. Shapes do not depend on the targets: nothing waits for the device, and
    without any positive each term is finite and reaches every parameter.
    """

    center_sampling: float | None = None
    """Radius around a box's centre in strides; None: every point inside the box."""
    size_ranges: SizeRanges = SIZE_RANGES
    """Distances that each level regresses; for small inputs give smaller ones."""
    box_loss: BoxLoss = "iou"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss={self.box_loss}: expected one of {', '.join(BOX_LOSSES)}")
        check_size_ranges(self.size_ranges)

    def __call__(
        self, outputs: FCOSOutputs, boxes: Float[Tensor, "B G 4"], labels: Int[Tensor, "B G"]
    ) -> dict[str, Tensor]:
        target_labels, target = assign_fcos(
            outputs.points,
            outputs.strides,
            outputs.level_sizes,
            boxes,
            labels,
            center_sampling=self.center_sampling,
            size_ranges=self.size_ranges,
        )
        positive = target_labels >= 0
        # The background gets equal boxes: a loss of 0 that no weight can turn into a NaN.
        target = target.where(positive[..., None], 1.0)
        predicted = outputs.distances.float().where(positive[..., None], 1.0)
        centerness = centerness_of(target) * positive
        totals = mean_over_ranks(torch.stack((positive.sum().float(), centerness.sum())))
        num_positives, centerness_sum = totals[0].clamp(min=1), totals[1].clamp(min=1e-6)

        loss_cls = fused_sigmoid_focal_loss(outputs.logits, target_labels, self.focal_alpha, self.focal_gamma)
        loss_box = (BOX_LOSSES[self.box_loss](predicted, target) * centerness).sum()
        loss_centerness = F.binary_cross_entropy_with_logits(
            outputs.centerness.float(), centerness, weight=positive.float(), reduction="sum"
        )
        return {
            "loss_cls": loss_cls / num_positives,
            "loss_box": loss_box / centerness_sum,
            "loss_centerness": loss_centerness / num_positives,
        }


@dataclass(frozen=True)
class FCOSDecoder:
    """The best boxes of each image, clipped to it and padded to `max_detections`.

    Boxes without area after clipping (those of points in the padding) are dropped. Decoding waits for the device
    in each image: for the candidates of each level, for those with an area and around the NMS.
    """

    score_threshold: float = 0.05
    """Threshold of the class score alone, before centerness."""
    nms_threshold: float = 0.6
    """IoU above which the lower-scored of two boxes of a class is removed."""
    candidates_per_level: int = 1000
    max_detections: int = 100
    threshold_product: bool = False
    """Whether `score_threshold` is that of sqrt(class score x centerness), a detection's score, as in torchvision."""

    def __post_init__(self) -> None:
        check_decoding(
            score_threshold=self.score_threshold,
            candidates_per_level=self.candidates_per_level,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )

    @torch.no_grad()
    def __call__(self, outputs: FCOSOutputs, sizes: Int[Tensor, "B 2"]) -> Detections:
        return stack_detections(self._decode(outputs, image, size) for image, size in enumerate(sizes))

    def _decode(
        self, outputs: FCOSOutputs, image: int, size: Int[Tensor, "2"]
    ) -> tuple[Float[Tensor, "D 4"], Float[Tensor, " D"], Int[Tensor, " D"]]:
        points, products, labels = self._candidates(outputs, image)
        boxes = distances_to_boxes(outputs.points[points], outputs.distances[image, points].float())
        boxes = clip_boxes(boxes, size)
        (inside,) = (box_areas(boxes) > 0).nonzero(as_tuple=True)
        boxes, scores, labels = boxes[inside], products[inside].sqrt(), labels[inside]
        return nms_and_pad(boxes, scores, labels, nms_threshold=self.nms_threshold, max_detections=self.max_detections)

    def _candidates(
        self, outputs: FCOSOutputs, image: int
    ) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Int[Tensor, " N"]]:
        """Point, class score times centerness, and label of each level's best candidates.

        The threshold is moved to the logits, so that only candidates above it go through a sigmoid.
        """
        t = self.score_threshold**2 if self.threshold_product else self.score_threshold
        threshold = math.log(t / (1 - t)) if t > 0 else -math.inf
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for num_points in outputs.level_sizes:
            level = slice(start, start + num_points)
            logits = outputs.logits[image, level].float()
            point, label = (logits > threshold).nonzero(as_tuple=True)
            centerness = outputs.centerness[image, level][point].float()
            product = logits[point, label].sigmoid() * centerness.sigmoid()
            if self.threshold_product:  # which only those can reach whose class score alone exceeds its square
                (passing,) = (product.sqrt() > self.score_threshold).nonzero(as_tuple=True)
                point, label, product = point[passing], label[passing], product[passing]
            product, best = product.topk(min(len(product), self.candidates_per_level))
            found.append((point[best] + start, product, label[best]))
            start += num_points
        points, products, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return points, products, labels
