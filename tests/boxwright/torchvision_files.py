"""Files as torchvision publishes them, of its own detectors with seeded random weights, and its detectors of them.

Statistics of batch norms span five decades, so that an eps of 1e-5 in place of 0 shows; scores are spread, so that
thresholds, suppression and caps have work. Columns of numbers that COCO never used take part in every softmax.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, detection

BUILDERS: dict[str, Callable[..., Any]] = {
    "fcos_resnet50_fpn": detection.fcos_resnet50_fpn,
    "retinanet_resnet50_fpn": detection.retinanet_resnet50_fpn,
    "retinanet_resnet50_fpn_v2": detection.retinanet_resnet50_fpn_v2,
    "fasterrcnn_resnet50_fpn": detection.fasterrcnn_resnet50_fpn,
    "fasterrcnn_resnet50_fpn_v2": detection.fasterrcnn_resnet50_fpn_v2,
    "fasterrcnn_mobilenet_v3_large_fpn": detection.fasterrcnn_mobilenet_v3_large_fpn,
    "fasterrcnn_mobilenet_v3_large_320_fpn": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
}
_TWO_STAGE = {
    "rpn.head.cls_logits.weight": 0.1, "rpn.head.bbox_pred.weight": 0.03, "cls_score.weight": 0.1,
    "box_predictor.bbox_pred.weight": 0.1,
}  # fmt: skip
_SMALL = {name: std / (16 if name.startswith("rpn") else 150) for name, std in _TWO_STAGE.items()}
SPREAD: dict[str, dict[str, float]] = {
    "fcos_resnet50_fpn": {"cls_logits.weight": 0.06, "bbox_reg.weight": 0.06},
    "retinanet_resnet50_fpn": {"cls_logits.weight": 0.1, "bbox_reg.weight": 0.02},
    "retinanet_resnet50_fpn_v2": {"cls_logits.weight": 0.04, "bbox_reg.weight": 0.02},
    "fasterrcnn_resnet50_fpn": _TWO_STAGE,
    "fasterrcnn_resnet50_fpn_v2": {name: 6 * std for name, std in _TWO_STAGE.items()},
    "fasterrcnn_mobilenet_v3_large_fpn": _SMALL,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _SMALL,
}  # fmt: skip


def random_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of a builder's model, in the form in which COCO_V1 is loaded."""
    torch.manual_seed(seed)
    model = BUILDERS[name](weights=None, weights_backbone=None)
    if "mobilenet" in name:
        _measure_statistics(model.backbone)
    state: dict[str, Tensor] = model.state_dict()
    for key, value in state.items():
        if key.endswith(("running_var", "running_mean")) and "mobilenet" in name:
            value.mul_(torch.empty_like(value).uniform_(0.95, 1.05))
        elif key.endswith("running_var"):
            value.copy_(10 ** torch.empty_like(value).uniform_(-4, 1))
            norm = key.removesuffix("running_var")
            # keeps the activations of random residual blocks at a constant scale
            state[f"{norm}weight"].copy_(value.sqrt() * torch.empty_like(value).uniform_(0.4, 0.6))
            state[f"{norm}bias"].normal_(std=0.1)
        elif key.endswith("running_mean"):
            value.normal_(std=0.1)
        elif (
            key.endswith(("fc6.weight", "fc7.weight", "box_head.5.weight"))
            or ("rpn.head.conv." in key and value.ndim > 1)
            or (name == "retinanet_resnet50_fpn" and ".conv." in key and key.endswith("weight"))
        ):
            nn.init.kaiming_normal_(value)
        elif key.endswith("bbox_reg.bias") and name.startswith("fcos"):
            value.fill_(1.0)
        for part, std in SPREAD[name].items():
            if key.endswith(part):
                nn.init.normal_(value, std=std)
    return state


def _measure_statistics(backbone: Any) -> None:
    """Statistics of smooth noise, which keep the activations of a MobileNet at a constant scale."""
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, std=0.1)
    with torch.no_grad():
        noise = torch.randn(8, 3, 10, 10)
        backbone.train()(nn.functional.interpolate(noise, size=(160, 160), mode="bicubic"))
    backbone.eval()


def write_file(name: str, path: Path, seed: int = 0) -> Path:
    torch.save(random_state(name, seed), path)
    return path


def torchvision_detector(name: str, file: Path, **settings: Any) -> nn.Module:
    """torchvision's own detector with COCO_V1, whose file is this one: its frozen norms, its eps, its thresholds."""
    weights: Any = detection.__dict__[f"{_class(name)}_Weights"].COCO_V1
    with patch.object(WeightsEnum, "get_state_dict", lambda *_, **__: torch.load(file, weights_only=True)):
        return BUILDERS[name](weights=weights, **settings).eval()


def _class(name: str) -> str:
    """Its spelling, which the name of the builder lacks."""
    found = {key.lower(): key for key in detection.__dict__ if key.endswith("_Weights")}
    return found[f"{name}_weights"].removesuffix("_Weights")
