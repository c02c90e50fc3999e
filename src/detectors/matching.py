"""Assignment of anchors to true boxes by IoU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from detectors.boxes import box_areas
from detectors.losses import BACKGROUND, IGNORED


@torch.no_grad()
def match_anchors(
    anchors: Float[Tensor, "R 4"] | Float[Tensor, "B R 4"],
    boxes: Float[Tensor, "B G 4"],
    *,
    background_iou: float,
    foreground_iou: float,
    allow_low_quality: bool,
    max_pairs: int = 2**21,
) -> Int[Tensor, "B R"]:
    """Matches each anchor to the row of a box, to BACKGROUND or to IGNORED (arXiv 1506.01497, section 3.1.2).

    An anchor is compared with the box of largest IoU, among equal ones the first. It is matched
    from `foreground_iou` on, background below `background_iou`, and ignored in between. With `allow_low_quality` the
    anchors of largest IoU with some box are matched as well, to the box of largest IoU with *them*, which may be
    another one, as in Detectron. A box that no anchor overlaps forces none; torchvision, detectron2 and the
    first Faster R-CNN codes then take anchors of IoU 0. Padding, which has no area, is never matched.
    Anchors are those of every image, or each image's own; they have an area.

    Every anchor is compared with every box, so boxes are processed in portions of at most `max_pairs` (image, anchor,
    box) triples, at least one box at a time: 8 MiB for each array alive, and the same result.
    """
    num_boxes = boxes.shape[1]
    largest = boxes.new_zeros(len(boxes), anchors.shape[-2])
    row = torch.zeros_like(largest, dtype=torch.int64)
    forced = torch.zeros_like(largest, dtype=torch.bool)
    # Anchors last: a few boxes there would be slow to reduce over.
    x1, y1, x2, y2 = anchors.movedim(-1, 0).contiguous().unsqueeze(-2)
    anchor_areas, areas = box_areas(anchors).unsqueeze(-2), box_areas(boxes)[..., None]
    portion = max(1, max_pairs // largest.numel())
    for start in range(0, num_boxes, portion):
        part = slice(start, start + portion)
        left, top, right, bottom = boxes[:, part, None].unbind(dim=-1)
        across = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
        down = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
        common = across * down
        iou = common / (anchor_areas + areas[:, part] - common)
        if allow_low_quality:
            best_of_box = iou.amax(dim=2, keepdim=True)
            forced |= ((iou == best_of_box) & (best_of_box > 0)).any(dim=1)
        best, index = iou.max(dim=1)
        row = torch.where(best > largest, index + start, row)
        largest = torch.maximum(largest, best)
    unmatched = torch.where(largest < background_iou, BACKGROUND, IGNORED)
    return torch.where((largest >= foreground_iou) | forced, row, unmatched)


def gather_matched(
    matched: Int[Tensor, "B R"], boxes: Float[Tensor, "B G 4"], labels: Int[Tensor, "B G"]
) -> tuple[Int[Tensor, "B R"], Float[Tensor, "B R 4"]]:
    """Label and box that each anchor is matched to; its BACKGROUND or IGNORED, and zeros, where it is not."""
    row = torch.where(matched >= 0, matched, boxes.shape[1])
    labels = F.pad(labels, (0, 1), value=BACKGROUND).gather(1, row)
    boxes = F.pad(boxes, (0, 0, 0, 1)).gather(1, row[..., None].expand(-1, -1, 4))
    return torch.where(matched >= 0, labels, matched), boxes


def check_ious(background_iou: int | float, foreground_iou: int | float) -> None:
    if not 0 < background_iou <= foreground_iou <= 1:
        raise ValueError(
            f"background_iou={background_iou}, foreground_iou={foreground_iou}: expected "
            "0 < background_iou <= foreground_iou <= 1"
        )
