"""`Detections`, which every decoder returns, and the last step of decoding: suppression and padding."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import nms

_GROUPWISE_FROM = 2000
"""Number of boxes from which a CPU suppresses each group separately; fewer are faster together."""


@dataclass(frozen=True)
class Detections:
    """The best boxes of each image by descending score, padded to the same number."""

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    """0 where padded."""
    labels: Int[Tensor, "B D"]
    """-1 where padded."""


torch.export.register_dataclass(Detections)


def stack_detections(
    images: Iterable[tuple[Float[Tensor, "D 4"], Float[Tensor, " D"], Int[Tensor, " D"]]],
) -> Detections:
    """Stacks the rows of several images, padded to the same number."""
    boxes, scores, labels = zip(*images, strict=True)
    return Detections(torch.stack(boxes), torch.stack(scores), torch.stack(labels))


def nms_and_pad(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    labels: Int[Tensor, " N"],
    *,
    nms_threshold: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> tuple[Float[Tensor, "D 4"], Float[Tensor, " D"], Int[Tensor, " D"]]:
    """Non-maximum suppression within each class, then an image's rows of `Detections`, padded."""
    groups = torch.zeros_like(labels) if class_agnostic else labels
    kept = rows_after_nms(boxes, scores, groups, nms_threshold, max_detections)
    missing = max_detections - len(kept)
    return (
        F.pad(boxes[kept], (0, 0, 0, missing)),
        F.pad(scores[kept], (0, missing)),
        F.pad(labels[kept], (0, missing), value=-1),
    )


def rows_after_nms(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    groups: Int[Tensor, " N"],
    nms_threshold: float,
    max_detections: int,
) -> Int[Tensor, " K"]:
    """Rows of the best boxes by falling score, at most `max_detections`, which none of their group suppresses.

    Of two boxes whose IoU exceeds the threshold the one with the higher score is kept. Greedy suppression never looks
    at boxes after the last one it keeps, so it runs on the best 3 x `max_detections`, and on twice as many while too
    few are left; the result is that of all boxes. It waits for the device once a round.
    """
    order = scores.argsort(descending=True, stable=True)
    count = 3 * max_detections
    while True:
        best = order[:count]
        kept = best[_suppress(boxes[best].double(), scores[best].double(), groups[best], nms_threshold)]
        kept = kept[:max_detections]
        if len(kept) == max_detections or count >= len(order):
            return kept
        count *= 2


def _suppress(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], groups: Int[Tensor, " N"], threshold: float
) -> Int[Tensor, " K"]:
    """Rows that greedy suppression within each group keeps, in their order; they come by descending score.

    Boxes of a group are moved away from the others, in float64, where that rounds nothing;
    `torchvision.ops.batched_nms` does it in float32, which moves boxes of the 80th class by up to 0.004 pixels. On a
    CPU, where comparing pairs across groups is slow, many boxes are suppressed group by group.
    """
    if len(boxes) > _GROUPWISE_FROM and boxes.device.type == "cpu":
        kept: list[Tensor] = []
        for group in groups.bincount().nonzero()[:, 0]:
            (rows,) = (groups == group).nonzero(as_tuple=True)
            kept.append(rows[nms(boxes[rows], scores[rows], threshold)])
        return torch.cat(kept).sort().values
    if len(boxes):
        boxes = boxes + (groups * (boxes.max() - boxes.min() + 1))[:, None]
    return nms(boxes, scores, threshold)


def check_decoding(**settings: int | float) -> None:
    """Raises ValueError unless a decoder's thresholds are shares (scores below 1) and its numbers at least 1."""
    for name, value in settings.items():
        if name.endswith("threshold"):
            if not 0 <= value <= 1 or (name == "score_threshold" and value == 1):
                raise ValueError(f"{name}={value}: expected 0 <= {name} {'<' if name[0] == 's' else '<='} 1")
        elif value < 1:
            raise ValueError(f"{name}={value}: expected 1 or more")
