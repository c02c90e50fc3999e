"""Parity with torchvision's FCOS where the two agree.

Its head is ours with normalised targets and centerness on the box tower, without the learnt scale of each
level. Its points lie at the corners of cells, j * stride; here our points are moved there. Its decoder
applies the threshold to sqrt(class * centerness), and keeps boxes that clipping left empty.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FCOS as TorchvisionFCOS  # noqa: N811
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, boxes
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detectors.backbones.resnet import ResNet
from detectors.fcos import FCOS, FCOSDecoder, FCOSOutputs
from detectors.weights import torchvision

NUM_CLASSES = 91
SIZES = torch.tensor([[96, 128], [128, 100]])


@pytest.fixture(scope="module")
def theirs() -> TorchvisionFCOS:
    torch.manual_seed(0)
    body = _resnet_fpn_extractor(
        resnet50(weights=None, norm_layer=FrozenBatchNorm2d),
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = TorchvisionFCOS(body, NUM_CLASSES).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.fill_(4.0)  # keeps activations of random residual blocks at a constant scale
        if name.endswith(("cls_logits.weight", "bbox_reg.weight")):
            nn.init.normal_(value, std=0.06)
        if name.endswith("bbox_reg.bias"):
            value.fill_(1.0)
    model.detections_per_img = 5000
    return model


@pytest.fixture(scope="module")
def ours(theirs: TorchvisionFCOS) -> FCOS:
    network = FCOS(ResNet(50, weights=None), NUM_CLASSES, normalize_targets=True, centerness_on_box=True).eval()
    mapped = torchvision.fcos(theirs.state_dict())
    absent, unknown = network.load_state_dict(mapped.state, strict=False)
    assert not unknown
    assert set(absent) == {"backbone.pixel_mean", "backbone.pixel_std"}
    assert {float(mapped.state[f"head.scales.{i}"]) for i in range(5)} == {1.0}
    return network


@pytest.fixture(scope="module")
def outputs(ours: FCOS) -> FCOSOutputs:
    images = torch.randint(256, (2, 3, 128, 128), generator=torch.manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        return ours(images, SIZES)


def test_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        network = FCOS(ResNet(50, weights=None), NUM_CLASSES)
    learnt = [p.numel() for p in network.parameters()]
    assert sum(learnt) == 32_269_600 + 5  # a scale for each level


def test_raw_outputs_equal(theirs: TorchvisionFCOS, ours: FCOS, outputs: FCOSOutputs) -> None:
    images = torch.randint(256, (2, 3, 128, 128), generator=torch.manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        raw = theirs.head(list(theirs.backbone(ours.backbone.normalize(images, SIZES)).values()))
    torch.testing.assert_close(outputs.logits, raw["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.centerness, raw["bbox_ctrness"][..., 0], rtol=1e-4, atol=1e-4)
    in_strides = outputs.distances / outputs.strides[:, None]
    torch.testing.assert_close(in_strides, raw["bbox_regression"], rtol=1e-4, atol=1e-4)


def partners(scores: Tensor, labels: Tensor, boxes: Tensor, wanted: dict[str, Tensor], rows: Tensor) -> Tensor:
    """The row of `wanted` that is nearest to each detection; a permutation.

    Rounding, which differs between processors, changes the order of scores that are otherwise equal.
    """
    ours = torch.cat((boxes, 1e3 * labels[:, None], 1e3 * scores[:, None]), 1)
    theirs = torch.cat(
        (wanted["boxes"][rows], 1e3 * wanted["labels"][rows, None], 1e3 * wanted["scores"][rows, None]), 1
    )
    nearest = torch.cdist(ours.double(), theirs.double()).argmin(dim=1)
    assert torch.equal(nearest.sort().values, torch.arange(len(theirs)))
    return nearest


def test_detections_equal(theirs: TorchvisionFCOS, outputs: FCOSOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    # With up to 1000 boxes it offsets the classes in float32, which rounds the boxes of the 91st by 0.001 pixels.
    # And at 0.6 it suppresses boxes whose IoU is exactly 3/5, since 0.6 in float32 is more than 0.6.
    monkeypatch.setattr(theirs, "nms_thresh", 0.61)
    monkeypatch.setattr(boxes, "_batched_nms_coordinate_trick", boxes._batched_nms_vanilla)
    split = {
        "cls_logits": list(outputs.logits.split(outputs.level_sizes, dim=1)),
        "bbox_regression": list((outputs.distances / outputs.strides[:, None]).split(outputs.level_sizes, dim=1)),
        "bbox_ctrness": list(outputs.centerness[..., None].split(outputs.level_sizes, dim=1)),
    }
    canvas = torch.empty(2, 3, 128, 128)
    maps = [canvas[:, :, : 128 // s or 1, : 128 // s or 1] for s in (8, 16, 32, 64, 128)]
    anchors = theirs.anchor_generator(ImageList(canvas, [(128, 128)] * 2), maps)
    expected = theirs.postprocess_detections(
        split, [list(a.split(outputs.level_sizes)) for a in anchors], [tuple(s) for s in SIZES.tolist()]
    )

    at_corners = replace(outputs, points=outputs.points - outputs.strides[:, None] / 2)
    lowest = theirs.score_thresh
    # sqrt(class * centerness) > t means class > t^2; and lower scores never suppress higher ones
    decode = FCOSDecoder(lowest**2, theirs.nms_thresh, theirs.topk_candidates, max_detections=5000)
    detections = decode(at_corners, SIZES)
    for image, result in enumerate(expected):
        full = (result["boxes"][:, 2:] > result["boxes"][:, :2]).all(dim=1)
        kept = detections.scores[image] > lowest
        assert full.sum() > 100
        scores, labels, found = (x[image][kept] for x in (detections.scores, detections.labels, detections.boxes))
        partner = partners(scores, labels, found, result, full)
        torch.testing.assert_close(scores, result["scores"][full], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, result["boxes"][full][partner], rtol=1e-4, atol=1e-3)
        assert torch.equal(labels, result["labels"][full][partner])
