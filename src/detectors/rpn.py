"""Region proposal network: Faster R-CNN, section 3 (arXiv 1506.01497); over a pyramid as in FPN (arXiv 1612.03144)."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from detectors.anchors import Anchors
from detectors.backbones.base import Backbone
from detectors.backbones.norms import Norm
from detectors.boxes import Weights, boxes_to_deltas, clip_boxes, deltas_to_boxes
from detectors.class_rows import ClassRows
from detectors.detections import Detections, check_decoding, rows_after_nms
from detectors.losses import IGNORED, check_smooth_l1, mean_over_ranks
from detectors.matching import check_ious, gather_matched, match_anchors
from detectors.pyramid import FeaturePyramid
from detectors.sampling import balanced_sample, check_sampling, uniform_noise

WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
"""Weights of the deltas between anchors and boxes."""


@dataclass(frozen=True)
class RPNOutputs:
    """The network's outputs for each anchor, finest level first, row by row, the anchors of a cell together."""

    logits: Float[Tensor, "B R"]
    """Objectness logits in the precision of the convolutions, like `deltas`."""
    deltas: Float[Tensor, "B R 4"]
    """Deltas from anchor to box; see `boxes.boxes_to_deltas`."""
    anchors: Float[Tensor, "R 4"]
    level_sizes: tuple[int, ...]
    """Number of anchors of each level; they sum to R."""
    maps: tuple[Tensor, ...]
    """Feature maps, from which a second stage pools its regions."""


torch.export.register_dataclass(RPNOutputs)


class RPNHead(nn.Module):
    """A 3 x 3 convolution that slides over all levels, and two 1 x 1 ones (figure 3).

    The original has two logits for each anchor and a softmax; the difference of the two is our one.
    """

    def __init__(self, num_channels: int, num_anchors: int, num_convs: int = 1) -> None:
        """`num_convs`: as many 3 x 3 convolutions, each with a ReLU; the paper has one."""
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"model.rpn_convs={num_convs}: expected 1 or more")
        self.conv, *more = (nn.Conv2d(num_channels, num_channels, 3, padding=1) for _ in range(num_convs))
        self.more = nn.ModuleList(more)
        self.logits = nn.Conv2d(num_channels, num_anchors, 1)
        self.deltas = nn.Conv2d(num_channels, num_anchors * 4, 1)
        for layer in (self.conv, *more, self.logits, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (B, anchors) and deltas (B, anchors, 4) of each level."""
        hidden = [F.relu(self.conv(x)) for x in maps]
        for conv in self.more:
            hidden = [F.relu(conv(x)) for x in hidden]
        logits = [self.logits(x).permute(0, 2, 3, 1).flatten(1) for x in hidden]
        deltas = [self.deltas(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in hidden]
        return logits, deltas


PYRAMID_STRIDES = (4, 8, 16, 32)
"""Of the maps that the pyramid is made from."""


def map_strides(pyramid_channels: int | None, pyramid_strides: Sequence[int] = PYRAMID_STRIDES) -> tuple[int, ...]:
    """Strides of P2-P6; without a pyramid, that of the single map over VGG-16, a ResNet's C4 or its dilated C5."""
    return (16,) if pyramid_channels is None else (*pyramid_strides, 2 * pyramid_strides[-1])


class RPN(nn.Module):
    """Backbone, its maps and the head over them; uint8 images in, raw outputs out.

    The maps are the pyramid's P2-P6, or, without `pyramid_channels`, the backbone's one map of stride 16.
    """

    def __init__(
        self,
        backbone: Backbone,
        anchors: Anchors,
        *,
        pyramid_channels: int | None = 256,
        pyramid_strides: Sequence[int] = PYRAMID_STRIDES,
        pyramid_norm: Norm | None = None,
        num_convs: int = 1,
    ) -> None:
        super().__init__()
        if pyramid_channels is None and pyramid_norm is not None:
            raise ValueError(f"model.pyramid_norm={pyramid_norm} with model.pyramid_channels=null: there is no pyramid")
        if not pyramid_strides:
            raise ValueError(
                "model.pyramid_strides=[]: expected strides of the backbone's maps, such as [4, 8, 16, 32]"
            )
        self.backbone = backbone
        self.pyramid: FeaturePyramid | None = None
        if pyramid_channels is not None:
            self.pyramid = FeaturePyramid(backbone, pyramid_channels, "pool", tuple(pyramid_strides), pyramid_norm)
        strides = map_strides(pyramid_channels, pyramid_strides)
        if anchors.strides != strides:
            raise ValueError(f"anchors at strides {anchors.strides}: expected those of the maps, {strides}")
        self.anchors = anchors
        self.num_channels = pyramid_channels or backbone.channels_at(strides)[0]
        self.rpn = RPNHead(self.num_channels, anchors.per_cell, num_convs)

    def class_rows(self) -> dict[str, ClassRows]:
        return {}

    def features(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> list[Tensor]:
        x = self.backbone.normalize(images, sizes)
        if self.pyramid is None:
            return self.backbone(x, self.anchors.strides)
        return self.pyramid(self.backbone(x, self.pyramid.inputs))

    def forward(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> RPNOutputs:
        maps = self.features(images, sizes)
        logits, deltas = self.rpn(maps)
        return RPNOutputs(
            logits=torch.cat(logits, dim=1),
            deltas=torch.cat(deltas, dim=1),
            anchors=self.anchors.grid((images.shape[2], images.shape[3]), images.device),
            level_sizes=tuple(x.shape[1] for x in logits),
            maps=tuple(maps),
        )


@dataclass(frozen=True)
class AnchorSamples:
    """The anchors in the loss."""

    rows: Int[Tensor, "B S"]
    labels: Int[Tensor, "B S"]
    """Class of the assigned box, BACKGROUND, or IGNORED where an image had too few anchors."""
    boxes: Float[Tensor, "B S 4"]
    """Assigned box; the anchor itself where there is none."""


def assign_rpn(
    anchors: Float[Tensor, "R 4"],
    boxes: Float[Tensor, "B G 4"],
    labels: Int[Tensor, "B G"],
    sizes: Int[Tensor, "B 2"],
    *,
    background_iou: float = 0.3,
    foreground_iou: float = 0.7,
    inside_only: bool = False,
) -> tuple[Int[Tensor, "B R"], Float[Tensor, "B R 4"]]:
    """Assigns each anchor a label (-1: background, -2: ignored) and a box (section 3.1.2).

    With `inside_only`, as in the paper, anchors that stick out of their image are ignored, and the best of the others
    is assigned to a box; FPN and its successors keep them. The original forces every anchor of IoU 0 on a box
    that overlaps none; here such a box forces none.
    """
    if inside_only:
        inside = anchors_inside(anchors, sizes)
        own = torch.where(inside[..., None], anchors, _far_away(anchors))
        matched = match_anchors(
            own, boxes, background_iou=background_iou, foreground_iou=foreground_iou, allow_low_quality=True
        )
        matched = torch.where(inside, matched, IGNORED)
    else:
        matched = match_anchors(
            anchors, boxes, background_iou=background_iou, foreground_iou=foreground_iou, allow_low_quality=True
        )
    labels, target = gather_matched(matched, boxes, labels)
    return labels, torch.where(labels[..., None] >= 0, target, anchors)


def anchors_inside(anchors: Float[Tensor, "R 4"], sizes: Int[Tensor, "B 2"]) -> Bool[Tensor, "B R"]:
    """Whether an anchor lies in its image, its border included."""
    limit = sizes.flip(1)[:, None].to(anchors.dtype)
    return (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2:] <= limit).all(dim=2)


def _far_away(anchors: Float[Tensor, "R 4"]) -> Float[Tensor, "R 4"]:
    """Moves anchors to where they overlap no box, and keeps their areas."""
    return anchors - 1e6


@dataclass(frozen=True)
class AnchorSampler:
    """Assigns anchors to boxes and draws some of them for the loss (section 3.1.3, "Training RPNs")."""

    background_iou: float = 0.3
    foreground_iou: float = 0.7
    inside_only: bool = False
    num_samples: int = 256
    positive_fraction: float = 0.5

    def __post_init__(self) -> None:
        check_ious(self.background_iou, self.foreground_iou)
        check_sampling("anchors", self.num_samples, self.positive_fraction)

    @torch.no_grad()
    def __call__(
        self,
        outputs: RPNOutputs,
        boxes: Float[Tensor, "B G 4"],
        labels: Int[Tensor, "B G"],
        sizes: Int[Tensor, "B 2"],
        seeds: Sequence[int | None],
    ) -> AnchorSamples:
        assigned, target = assign_rpn(
            outputs.anchors,
            boxes,
            labels,
            sizes,
            background_iou=self.background_iou,
            foreground_iou=self.foreground_iou,
            inside_only=self.inside_only,
        )
        rows, sampled = balanced_sample(
            assigned,
            uniform_noise(seeds, assigned.shape[1], assigned.device),
            num_samples=self.num_samples,
            positive_fraction=self.positive_fraction,
        )
        return AnchorSamples(rows, sampled, _rows(target, rows))


@dataclass(frozen=True)
class RPNLoss:
    """Cross-entropy over sampled anchors, and smooth L1 over those assigned to a box (equation 1).

    Both are divided by the number of sampled anchors, a mean over ranks, so that N ranks take the step of one rank. It
    is the original's and torchvision's normaliser; the paper's, number of positions over lambda = 10, comes near it.
    """

    smooth_l1_beta: float = 1 / 9
    """Difference at which the square turns into the line: 1 / sigma^2 of the original's sigma = 3."""

    def __post_init__(self) -> None:
        check_smooth_l1("anchors", self.smooth_l1_beta)

    def __call__(self, outputs: RPNOutputs, samples: AnchorSamples) -> dict[str, Tensor]:
        positive, counted = samples.labels >= 0, samples.labels != IGNORED
        num_samples = mean_over_ranks(counted.sum().float()).clamp(min=1)
        logits = outputs.logits.gather(1, samples.rows).float()
        loss_cls = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none") * counted
        # Anchors without a box get equal deltas: a loss of 0 that no weight can turn into a NaN.
        deltas = _rows(outputs.deltas, samples.rows).float().where(positive[..., None], 0.0)
        target = boxes_to_deltas(outputs.anchors[samples.rows], samples.boxes, WEIGHTS)
        loss_loc = F.smooth_l1_loss(
            deltas, target.where(positive[..., None], 0.0), reduction="sum", beta=self.smooth_l1_beta
        )
        return {"loss_rpn_cls": loss_cls.sum() / num_samples, "loss_rpn_loc": loss_loc / num_samples}


def _rows(x: Float[Tensor, "B R 4"], rows: Int[Tensor, "B S"]) -> Float[Tensor, "B S 4"]:
    return x.gather(1, rows[..., None].expand(-1, -1, 4))


@dataclass(frozen=True)
class Proposals(Detections):
    """Boxes that may hold objects, all of class 0, and where they came from."""

    anchors: Int[Tensor, "B D"]
    """Row of the anchor that a box came from; 0 where padded."""


torch.export.register_dataclass(Proposals)


@dataclass(frozen=True)
class RPNDecoder:
    """The best boxes of each image, clipped to it, all of class 0, padded to `max_proposals` (section 3.3).

    A level keeps its best anchors; boxes suppress those of their own level. Boxes are ranked by logit. Decoding
    waits for the device in each image, once for the boxes that are large enough and around the NMS.
    """

    candidates_per_level: int = 1000
    nms_threshold: float = 0.7
    """IoU above which the lower-scored of two boxes is removed."""
    max_proposals: int = 1000
    min_size: float = 0.0
    """Shortest side in pixels of the network input; smaller boxes are dropped, and those without area."""
    score_threshold: float = 0.0
    """Objectness below which boxes are dropped."""

    def __post_init__(self) -> None:
        check_decoding(
            candidates_per_level=self.candidates_per_level,
            nms_threshold=self.nms_threshold,
            max_proposals=self.max_proposals,
            score_threshold=self.score_threshold,
        )

    @torch.no_grad()
    def __call__(self, outputs: RPNOutputs, sizes: Int[Tensor, "B 2"]) -> Proposals:
        images = [self._decode(outputs, image, size) for image, size in enumerate(sizes)]
        boxes, logits, anchors = (torch.stack(parts) for parts in zip(*images, strict=True))
        is_box = anchors >= 0
        return Proposals(
            boxes=boxes,
            scores=logits.sigmoid().where(is_box, 0.0),
            labels=is_box.long() - 1,
            anchors=anchors.clamp(min=0),
        )

    def _decode(
        self, outputs: RPNOutputs, image: int, size: Int[Tensor, "2"]
    ) -> tuple[Float[Tensor, "P 4"], Float[Tensor, " P"], Int[Tensor, " P"]]:
        """Boxes, logits and rows of their anchors, -1 where padded."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for level, num_anchors in enumerate(outputs.level_sizes):
            logits = outputs.logits[image, start : start + num_anchors].float()
            best, row = logits.topk(min(num_anchors, self.candidates_per_level))
            found.append((row + start, best, torch.full_like(row, level)))
            start += num_anchors
        rows, logits, levels = (torch.cat(parts) for parts in zip(*found, strict=True))
        boxes = deltas_to_boxes(outputs.anchors[rows], outputs.deltas[image, rows].float(), WEIGHTS)
        boxes = clip_boxes(boxes, size)
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = ((sides > 0) & (sides >= self.min_size)).all(dim=1)
        if self.score_threshold > 0:
            kept &= logits.sigmoid() >= self.score_threshold
        (large,) = kept.nonzero(as_tuple=True)
        kept = rows_after_nms(boxes[large], logits[large], levels[large], self.nms_threshold, self.max_proposals)
        kept, missing = large[kept], self.max_proposals - len(kept)
        return (
            F.pad(boxes[kept], (0, 0, 0, missing)),
            F.pad(logits[kept], (0, missing)),
            F.pad(rows[kept], (0, missing), value=-1),
        )
