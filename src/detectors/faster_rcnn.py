"""Faster R-CNN (arXiv 1506.01497) over one map, or over a pyramid (FPN, arXiv 1612.03144); proposals are in `rpn`."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.anchors import Anchors
from detectors.backbones.base import Backbone
from detectors.backbones.norms import NORMS, Norm
from detectors.boxes import Weights, box_areas, boxes_to_deltas, check_weights, clip_boxes, deltas_to_boxes
from detectors.class_rows import ClassRows
from detectors.detections import Detections, check_decoding, nms_and_pad, stack_detections
from detectors.losses import BACKGROUND, IGNORED, check_smooth_l1, mean_over_ranks
from detectors.matching import gather_matched, match_anchors
from detectors.roi_pooling import SAMPLES, align_regions, max_pool_regions
from detectors.rpn import PYRAMID_STRIDES, RPN, Proposals
from detectors.sampling import balanced_sample, check_sampling, keyed_noise

POOLINGS = ("align", "max")
_TRUE_BOXES = 2**31
"""Key of the first true box in the noise of regions, behind those of all anchors."""


@dataclass(frozen=True)
class RegionOutputs:
    """The head's outputs for each region, padded ones included."""

    logits: Float[Tensor, "B P columns"]
    """Class logits: column 0 is background, label k is column k + 1; the last may be spare."""
    deltas: Float[Tensor, "B P columns 4"]
    """Deltas from region to box for each column; those of background are not used, but the original has them too."""
    spare_columns: int = 0
    """Number of columns behind the classes that take part in the softmax alone."""


torch.export.register_dataclass(RegionOutputs)


class FasterRCNN(RPN):
    """The proposal network, and a head that classifies and refines regions pooled from its maps: `forward` is the first
    half, `refine` the second.

    Over a pyramid the head is two fully connected layers of `head_channels` (FPN, section 4.2), or one behind
    `head_convs` convolutions (with `pyramid_norm`, arXiv 2111.11429, section 3.1); over one map it is
    what follows in the backbone: fc6 and fc7 of VGG-16, the last stage of a ResNet. Nothing follows a dilated C5,
    whose head is two fully connected layers too.

    `spare_columns` are columns behind the classes that take part in the softmax and are no class: torchvision's weights
    have ten, for numbers that COCO never used. Nothing is found in them, nothing is trained towards them.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: Anchors,
        *,
        pyramid_channels: int | None = 256,
        pyramid_strides: Sequence[int] = PYRAMID_STRIDES,
        pyramid_norm: Norm | None = None,
        rpn_convs: int = 1,
        head_convs: int = 0,
        head_channels: int = 1024,
        pooling: str = "align",
        pooled_size: int = 7,
        aligned: bool = True,
        spare_columns: int = 0,
        pooling_samples: int = SAMPLES,
    ) -> None:
        super().__init__(
            backbone,
            anchors,
            pyramid_channels=pyramid_channels,
            pyramid_strides=pyramid_strides,
            pyramid_norm=pyramid_norm,
            num_convs=rpn_convs,
        )
        if pooling not in POOLINGS or (pooling == "max" and pyramid_channels is not None):
            raise ValueError(
                f"model.pooling={pooling} with model.pyramid_channels={pyramid_channels}: expected align, or "
                "max over one map (pyramid_channels=null)"
            )
        if pooled_size < 1:
            raise ValueError(f"model.pooled_size={pooled_size}: expected 1 or more cells")
        if spare_columns < 0:
            raise ValueError(f"model.spare_columns={spare_columns}: expected 0 or more")
        self.pooling, self.pooled_size, self.aligned = pooling, pooled_size, aligned
        if pooling_samples < 0:
            raise ValueError(
                f"model.pooling_samples={pooling_samples}: expected 1 or more, or 0 for the side of the bin"
            )
        self.spare_columns, self.pooling_samples = spare_columns, pooling_samples
        self.head: nn.Sequential | None = None
        if head_convs < 0 or (head_convs and pyramid_channels is None):
            raise ValueError(
                f"model.head_convs={head_convs}: expected 0, or more over a pyramid (pyramid_channels=256)"
            )
        if pyramid_channels is None and backbone.has_region_head:
            channels = backbone.region_channels
            if backbone.region_size not in (None, pooled_size):
                raise ValueError(f"model.pooled_size={pooled_size}: fc6 of this backbone needs {backbone.region_size}")
        else:
            channels = head_channels
            pooled = nn.Linear(self.num_channels * pooled_size**2, channels)
            hidden = (pooled,) if head_convs else (pooled, nn.Linear(channels, channels))
            layers: list[nn.Module] = []
            for _ in range(head_convs):
                layers += _convolution(self.num_channels, pyramid_norm)
            layers.append(nn.Flatten())
            for layer in hidden:
                layers += [layer, nn.ReLU()]
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
            self.head = nn.Sequential(*layers)
        columns = num_classes + 1 + spare_columns
        self.logits = nn.Linear(channels, columns)
        self.deltas = nn.Linear(channels, columns * 4)
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def class_rows(self) -> dict[str, ClassRows]:
        return {
            "logits": ClassRows(before=1, after=self.spare_columns),
            "deltas": ClassRows(before=1, after=self.spare_columns, inner=4),
        }

    def refine(self, maps: Sequence[Tensor], boxes: Float[Tensor, "B P 4"]) -> RegionOutputs:
        """Classifies and refines the regions of boxes in pixels of the network input."""
        image = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        logits, deltas = self.classify_regions(self.pool_regions(maps, image, boxes.flatten(0, 1)))
        shape = (*boxes.shape[:2], logits.shape[1])
        return RegionOutputs(logits.reshape(shape), deltas.reshape(*shape, 4), self.spare_columns)

    def pool_regions(
        self, maps: Sequence[Tensor], image: Int[Tensor, " N"], boxes: Float[Tensor, "N 4"]
    ) -> Float[Tensor, "N C s s"]:
        if self.pyramid is not None:  # P6 is for proposals alone
            return align_regions(
                maps[:-1], self.pyramid.inputs, image, boxes, self.pooled_size, self.aligned, self.pooling_samples
            )
        if self.pooling == "max":
            return max_pool_regions(maps[0], 16, image, boxes, self.pooled_size)
        return align_regions(maps, (16,), image, boxes, self.pooled_size, self.aligned, self.pooling_samples)

    def classify_regions(
        self, pooled: Float[Tensor, "N C s s"]
    ) -> tuple[Float[Tensor, "N columns"], Float[Tensor, "N columns 4"]]:
        """Logits and deltas of pooled regions."""
        x = self.backbone.region_head(pooled) if self.head is None else self.head(pooled)
        logits = self.logits(x)
        return logits, self.deltas(x).reshape(*logits.shape, 4)


def _convolution(channels: int, norm: Norm | None) -> list[nn.Module]:
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return [layer, *([] if norm is None else [NORMS[norm](channels)]), nn.ReLU()]


@dataclass(frozen=True)
class RegionSamples:
    """The regions that the head is trained on."""

    regions: Float[Tensor, "B S 4"]
    labels: Int[Tensor, "B S"]
    """Class of the assigned box, BACKGROUND, or IGNORED where an image had too few regions."""
    boxes: Float[Tensor, "B S 4"]
    """Assigned box; the region itself where there is none."""


@dataclass(frozen=True)
class RegionSampler:
    """Assigns proposals to boxes and draws some of them for the head (Fast R-CNN, arXiv 1504.08083, section 2.3).

    The true boxes are added to the proposals. A region is assigned to the box of largest IoU, from `foreground_iou`
    on; all others are background, for which Fast R-CNN requires an IoU of 0.1 or more. A proposal is drawn by its
    anchor, not by its rank: rounding lets proposals of nearly equal scores change places, and must not draw others.
    """

    foreground_iou: float = 0.5
    num_samples: int = 512
    positive_fraction: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.foreground_iou <= 1:
            raise ValueError(f"foreground_iou={self.foreground_iou} of regions: expected 0 < foreground_iou <= 1")
        check_sampling("regions", self.num_samples, self.positive_fraction)

    @torch.no_grad()
    def __call__(
        self,
        proposals: Proposals,
        boxes: Float[Tensor, "B G 4"],
        labels: Int[Tensor, "B G"],
        seeds: Sequence[int | None],
    ) -> RegionSamples:
        regions = torch.cat((proposals.boxes, boxes), dim=1)
        padded = torch.cat((proposals.labels, labels), dim=1) < 0
        regions = regions + F.pad(padded[..., None].float().expand(-1, -1, 2), (2, 0))  # 0 0 1 1: an area to divide by
        matched = match_anchors(
            regions,
            boxes,
            background_iou=self.foreground_iou,
            foreground_iou=self.foreground_iou,
            allow_low_quality=False,
        )
        assigned, target = gather_matched(torch.where(padded, IGNORED, matched), boxes, labels)
        own = torch.arange(boxes.shape[1], device=boxes.device) + _TRUE_BOXES
        rows, sampled = balanced_sample(
            assigned,
            keyed_noise(seeds, torch.cat((proposals.anchors, own.expand(len(boxes), -1)), dim=1)),
            num_samples=self.num_samples,
            positive_fraction=self.positive_fraction,
        )
        rows = rows[..., None].expand(-1, -1, 4)
        regions, target = regions.gather(1, rows), target.gather(1, rows)
        return RegionSamples(regions, sampled, torch.where(sampled[..., None] >= 0, target, regions))


@dataclass(frozen=True)
class RegionLoss:
    """Cross-entropy over sampled regions, and smooth L1 over those assigned to a box (Fast R-CNN, equation 1).

    Both are divided by the number of sampled regions, a mean over ranks, so that N ranks take the step of one rank.
    """

    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    """Weights of the deltas, as in `boxes.boxes_to_deltas`; the same as the decoder's."""
    smooth_l1_beta: float = 1.0
    """Difference at which the square turns into the line; Fast R-CNN's is 1, torchvision's 1 / 9."""

    def __post_init__(self) -> None:
        check_weights(self.box_weights)
        check_smooth_l1("regions", self.smooth_l1_beta)

    def __call__(self, outputs: RegionOutputs, samples: RegionSamples) -> dict[str, Tensor]:
        positive = samples.labels >= 0
        num_samples = mean_over_ranks((samples.labels != IGNORED).sum().float()).clamp(min=1)
        column = samples.labels - BACKGROUND
        loss_cls = F.cross_entropy(
            outputs.logits.float().flatten(0, 1), column.flatten(), ignore_index=IGNORED - BACKGROUND, reduction="sum"
        )
        own = column.clamp(min=0)[..., None, None].expand(-1, -1, 1, 4)
        deltas = outputs.deltas.gather(2, own).squeeze(2).float()
        # Regions without a box get equal deltas: a loss of 0 that no weight can turn into a NaN.
        target = boxes_to_deltas(samples.regions, samples.boxes, self.box_weights)
        loss_loc = F.smooth_l1_loss(
            deltas.where(positive[..., None], 0.0),
            target.where(positive[..., None], 0.0),
            reduction="sum",
            beta=self.smooth_l1_beta,
        )
        return {"loss_roi_cls": loss_cls / num_samples, "loss_roi_loc": loss_loc / num_samples}


@dataclass(frozen=True)
class RegionDecoder:
    """The best boxes of each image, clipped to it and padded to `max_detections`; a box suppresses those of its class.

    Boxes without area after clipping are dropped, and those with a side under `min_size`. Decoding waits for the device
    in each image, for the candidates, for those that are large enough and around the NMS.
    """

    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    """IoU above which the lower-scored of two boxes is removed."""
    max_detections: int = 100
    min_size: float = 0.0
    """Shortest side in pixels of the network input."""

    def __post_init__(self) -> None:
        check_decoding(
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )

    @torch.no_grad()
    def __call__(self, outputs: RegionOutputs, proposals: Detections, sizes: Int[Tensor, "B 2"]) -> Detections:
        return stack_detections(self._decode(outputs, proposals, image, size) for image, size in enumerate(sizes))

    def _decode(
        self, outputs: RegionOutputs, proposals: Detections, image: int, size: Int[Tensor, "2"]
    ) -> tuple[Float[Tensor, "D 4"], Float[Tensor, " D"], Int[Tensor, " D"]]:
        scores = outputs.logits[image].float().softmax(dim=1)[:, 1 : outputs.logits.shape[2] - outputs.spare_columns]
        candidate = (scores > self.score_threshold) & (proposals.labels[image] >= 0)[:, None]
        row, label = candidate.nonzero(as_tuple=True)
        deltas = outputs.deltas[image, row, label + 1].float()
        boxes = clip_boxes(deltas_to_boxes(proposals.boxes[image, row], deltas, self.box_weights), size)
        sides = boxes[:, 2:] - boxes[:, :2]
        (inside,) = ((box_areas(boxes) > 0) & (sides >= self.min_size).all(dim=1)).nonzero(as_tuple=True)
        row, label = row[inside], label[inside]
        return nms_and_pad(
            boxes[inside],
            scores[row, label],
            label,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )
