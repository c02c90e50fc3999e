"""Pairs of detectors, ours and torchvision's, with the same weights, for the scripts that compare their time.

Weights are torchvision's, random and seeded, with statistics of batch norm that were measured on noise; its names are
mapped to ours as for published checkpoints, which the parity tests hold equal. The backbone is a ResNet-50 with frozen
batch norm of which three stages train. Ours has torchvision's settings where they cost time: 91 class columns, its
matching, its numbers of samples, candidates and proposals.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet50
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from datamodules.batch import Batch, ImageInfo
from detectors.backbones.resnet import ResNet
from detectors.faster_rcnn import RegionLoss
from detectors.fcos import FCOSLoss
from detectors.retinanet import RetinaNetDecoder, RetinaNetLoss
from detectors.weights import torchvision
from detectors.weights.renaming import Mapped
from lit_modules.detection_module import DetectionModule
from lit_modules.faster_rcnn import FasterRCNNModule
from lit_modules.fcos import FCOSModule
from lit_modules.optimizers import sgd
from lit_modules.retinanet import RetinaNetModule

MODELS = ("fcos", "retinanet", "faster_rcnn")
AS_OURS: dict[str, Callable[[Mapping[str, Tensor]], Mapped]] = {
    "fcos": torchvision.fcos,
    "retinanet": torchvision.retinanet,
    "faster_rcnn": torchvision.faster_rcnn,
}
IDLE: Any = None
"""The schedule of a module without a trainer."""
ONES = (1.0, 1.0, 1.0, 1.0)


@dataclass
class Pair:
    ours: DetectionModule
    theirs: nn.Module


def torchvision_model(name: str, num_classes: int, size: int, seed: int = 0) -> nn.Module:
    """torchvision's detector; `num_classes` objects, to which Faster R-CNN adds its background."""
    torch.manual_seed(seed)
    plain = resnet50(weights=None)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        plain.train()(torch.randn(4, 3, 224, 224))  # statistics that keep activations at a constant scale
    backbone = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone.load_state_dict({k: v for k, v in plain.state_dict().items() if "num_batches" not in k})
    pixels = {"min_size": size, "max_size": round(size * 1333 / 800)}
    if name == "faster_rcnn":
        return detection.FasterRCNN(_resnet_fpn_extractor(backbone, 3), num_classes + 1, **pixels)
    body = _resnet_fpn_extractor(backbone, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return (detection.FCOS if name == "fcos" else detection.RetinaNet)(body, num_classes, **pixels)


def our_module(name: str, num_classes: int) -> DetectionModule:
    """Our module with the settings of torchvision's model and of its reference optimizer."""
    backbone, optimizer = ResNet(50, weights=None), partial(sgd, momentum=0.9, weight_decay=1e-4)
    if name == "faster_rcnn":
        return FasterRCNNModule(
            backbone, num_classes, optimizer, IDLE, grid_offset=0.0, round_anchors=True, aligned=False,
            region_loss=RegionLoss(smooth_l1_beta=1 / 9),
        )  # fmt: skip
    if name == "fcos":
        return FCOSModule(
            backbone, num_classes, optimizer, IDLE, normalize_targets=True, centerness_on_box=True,
            loss=FCOSLoss(center_sampling=1.5, box_loss="giou"),
        )  # fmt: skip
    return RetinaNetModule(
        backbone, num_classes, optimizer, IDLE, p6_from="p5", grid_offset=0.0, round_anchors=True,
        loss=RetinaNetLoss(box_weights=ONES, box_loss="l1", box_loss_weight=1.0),
        decoder=RetinaNetDecoder(box_weights=ONES),
    )  # fmt: skip


def make_pair(name: str, num_classes: int, size: int) -> Pair:
    theirs, ours = torchvision_model(name, num_classes, size), our_module(name, num_classes)
    absent, unknown = ours.network.load_state_dict(AS_OURS[name](theirs.state_dict()).state, strict=False)
    allowed = ("backbone.pixel_mean", "backbone.pixel_std", "head.scales.")
    if unknown or not all(name.startswith(allowed) for name in absent):
        raise ValueError(f"weights do not map: {unknown} {absent}")
    return Pair(ours, theirs)


def make_batch(
    num_images: int, canvas: tuple[int, int], num_boxes: int, num_classes: int, device: torch.device
) -> Batch:
    """Noise with boxes of sides from 16 to 180 pixels, on the device."""
    generator = torch.Generator().manual_seed(0)
    height, width = canvas
    images = torch.randint(256, (num_images, 3, height, width), generator=generator, dtype=torch.uint8)
    corner, labels = torch.zeros(num_images, max(1, num_boxes), 2), torch.full((num_images, max(1, num_boxes)), -1)
    side = torch.exp(2.8 + 2.4 * torch.rand(num_images, num_boxes, 2, generator=generator)).clamp(max=min(canvas) * 0.7)
    room = torch.tensor([width, height]) - side - 1
    corner = torch.rand(num_images, num_boxes, 2, generator=generator) * room
    boxes = torch.zeros(num_images, max(1, num_boxes), 4)
    boxes[:, :num_boxes] = torch.cat((corner, corner + side), dim=2)
    labels[:, :num_boxes] = torch.randint(num_classes, (num_images, num_boxes), generator=generator)
    sizes = torch.tensor([canvas] * num_images)
    infos = [ImageInfo(i, canvas, (1.0, 1.0)) for i in range(num_images)]
    return Batch(images.to(device), sizes.to(device), boxes.to(device), labels.to(device), infos)


def as_torchvision(batch: Batch, background: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The same images and boxes in torchvision's form; labels begin at `background`."""
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + background}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    return [image.float() / 255 for image in batch.images], targets


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def by_turns(
    cases: dict[str, Callable[[], Any]], rounds: int, device: torch.device, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each case in each round; in a round every case runs once, one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warm_up + rounds):
        for name, call in cases.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def times_faster(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of their time divided by ours."""
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))


def versions(device: torch.device) -> dict[str, Any]:
    import torchvision

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "torchvision": torchvision.__version__}
