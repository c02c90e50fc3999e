"""ResNet (He et al., arXiv 1512.03385) and ResNeXt (Xie et al., arXiv 1611.05431), also with stride in the 1x1
convolution, dilated C5 and deformable convolutions.
"""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from detectors.backbones.base import Backbone
from detectors.backbones.norms import Norm, norm_layer
from detectors.deformable import DeformableConvolution

BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}
"""Kind and number of the blocks of C2 to C5 (arXiv 1512.03385, table 1)."""
PUBLISHED: dict[tuple[int, int, int], models.WeightsEnum] = {
    (18, 1, 64): models.ResNet18_Weights.IMAGENET1K_V1,
    (34, 1, 64): models.ResNet34_Weights.IMAGENET1K_V1,
    (50, 1, 64): models.ResNet50_Weights.IMAGENET1K_V1,
    (101, 1, 64): models.ResNet101_Weights.IMAGENET1K_V1,
    (152, 1, 64): models.ResNet152_Weights.IMAGENET1K_V1,
    (50, 32, 4): models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1,
    (101, 32, 8): models.ResNeXt101_32X8D_Weights.IMAGENET1K_V1,
    (101, 64, 4): models.ResNeXt101_64X4D_Weights.IMAGENET1K_V1,
}
"""By depth, groups and width of a group. IMAGENET1K_V1 are the weights of the original recipe, which torchvision's
detectors start from too; 64x4d was published with the later recipe alone, under that name."""


class ResNet(Backbone):
    """C2 to C5 of a ResNet (arXiv 1512.03385); strides lie in the 3x3 convolutions, as in torchvision.

    `frozen_stages=2` is fcos_core's FREEZE_CONV_BODY_AT 2: stem and first residual stage. Random weights
    (`weights=null`) with `frozen_bn` have no normalisation at all; train those with `bn`, `sync_bn` or `gn`.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152],
        weights: str | Path | None = "imagenet",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
        groups: int = 1,
        width_per_group: int = 64,
        norm_eps: float = 1e-5,
        stride_in_1x1: bool = False,
        caffe: bool = False,
        dilated_c5: bool = False,
        deformable_stages: Sequence[int] = (),
    ) -> None:
        """Builds the network.

        `groups` and `width_per_group` make a ResNeXt: 32 and 8 are 32x8d. `norm_eps` is what the weights were trained
        with: 0 in torchvision's first detectors, fcos_core and Caffe2. `stride_in_1x1`: MSRA's networks, which have
        the stride in a block's first convolution. `caffe`: the file's first filters are for BGR of 0-255, see VGG16.

        `dilated_c5`: C5 has stride 16 and dilation 2 in all its 3x3 convolutions, as detectron2's DC5 has it
        (torchvision leaves the first one without), and there is no map of stride 32. `deformable_stages`: of 2 to 5
        those (C2 to C5) whose blocks have a deformable second convolution, arXiv 1811.11168.
        """
        super().__init__()
        block, numbers = BLOCKS[depth]
        if block is BasicBlock and (groups, width_per_group, stride_in_1x1) != (1, 64, False):
            raise ValueError(
                f"model.backbone.depth={depth} has no 1x1 convolutions, so no groups, width_per_group or "
                "stride_in_1x1: expected 1, 64 and false, or depth 50, 101 or 152"
            )
        published = PUBLISHED.get((depth, groups, width_per_group))
        if weights == "imagenet" and (published is None or stride_in_1x1):
            of = f"depth={depth} groups={groups} width_per_group={width_per_group} stride_in_1x1={stride_in_1x1}"
            raise ValueError(
                f"model.backbone.weights=imagenet: torchvision publishes none for {of.lower()}; give "
                "model.backbone.weights=FILE, or null to start from random ones"
            )
        network = models.ResNet(
            block, numbers, groups=groups, width_per_group=width_per_group, norm_layer=norm_layer(norm, norm_eps)
        )
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )
        self.channels = {stride: stride * (16 if depth < 50 else 64) for stride in (4, 8, 16, 32)}
        if stride_in_1x1:
            for stage in (self.layer2, self.layer3, self.layer4):
                first = cast(Bottleneck, stage[0])
                first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
        if dilated_c5:
            _dilate(self.layer4)
            self.channels[16] = self.channels.pop(32)
            self.stage_strides, self.has_region_head = (2, 4, 8, 16), False
        if not set(deformable_stages) <= {2, 3, 4, 5}:
            raise ValueError(
                f"model.backbone.deformable_stages={list(deformable_stages)}: expected some of 2, 3, 4 and 5 (C2 to C5)"
            )
        for number in sorted(set(deformable_stages)):
            for part in (self.layer1, self.layer2, self.layer3, self.layer4)[number - 2]:
                part.conv2 = DeformableConvolution(cast(nn.Conv2d, part.conv2))
        self._load_and_freeze(weights, published, frozen_stages, caffe=caffe)

    def stages(self) -> list[list[nn.Module]]:
        stem = [self.conv1, self.bn1, self.relu]
        stages: list[list[nn.Module]] = [stem, [self.maxpool, self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        if not self.has_region_head:  # a dilated C5: of stride 16, as C4
            stages[-2:] = [[self.layer3, self.layer4]]
        return stages

    def _without_map(self) -> str:
        return "set model.backbone.dilated_c5=false, or take model=faster_rcnn or rpn with model.pyramid_channels=null"


def _dilate(stage: nn.Module) -> None:
    """Turns the stride of a stage into a dilation of all its 3x3 convolutions."""
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
            if layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (2, 2)
