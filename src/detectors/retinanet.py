"""RetinaNet: Focal Loss for Dense Object Detection (arXiv 1708.02002)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from detectors.anchors import Anchors
from detectors.backbones.base import Backbone
from detectors.backbones.norms import group_norm
from detectors.boxes import (
    Weights,
    box_areas,
    boxes_to_deltas,
    boxes_to_distances,
    check_weights,
    clip_boxes,
    deltas_to_boxes,
)
from detectors.class_rows import ClassRows
from detectors.detections import Detections, check_decoding, nms_and_pad, stack_detections
from detectors.losses import check_smooth_l1, fused_sigmoid_focal_loss, giou_loss, mean_over_ranks
from detectors.matching import check_ious, gather_matched, match_anchors
from detectors.pyramid import FeaturePyramid


@dataclass(frozen=True)
class RetinaNetOutputs:
    """The head's outputs for each anchor, finest level first, row by row, the anchors of a cell together."""

    logits: Float[Tensor, "B R K"]
    """Class logits in the precision of the convolutions, like `deltas`."""
    deltas: Float[Tensor, "B R 4"]
    """Deltas from anchor to box; see `boxes.boxes_to_deltas`."""
    anchors: Float[Tensor, "R 4"]
    level_sizes: tuple[int, ...]
    """Number of anchors of each level; they sum to R."""


torch.export.register_dataclass(RetinaNetOutputs)


class RetinaNetHead(nn.Module):
    """Two towers over all levels: one for classes, one for boxes (figure 3)."""

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        num_anchors: int,
        *,
        num_convs: int,
        head_norm: str | None,
        prior: float,
    ) -> None:
        super().__init__()
        if head_norm not in ("gn", None):
            raise ValueError(f"head_norm={head_norm}: expected gn or null")
        if not 0 < prior < 1:
            raise ValueError(f"prior={prior}: expected 0 < prior < 1")
        self.num_anchors = num_anchors

        def tower() -> nn.Sequential:
            layers: list[nn.Module] = []
            for _ in range(num_convs):
                layers.append(nn.Conv2d(num_channels, num_channels, 3, padding=1))
                if head_norm == "gn":
                    layers.append(group_norm(num_channels))
                layers.append(nn.ReLU(inplace=True))
            return nn.Sequential(*layers)

        self.class_tower, self.box_tower = tower(), tower()
        self.logits = nn.Conv2d(num_channels, num_anchors * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(num_channels, num_anchors * 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(cast(Tensor, self.logits.bias), -math.log((1 - prior) / prior))

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (B, anchors, K) and deltas (B, anchors, 4) of each level."""
        logits = [self._rows(self.logits(self.class_tower(x))) for x in maps]
        deltas = [self._rows(self.deltas(self.box_tower(x))) for x in maps]
        return logits, deltas

    def _rows(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B n c"]:
        """Reshapes maps to rows; channel a * c + k of a cell is the k-th number of its anchor a."""
        return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1] // self.num_anchors)


class RetinaNet(nn.Module):
    """Backbone, pyramid P3-P7 and head; uint8 images in, raw outputs out."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: Anchors,
        *,
        pyramid_channels: int = 256,
        p6_from: str = "c5",
        num_convs: int = 4,
        head_norm: str | None = None,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone, pyramid_channels, p6_from)
        if anchors.strides != self.pyramid.strides:
            raise ValueError(
                f"anchors at strides {anchors.strides}: expected those of the pyramid, {self.pyramid.strides}"
            )
        self.anchors = anchors
        self.head = RetinaNetHead(
            pyramid_channels,
            num_classes,
            anchors.per_cell,
            num_convs=num_convs,
            head_norm=head_norm,
            prior=prior,
        )

    def class_rows(self) -> dict[str, ClassRows]:
        return {"head.logits": ClassRows(outer=self.anchors.per_cell)}

    def forward(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> RetinaNetOutputs:
        x = self.backbone.normalize(images, sizes)
        logits, deltas = self.head(self.pyramid(self.backbone(x)))
        return RetinaNetOutputs(
            logits=torch.cat(logits, dim=1),
            deltas=torch.cat(deltas, dim=1),
            anchors=self.anchors.grid((images.shape[2], images.shape[3]), images.device),
            level_sizes=tuple(x.shape[1] for x in logits),
        )


def assign_retinanet(
    anchors: Float[Tensor, "R 4"],
    boxes: Float[Tensor, "B G 4"],
    labels: Int[Tensor, "B G"],
    *,
    background_iou: float = 0.4,
    foreground_iou: float = 0.5,
    allow_low_quality: bool = True,
) -> tuple[Int[Tensor, "B R"], Float[Tensor, "B R 4"]]:
    """Assigns each anchor a label (-1: background, -2: ignored) and a box (section 4, "Anchors").

    The paper matches no anchor below `foreground_iou`; its authors' code does, with `allow_low_quality`. The box of an
    unmatched anchor is the anchor itself, so that its deltas are 0.
    """
    matched = match_anchors(
        anchors,
        boxes,
        background_iou=background_iou,
        foreground_iou=foreground_iou,
        allow_low_quality=allow_low_quality,
    )
    labels, target = gather_matched(matched, boxes, labels)
    return labels, torch.where(labels[..., None] >= 0, target, anchors)


BoxLoss = Literal["smooth_l1", "l1", "giou"]
BOX_LOSSES = get_args(BoxLoss)


@dataclass(frozen=True)
class RetinaNetLoss:
    """Focal loss over all anchors and a box loss over the matched ones (section 3; Fast R-CNN's for boxes).

    Both are divided by the number of matched anchors, a mean over ranks, so that N ranks take the step of one rank.
    Shapes do not depend on the targets: nothing waits for the device, and without any matched anchor each term
    is finite and reaches every parameter.
    """

    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    """Weights of the deltas, as in `boxes.boxes_to_deltas`; the same as the decoder's."""
    background_iou: float = 0.4
    foreground_iou: float = 0.5
    allow_low_quality: bool = True
    box_loss: BoxLoss = "smooth_l1"
    smooth_l1_beta: float = 1 / 9
    """Difference at which the square turns into the line."""
    box_loss_weight: float = 0.25
    """1/4 as in fcos_core and zgcr, which divide by four times the number of matched anchors; 1 as in detectron2."""
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss={self.box_loss}: expected one of {', '.join(BOX_LOSSES)}")
        check_ious(self.background_iou, self.foreground_iou)
        check_weights(self.box_weights)
        check_smooth_l1("anchors", self.smooth_l1_beta)

    def __call__(
        self, outputs: RetinaNetOutputs, boxes: Float[Tensor, "B G 4"], labels: Int[Tensor, "B G"]
    ) -> dict[str, Tensor]:
        target_labels, target = assign_retinanet(
            outputs.anchors,
            boxes,
            labels,
            background_iou=self.background_iou,
            foreground_iou=self.foreground_iou,
            allow_low_quality=self.allow_low_quality,
        )
        positive = target_labels >= 0
        num_positives = mean_over_ranks(positive.sum().float()).clamp(min=1)
        loss_cls = fused_sigmoid_focal_loss(outputs.logits, target_labels, self.focal_alpha, self.focal_gamma)
        # Anchors without a box get equal deltas: a loss near 0 that no weight can turn into a NaN.
        predicted = outputs.deltas.float().where(positive[..., None], 0.0)
        loss_box = (self._box_loss(outputs.anchors, predicted, target) * positive).sum()
        return {
            "loss_cls": loss_cls / num_positives,
            "loss_box": self.box_loss_weight * loss_box / num_positives,
        }

    def _box_loss(
        self, anchors: Float[Tensor, "R 4"], predicted: Float[Tensor, "B R 4"], target: Float[Tensor, "B R 4"]
    ) -> Float[Tensor, "B R"]:
        if self.box_loss == "giou":
            # torchvision's picks the boxes that meet, and so waits for the device.
            boxes, centre = deltas_to_boxes(anchors, predicted, self.box_weights), (anchors[:, :2] + anchors[:, 2:]) / 2
            return giou_loss(boxes_to_distances(centre, boxes), boxes_to_distances(centre, target))
        deltas = boxes_to_deltas(anchors, target, self.box_weights)
        if self.box_loss == "l1":
            return F.l1_loss(predicted, deltas, reduction="none").sum(dim=-1)
        return F.smooth_l1_loss(predicted, deltas, reduction="none", beta=self.smooth_l1_beta).sum(dim=-1)


@dataclass(frozen=True)
class RetinaNetDecoder:
    """The best boxes of each image, clipped to it and padded to `max_detections` (section 4.1, "Inference").

    Class-wise, a level keeps its best pairs of anchor and class, and a box suppresses those of its own class.
    `top_class_only` keeps the best anchors of a level, each with its best class alone, and a box suppresses all
    classes; it is zgcr's decoder, whose boxes were truncated to integers and clipped on one side.

    Boxes without area after clipping (anchors in the padding) are dropped. Decoding waits for the device in each
    image: for the candidates, twice a level (once with `top_class_only`), for those with an area and around the NMS.
    """

    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    top_class_only: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    """IoU above which the lower-scored of two boxes is removed."""
    candidates_per_level: int = 1000
    max_detections: int = 100

    def __post_init__(self) -> None:
        check_decoding(
            score_threshold=self.score_threshold,
            candidates_per_level=self.candidates_per_level,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )

    @torch.no_grad()
    def __call__(self, outputs: RetinaNetOutputs, sizes: Int[Tensor, "B 2"]) -> Detections:
        return stack_detections(self._decode(outputs, image, size) for image, size in enumerate(sizes))

    def _decode(
        self, outputs: RetinaNetOutputs, image: int, size: Int[Tensor, "2"]
    ) -> tuple[Float[Tensor, "D 4"], Float[Tensor, " D"], Int[Tensor, " D"]]:
        rows, logits, labels = self._candidates(outputs, image)
        boxes = deltas_to_boxes(outputs.anchors[rows], outputs.deltas[image, rows].float(), self.box_weights)
        boxes = clip_boxes(boxes, size)
        (inside,) = (box_areas(boxes) > 0).nonzero(as_tuple=True)
        boxes, scores, labels = boxes[inside], logits[inside].sigmoid(), labels[inside]
        return nms_and_pad(
            boxes,
            scores,
            labels,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
            class_agnostic=self.top_class_only,
        )

    def _candidates(
        self, outputs: RetinaNetOutputs, image: int
    ) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Int[Tensor, " N"]]:
        """Anchor, logit and label of each level's best candidates.

        The threshold is moved to the logits, so that only candidates above it go through a sigmoid; anchors are
        filtered by their best class first, which reads the logits once.
        """
        t = self.score_threshold
        threshold = math.log(t / (1 - t)) if t > 0 else -math.inf
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for num_anchors in outputs.level_sizes:
            logits = outputs.logits[image, start : start + num_anchors].float()
            row = (logits.amax(dim=1) > threshold).nonzero()[:, 0]
            if self.top_class_only:
                anchor = row
                logit, label = logits[row].max(dim=1)
            else:
                among, label = (logits[row] > threshold).nonzero(as_tuple=True)
                anchor = row[among]
                logit = logits[anchor, label]
            logit, top = logit.topk(min(len(logit), self.candidates_per_level))
            found.append((anchor[top] + start, logit, label[top]))
            start += num_anchors
        rows, logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rows, logits, labels
