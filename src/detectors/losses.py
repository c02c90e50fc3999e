"""Loss terms, and the averages over ranks that normalise them."""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

BACKGROUND, IGNORED = -1, -2
"""Labels of what has no class, and of what no loss looks at."""

SMALLEST_IOU = 1e-12
"""Floor under the IoU inside a logarithm, since a ReLU head may predict boxes without area; so low that a
prediction of any sensible size, however far off, keeps its gradient."""


def sigmoid_focal_loss(
    logits: Float[Tensor, "*n K"], labels: Int[Tensor, "*n"], alpha: float, gamma: float
) -> Float[Tensor, ""]:
    """Focal loss (arXiv 1708.02002, equation 5), summed; BACKGROUND makes all K columns negative, IGNORED none.

    With z the logit of the *wrong* answer, a column costs alpha_t * sigmoid(z)^gamma * softplus(z), which
    is exact however large the logit. `torchvision.ops.sigmoid_focal_loss` wants one-hot targets as floats
    and keeps four more arrays of that size for the backward pass.
    """
    positive = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    wrong = torch.where(positive, -logits, logits)
    loss = wrong.sigmoid().pow(gamma) * F.softplus(wrong)
    negative = (1 - alpha) * (labels[..., None] != IGNORED)
    return (loss * torch.where(positive, alpha, negative)).sum()


def _overlap(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Intersection and union of boxes given as distances from one and the same point, which may lie outside."""
    both = torch.minimum(predicted, target)
    across, down = both[..., 0] + both[..., 2], both[..., 1] + both[..., 3]
    intersection = across.clamp(min=0) * down.clamp(min=0)
    return intersection, _area(predicted) + _area(target) - intersection


def _area(distances: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    return (distances[..., 0] + distances[..., 2]) * (distances[..., 1] + distances[..., 3])


def iou_loss(predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """-log(IoU) (UnitBox, arXiv 1608.01471) of distances from a point inside the target box.

    fcos_core adds 1 to intersection and union; here and below nothing is added, so that a loss does not
    depend on the unit of its distances.
    """
    intersection, union = _overlap(predicted, target)
    return -(intersection / union).clamp(min=SMALLEST_IOU).log()


def linear_iou_loss(predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """1 - IoU."""
    intersection, union = _overlap(predicted, target)
    return 1 - intersection / union


def giou_loss(predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """1 - GIoU (arXiv 1902.09630)."""
    intersection, union = _overlap(predicted, target)
    hull = _area(torch.maximum(predicted, target))
    return 1 - intersection / union + (hull - union) / hull


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "linear_iou": linear_iou_loss,
    "giou": giou_loss,
}


def mean_over_ranks(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The mean of each entry over the ranks of a distributed run.

    Only while gradients are recorded: in training all ranks take the same number of steps, in validation
    they need not, and a rank that waits for the others would wait for ever.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
