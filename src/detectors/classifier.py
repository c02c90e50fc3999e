"""Classification of whole images, to train a detector's backbone before the detector."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from detectors.backbones.base import Backbone, refuse_region_head
from detectors.class_rows import ClassRows
from detectors.losses import mean_over_ranks


class Classifier(nn.Module):
    """Backbone, global average pooling, a linear layer (arXiv 1512.03385, section 3.3): uint8 images in, logits out."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        refuse_region_head(backbone)
        self.backbone = backbone
        self.stride = max(backbone.channels)
        backbone.leave_out((self.stride,))
        self.linear = nn.Linear(backbone.channels[self.stride], num_classes)

    def class_rows(self) -> dict[str, ClassRows]:
        return {"linear": ClassRows()}

    def forward(self, images: UInt8[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B K"]:
        (x,) = self.backbone(self.backbone.normalize(images, sizes), (self.stride,))
        return self.linear(x.mean(dim=(2, 3)))


def classification_loss(logits: Float[Tensor, "B K"], labels: Int[Tensor, " B"]) -> dict[str, Tensor]:
    """Mean cross-entropy over the images of all ranks; images of label -1 are ignored."""
    num_images = mean_over_ranks((labels >= 0).sum().float()).clamp(min=1e-6)
    loss = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    return {"loss_cls": loss / num_images}


@torch.no_grad()
def top_classes(logits: Float[Tensor, "B K"], number: int) -> Int[Tensor, "B k"]:
    """The most likely classes of each image, the best first, ties by the lower label."""
    return logits.float().argsort(dim=1, descending=True, stable=True)[:, :number]
