"""Builders that the RetinaNet tests share."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.anchors import RETINANET
from detectors.losses import IGNORED
from detectors.retinanet import RetinaNetOutputs

ONES, RCNN = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)


def random_outputs(num_images: int, num_classes: int, size: int = 128, seed: int = 0) -> RetinaNetOutputs:
    """Head outputs of a square canvas, made from leaves that record gradients."""
    generator = torch.Generator().manual_seed(seed)
    sizes = tuple(RETINANET.per_cell * math.ceil(size / stride) ** 2 for stride in RETINANET.strides)
    shape = (num_images, sum(sizes))
    return RetinaNetOutputs(
        (torch.randn(*shape, num_classes, generator=generator) - 4).requires_grad_(),
        torch.randn(*shape, 4, generator=generator).requires_grad_(),
        RETINANET.grid((size, size)),
        sizes,
    )


def outputs_on(
    anchors: Sequence[Sequence[float]] | Tensor, logits: Tensor, deltas: Tensor | None = None
) -> RetinaNetOutputs:
    """Head outputs for anchors that all lie on one level; without deltas the boxes are the anchors."""
    anchors = torch.as_tensor(anchors, dtype=torch.float32)
    deltas = torch.zeros(len(logits), len(anchors), 4) if deltas is None else deltas
    return RetinaNetOutputs(logits, deltas, anchors, (len(anchors),))


def ious(anchors: Tensor, boxes: Tensor, added: float) -> Tensor:
    """IoU (R, G), written independently; zgcr adds one pixel to the sides of areas, but not of the intersection."""
    low = torch.maximum(anchors[:, None, :2], boxes[:, :2])
    high = torch.minimum(anchors[:, None, 2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=2)
    area, box_area = ((x[:, 2:] - x[:, :2] + added).prod(dim=1) for x in (anchors, boxes))
    return common / (area[:, None] + box_area - common).clamp(min=1e-4)


def deltas_of(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Unweighted deltas, written independently, coordinate by coordinate."""
    ax, ay, aw, ah = _centre_and_sides(anchors)
    bx, by, bw, bh = _centre_and_sides(boxes)
    return torch.stack(((bx - ax) / aw, (by - ay) / ah, torch.log(bw / aw), torch.log(bh / ah)), dim=-1)


def boxes_of(anchors: Tensor, deltas: Tensor) -> Tensor:
    """The inverse of `deltas_of`."""
    x, y, w, h = _centre_and_sides(anchors)
    dx, dy, dw, dh = deltas.unbind(dim=-1)
    x, y, w, h = x + dx * w, y + dy * h, w * dw.exp(), h * dh.exp()
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)


def _centre_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def yxyx(boxes: Tensor) -> Tensor:
    """Converts xytpai's order of coordinates to ours and back."""
    return boxes[..., [1, 0, 3, 2]]


def yxhw(deltas: Tensor) -> Tensor:
    """Converts xytpai's order of deltas (y, x, height, width) to ours and back."""
    return yxyx(deltas)


def anchors_of_xytpai(height: int, width: int) -> Tensor:
    """xytpai's anchors as xyxy: centred on pixels (a side has pixels 0 to n - 1), with sides to a tenth of a pixel."""
    levels: list[Tensor] = []
    for level in range(4):
        stride = 8 * 2**level
        sides = 2**level * torch.tensor([[28.0, 28.0], [39.6, 19.8], [19.8, 39.6]])  # (width, height)
        rows, columns = (torch.arange((side - 1) // stride + 1) * stride for side in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
        levels.append(torch.cat((centres - sides / 2, centres + sides / 2), dim=-1).flatten(0, 1))
    return torch.cat(levels)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def gradients(losses: dict[str, Tensor], outputs: RetinaNetOutputs) -> list[Tensor]:
    return list(torch.autograd.grad(total(losses), [outputs.logits, outputs.deltas], retain_graph=True))


def focal(p: Tensor, labels: Tensor) -> Tensor:
    """Focal loss of probabilities (R, K), with alpha 0.25 and gamma 2, summed over what is not ignored."""
    t = F.one_hot(labels.clamp(min=-1) + 1, p.shape[-1] + 1)[..., 1:]
    loss = -t * 0.25 * (1 - p) ** 2 * p.log() - (1 - t) * 0.75 * p**2 * (1 - p).log()
    return loss[labels != IGNORED].sum()


def smooth_l1(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    off = (predicted - target).abs()
    return torch.where(off < beta, off**2 / (2 * beta), off - beta / 2).sum()
