"""The whole Faster R-CNN network, and the boxes that it detects."""

import pytest
import torch
from faster_rcnn_cases import of_images, proposals_of, random_boxes
from torch import Tensor

from detectors.anchors import FASTER_RCNN_FPN, FASTER_RCNN_VGG16
from detectors.backbones.base import Backbone
from detectors.backbones.resnet import ResNet
from detectors.backbones.vgg import VGG16
from detectors.detections import Detections
from detectors.faster_rcnn import FasterRCNN, RegionDecoder, RegionLoss, RegionOutputs, RegionSampler
from detectors.fcos import FCOSDecoder
from detectors.retinanet import RetinaNetDecoder
from detectors.rpn import AnchorSampler, RPNDecoder, RPNLoss

SIZE = torch.tensor([[100, 100]])
A, NEAR_A, B = [0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 40.0, 30.0], [50.0, 50.0, 90.0, 90.0]


def outputs_for(scores: list[list[float]], deltas: Tensor | None = None) -> RegionOutputs:
    """Outputs with given scores of each region and class; background has the rest."""
    p = torch.tensor([scores])
    p = torch.cat((1 - p.sum(dim=2, keepdim=True), p), dim=2)
    return RegionOutputs(p.log(), torch.zeros(*p.shape, 4) if deltas is None else deltas)


def found(detections: Detections, image: int = 0) -> list[tuple[list[float], float, int]]:
    parts = detections.boxes[image], detections.scores[image], detections.labels[image]
    rows = zip(*(part.tolist() for part in parts), strict=True)
    return [(box, round(score, 4), label) for box, score, label in rows if label >= 0]


def test_each_class_moves_a_region_by_deltas_of_its_own() -> None:
    deltas = torch.zeros(1, 1, 3, 4)
    deltas[0, 0, 1] = torch.tensor([5.0, 0.0, 0.0, -7 * 0.6931472])  # half a width to the right, half as high
    deltas[0, 0, 0] = 99.0  # deltas of background
    decode = RegionDecoder(box_weights=(10.0, 10.0, 5.0, 7.0))
    first, second = found(decode(outputs_for([[0.6, 0.3]], deltas), proposals_of([A]), SIZE))
    assert first == (pytest.approx([20, 10, 60, 30]), 0.6, 0)
    assert second == (A, 0.3, 1)


def test_a_score_has_to_be_above_the_threshold() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.1], [0.1, 0.0]]])
    outputs = RegionOutputs(logits, torch.zeros(1, 3, 2, 4))
    boxes = [box for box, _, _ in found(RegionDecoder(score_threshold=0.5)(outputs, proposals_of([A, B, A]), SIZE))]
    assert boxes == [B]
    with pytest.raises(ValueError, match=r"score_threshold=1\.0: expected 0 <= score_threshold < 1"):
        RegionDecoder(score_threshold=1.0)


def test_suppression_is_within_a_class_and_above_the_threshold() -> None:
    outputs = outputs_for([[0.9, 0.0001], [0.2, 0.7], [0.6, 0.0001]])  # IoU of A, NEAR_A: 0.75
    proposals = proposals_of([A, NEAR_A, B])
    kept = [(box, label) for box, _, label in found(RegionDecoder(nms_threshold=0.74)(outputs, proposals, SIZE))]
    assert kept == [(A, 0), (NEAR_A, 1), (B, 0)]
    kept = [(box, label) for box, _, label in found(RegionDecoder(nms_threshold=0.75)(outputs, proposals, SIZE))]
    assert kept == [(A, 0), (NEAR_A, 1), (B, 0), (NEAR_A, 0)]


def test_padded_proposals_are_never_detected_and_results_are_padded() -> None:
    padded = Detections(torch.tensor([[A, B]]), torch.tensor([[0.5, 0.0]]), torch.tensor([[0, -1]]))
    detections = RegionDecoder(max_detections=3)(outputs_for([[0.5], [0.9]]), padded, SIZE)
    assert found(detections) == [(A, 0.5, 0)]
    assert detections.labels.tolist() == [[0, -1, -1]]
    assert detections.boxes[0, 1:].abs().max() == detections.scores[0, 1:].abs().max() == 0
    nothing = Detections(padded.boxes, padded.scores, torch.full((1, 2), -1))
    assert RegionDecoder(max_detections=2)(outputs_for([[0.5], [0.9]]), nothing, SIZE).labels.tolist() == [[-1, -1]]


def test_boxes_are_clipped_and_those_left_without_area_are_dropped() -> None:
    proposals = proposals_of([[20, 10, 200, 50], [20, 10, 60, 300], [60, 0, 90, 20]])
    detections = RegionDecoder()(outputs_for([[0.9], [0.8], [0.7]]), proposals, torch.tensor([[50, 60]]))
    assert found(detections) == [([20, 10, 60, 50], 0.9, 0)]  # once clipped, the first two are equal


def test_extreme_and_non_finite_outputs_give_valid_boxes() -> None:
    deltas = torch.tensor([[0.0, 0.0, 1e9, 1e9], [torch.nan, 0.0, 0.0, 0.0], [torch.inf, 0.0, 0.0, 0.0]])
    outputs = RegionOutputs(torch.zeros(1, 3, 2), deltas[None, :, None].expand(1, 3, 2, 4))
    proposals = proposals_of([[496.0, 496.0, 504.0, 504.0]] * 3)
    ((box, _, _),) = found(RegionDecoder()(outputs, proposals, torch.tensor([[1000, 1000]])))
    assert box == pytest.approx([250, 250, 750, 750])


def test_an_images_detections_do_not_depend_on_its_neighbours_and_are_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = RegionOutputs(
        (torch.randn(2, 40, 4, generator=generator) * 2).bfloat16(),
        torch.randn(2, 40, 4, 4, generator=generator).bfloat16(),
    )
    proposals, sizes = proposals_of(random_boxes(40), random_boxes(25, seed=1)), torch.tensor([[128, 128], [70, 60]])
    with torch.autocast("cpu", torch.bfloat16):
        together = RegionDecoder()(outputs, proposals, sizes)
    assert together.boxes.dtype == together.scores.dtype == torch.float32
    for image in range(2):
        part = slice(image, image + 1)
        own = of_images(proposals, part)
        half = RegionOutputs(outputs.logits[part].float(), outputs.deltas[part].float())
        assert found(RegionDecoder()(half, own, sizes[part])) == found(together, image)
        assert len(found(together, image)) > 20


def trained(network: FasterRCNN, num_boxes: int) -> list[str]:
    """Parameters whose gradient is missing or not finite after the losses of two images."""
    torch.manual_seed(0)
    images, sizes = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8), torch.tensor([[64, 96], [50, 70]])
    boxes, labels = torch.zeros(2, num_boxes, 4), torch.zeros(2, num_boxes, dtype=torch.int64)
    boxes[:, :, :2], boxes[:, :, 2:] = 5.0, 40.0
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(images, sizes)
        loss, proposals = RPNLoss(), RPNDecoder(max_proposals=30)(outputs, sizes)
        samples = RegionSampler(num_samples=16)(proposals, boxes, labels, [0, 1])
        losses = loss(outputs, AnchorSampler()(outputs, boxes, labels, sizes, [0, 1]))
        losses |= RegionLoss()(network.refine(outputs.maps, samples.regions), samples)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    return [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def small_resnet() -> Backbone:
    return ResNet(18, weights=None, norm="bn", frozen_stages=0)


@pytest.mark.parametrize("num_boxes", [0, 1])
def test_losses_under_autocast_reach_every_parameter_also_without_boxes(num_boxes: int) -> None:
    network = FasterRCNN(small_resnet(), 3, FASTER_RCNN_FPN, pyramid_channels=16, head_channels=8)
    assert trained(network, num_boxes) == []


@pytest.mark.parametrize("pooling", ["align", "max"])
def test_losses_over_one_map_reach_every_parameter(pooling: str) -> None:
    network = FasterRCNN(small_resnet(), 3, FASTER_RCNN_VGG16, pyramid_channels=None, pooling=pooling)
    assert network.head is None
    assert trained(network, 1) == []


def test_a_region_has_an_output_for_background_and_each_class() -> None:
    network = FasterRCNN(small_resnet(), 3, FASTER_RCNN_FPN, pyramid_channels=16, head_channels=8)
    outputs = network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]] * 2))
    boxes = random_boxes(10, 64.0).view(2, 5, 4)
    refined = network.refine(outputs.maps, boxes)
    assert refined.logits.shape == (2, 5, 4)
    assert refined.deltas.shape == (2, 5, 4, 4)
    swapped = network.refine(outputs.maps, boxes.flip(1))
    torch.testing.assert_close(swapped.logits, refined.logits.flip(1))


def test_regions_of_any_size_are_pooled_from_the_first_four_maps() -> None:
    torch.manual_seed(0)
    network = FasterRCNN(small_resnet(), 3, FASTER_RCNN_FPN, pyramid_channels=16, head_channels=8)
    maps = [torch.randn(1, 16, 1024 // stride, 1024 // stride) for stride in (4, 8, 16, 32)]
    boxes = torch.tensor([[[0.0, 0.0, 1000.0, 1000.0], [0.0, 0.0, 30.0, 30.0]]])
    refined, other = (network.refine((*maps, x), boxes).logits for x in (maps[3], maps[3] + 1))
    assert torch.equal(refined, other)
    coarsest = network.refine((*maps[:3], maps[3] + 1, maps[3]), boxes).logits
    assert (coarsest != refined).any(dim=2).tolist() == [[True, False]]


def test_unknown_poolings_are_refused() -> None:
    for pooling, channels in (("max", 256), ("mean", 256), ("mean", None)):
        anchors = FASTER_RCNN_VGG16 if channels is None else FASTER_RCNN_FPN
        with pytest.raises(
            ValueError, match=f"pooling={pooling} with .*={channels}: expected align, or max over one map"
        ):
            FasterRCNN(small_resnet(), 3, anchors, pyramid_channels=channels, pooling=pooling)


def test_regions_of_no_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.pooled_size=0: expected 1 or more cells"):
        FasterRCNN(small_resnet(), 3, FASTER_RCNN_FPN, pooled_size=0)


def test_vgg16_over_one_map_needs_its_fully_connected_layers() -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"model\.backbone\.fully_connected=false: .* set it to true, or take a"):
            FasterRCNN(VGG16(weights=None, frozen_stages=0), 3, FASTER_RCNN_VGG16, pyramid_channels=None)
        whole = VGG16(weights=None, frozen_stages=0, fully_connected=True)
        network = FasterRCNN(whole, 20, FASTER_RCNN_VGG16, pyramid_channels=None, pooling="max")
    assert network.logits.weight.shape == (21, 4096)
    assert network.deltas.weight.shape == (84, 4096)
    assert network.rpn.logits.weight.shape[:2] == (9, 512)


@pytest.mark.parametrize(
    ("decoder", "settings"),
    [
        (RPNDecoder, {"max_proposals": -1}),
        (RPNDecoder, {"candidates_per_level": 0}),
        (RPNDecoder, {"nms_threshold": 2.0}),
        (RegionDecoder, {"max_detections": 0}),
        (RegionDecoder, {"score_threshold": 1.0}),
        (RetinaNetDecoder, {"max_detections": -1}),
        (FCOSDecoder, {"candidates_per_level": -1}),
    ],
)
def test_decoders_refuse_impossible_numbers(decoder: type[RPNDecoder], settings: dict[str, float]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected"):
        decoder(**settings)  # pyright: ignore[reportArgumentType]
