"""Loss terms, and the averages over ranks that normalise them."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

BACKGROUND, IGNORED = -1, -2
"""Labels of background, and of points and anchors that every loss ignores."""

SMALLEST_IOU = 1e-12
"""Floor under the IoU inside a logarithm, since a ReLU head may predict boxes without area; so low that a
prediction of any sensible size, however far off, keeps its gradient."""


def sigmoid_focal_loss(
    logits: Float[Tensor, "*n K"], labels: Int[Tensor, "*n"], alpha: float, gamma: float
) -> Float[Tensor, ""]:
    """Focal loss (arXiv 1708.02002, equation 5), summed; BACKGROUND makes all K columns negative, IGNORED none.

    With z the logit of the *wrong* answer, 1 - p_t is sigmoid(z) and -log(p_t) is softplus(z), exact however large the
    logit. The detectors call `fused_sigmoid_focal_loss`, the same number sooner; to try another formula change this one
    and call it in a detector's loss.
    """
    positive = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    wrong = _at_least_float(torch.where(positive, -logits, logits))
    cost = wrong.sigmoid() ** gamma * F.softplus(wrong) * (labels != IGNORED)[..., None]
    return torch.where(positive, alpha * cost, (1 - alpha) * cost).sum()


def fused_sigmoid_focal_loss(
    logits: Float[Tensor, "*n K"], labels: Int[Tensor, "*n"], alpha: float, gamma: float
) -> Float[Tensor, ""]:
    """`sigmoid_focal_loss` with its gradient worked out by hand, in a fraction of the time and memory.

    Autograd keeps five arrays of the size of the logits for the backward pass; here nothing is kept but the gradient,
    in the precision of the logits. Computed in float32 at least.
    """
    return cast(Tensor, _FocalLoss.apply(logits, labels, alpha, gamma))


class _FocalLoss(torch.autograd.Function):
    """Treats every column as a negative, then corrects the few positives.

    Loss and gradient come from one sweep, a portion of rows at a time: on a CPU one that stays in its cache, on a GPU
    one that fills it.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        rows, label = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        negative = (1 - alpha) * (label != IGNORED)[:, None].to(_at_least_float(rows[:1]).dtype)
        gradient = torch.empty_like(rows) if logits.requires_grad else None
        total = negative.new_zeros(())
        portion = max(1, (2**17 if logits.device.type == "cpu" else 2**25) // rows.shape[1])
        for start in range(0, len(rows), portion):
            part = slice(start, start + portion)
            loss, slope = _focal(_at_least_float(rows[part]), gamma, gradient is not None)
            total += (loss * negative[part]).sum()
            if gradient is not None:
                gradient[part] = slope * negative[part]

        # One column of each row, as places in the flat arrays: scattering along columns of bf16 is slow on a CPU.
        place = torch.arange(len(rows), device=rows.device) * rows.shape[1] + label.clamp(min=0)
        x, positive = _at_least_float(rows.flatten()[place]), label >= 0
        of_negative, _ = _focal(x, gamma, False)
        loss, slope = _focal(-x, gamma, True)
        total += (alpha * loss - (1 - alpha) * of_negative).where(positive, 0.0).sum()
        if gradient is not None:
            flat = gradient.view(-1)
            flat.index_copy_(0, place, (-alpha * slope).to(flat.dtype).where(positive, flat[place]))
            ctx.save_for_backward(gradient.view_as(logits))
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = cast(tuple[Tensor], cast(Any, ctx).saved_tensors)
        return gradient * grad_outputs[0], None, None, None


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _focal(wrong: Tensor, gamma: float, with_slope: bool) -> tuple[Tensor, Tensor]:
    """Loss without alpha, and its derivative, by the logit of the wrong answer."""
    q, cost = wrong.sigmoid(), F.softplus(wrong)
    weight = q.pow(gamma)
    loss = weight * cost
    slope = cost.mul_(gamma).mul_(1 - q).add_(q).mul_(weight) if with_slope else cost
    return loss, slope


def _overlap(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Intersection and union of boxes given as distances from the same point, which may lie outside."""
    both = torch.minimum(predicted, target)
    across, down = both[..., 0] + both[..., 2], both[..., 1] + both[..., 3]
    intersection = across.clamp(min=0) * down.clamp(min=0)
    return intersection, _area(predicted) + _area(target) - intersection


def _area(distances: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    return (distances[..., 0] + distances[..., 2]) * (distances[..., 1] + distances[..., 3])


def iou_loss(predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Loss -log(IoU) (UnitBox, arXiv 1608.01471) of distances from a point inside the target box.

    fcos_core adds 1 to intersection and union; here and below nothing is added, so that a loss does not
    depend on the unit of its distances.
    """
    intersection, union = _overlap(predicted, target)
    return -(intersection / union).clamp(min=SMALLEST_IOU).log()


def linear_iou_loss(predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Loss 1 - IoU."""
    intersection, union = _overlap(predicted, target)
    return 1 - intersection / union


def giou_loss(predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Loss 1 - GIoU (arXiv 1902.09630)."""
    intersection, union = _overlap(predicted, target)
    hull = _area(torch.maximum(predicted, target))
    return 1 - intersection / union + (hull - union) / hull


BoxLoss = Literal["iou", "linear_iou", "giou"]
BOX_LOSSES: dict[BoxLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "linear_iou": linear_iou_loss,
    "giou": giou_loss,
}


def mean_over_ranks(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Averages each entry over the ranks of a distributed run.

    Only while gradients are recorded: in training all ranks take the same number of steps, in validation
    they need not, and a rank that waits for the others would wait for ever.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def check_smooth_l1(what: str, beta: float) -> None:
    if not beta >= 0:
        raise ValueError(f"smooth_l1_beta={beta} of {what}: expected 0 (a plain L1 loss) or more")
