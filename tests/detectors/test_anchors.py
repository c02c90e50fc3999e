import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detectors.anchors import FASTER_RCNN_FPN, FASTER_RCNN_VGG16, RETINANET, Anchors, best_ious, scaled_anchors
from detectors.backbones.resnet import ResNet
from detectors.pyramid import FeaturePyramid

OURS = {"retinanet": RETINANET, "fpn": FASTER_RCNN_FPN, "vgg16": FASTER_RCNN_VGG16}


def yxyx(boxes: Tensor) -> Tensor:
    return boxes[:, [1, 0, 3, 2]]


def test_anchors_of_a_cell_have_the_areas_and_ratios_asked_for_around_its_centre() -> None:
    anchors = Anchors(strides=(8,), sizes=((16.0, 32.0),), ratios=(0.25, 1.0))
    assert anchors.per_cell == 4
    assert anchors.shapes(0).tolist() == [[32, 8], [64, 16], [16, 16], [32, 32]]
    boxes = anchors.grid((8, 16))
    assert boxes.tolist()[:4] == [[-12, 0, 20, 8], [-28, -4, 36, 12], [-4, -4, 12, 12], [-12, -12, 20, 20]]
    assert boxes.tolist()[4:] == (boxes[:4] + torch.tensor([8, 0, 8, 0])).tolist()


def test_the_papers_anchors() -> None:
    assert [RETINANET.per_cell, FASTER_RCNN_FPN.per_cell, FASTER_RCNN_VGG16.per_cell] == [9, 3, 9]
    assert RETINANET.shapes(0)[3:6, 0].tolist() == pytest.approx([32, 40.3175, 50.7968], rel=1e-5)
    assert FASTER_RCNN_FPN.shapes(4)[1].tolist() == [512, 512]
    for anchors in OURS.values():
        for level in range(len(anchors.strides)):
            shapes = anchors.shapes(level)
            torch.testing.assert_close(shapes.prod(dim=1).sqrt(), torch.tensor(anchors.sizes[level]).repeat(3).float())
            ratios = torch.tensor([0.5, 1, 2]).repeat_interleave(len(anchors.sizes[level]))
            torch.testing.assert_close(shapes[:, 1] / shapes[:, 0], ratios)


@pytest.mark.parametrize("canvas", [(64, 96), (160, 224), (800, 1344)])
def test_each_cell_of_the_pyramid_has_an_anchor_of_each_shape(canvas: tuple[int, int]) -> None:
    with torch.device("meta"):
        backbone = ResNet(18, weights=None)
        maps = FeaturePyramid(backbone, 8)(backbone(torch.empty(1, 3, *canvas)))
    cells = sum(level.shape[-2] * level.shape[-1] for level in maps)
    assert len(RETINANET.grid(canvas)) == 9 * cells


# The originals


def test_retinanet_equals_the_original_of_source_2(golden: Callable[[str], dict[str, Any]]) -> None:
    """Its ratio is width over height, so that ours are in the opposite order."""
    cases = golden("retinanet_zgcr/anchors")
    anchors = Anchors(RETINANET.strides, RETINANET.sizes, ratios=(2.0, 1.0, 0.5))
    for level, base in enumerate(cases["base"]["out"]["base_anchors_per_level"]):
        torch.testing.assert_close(anchors.shapes(level), base[:, 2:] - base[:, :2])
    wanted = torch.cat(cases["96x160"]["out"]["anchors"])
    torch.testing.assert_close(anchors.grid((96, 160)), wanted, rtol=1e-5, atol=1e-4)
    case = cases["667x667_sample"]["out"]
    levels = anchors.grid((667, 667)).split(case["count"].tolist())
    for ours, wanted in zip(levels, case["first9_last9"], strict=True):
        torch.testing.assert_close(torch.cat((ours[:9], ours[-9:])), wanted, rtol=1e-5, atol=1e-4)


def test_faster_rcnn_on_vgg16_equals_the_original_of_source_3(golden: Callable[[str], dict[str, Any]]) -> None:
    """Its base anchors are centred at (8, 8), the centre of the first cell."""
    cases = golden("frcnn/anchors")
    base = yxyx(cases["base_default"]["out"]["anchor_base"])
    torch.testing.assert_close(FASTER_RCNN_VGG16.grid((16, 16)), base, rtol=1e-5, atol=1e-4)
    wanted = yxyx(cases["grid_5x7"]["out"]["anchor"])
    torch.testing.assert_close(FASTER_RCNN_VGG16.grid((5 * 16, 7 * 16)), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", ["257", "100x150_not_2n+1"])
def test_without_grid_offset_equals_the_original_of_source_4(
    golden: Callable[[str], dict[str, Any]], case: str
) -> None:
    """It gives its sides to a tenth of a pixel, (19.8, 39.6), where ours are computed from 28 and the ratio."""
    found = golden("retinanet_xyt/anchors")[case]
    strides = (8, 16, 32, 64)
    ours = Anchors(strides, tuple((28.0 * s / 8,) for s in strides), ratios=(1.0, 0.5, 2.0), grid_offset=0.0)
    height, width = found["args"]["img_size"]
    wanted = yxyx(found["out"]["anchors_yxyx"])
    torch.testing.assert_close(ours.grid((height, width)), wanted, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", OURS)
def test_equals_torchvision_with_its_grid_and_rounding(name: str) -> None:
    """The canvas is divisible by all strides: elsewhere torchvision takes canvas // cells for the stride."""
    ours, canvas = OURS[name], (256, 384)
    ours = Anchors(ours.strides, ours.sizes, grid_offset=0.0, round_anchors=True)
    theirs = AnchorGenerator(ours.sizes, (ours.ratios,) * len(ours.sizes))
    maps = [torch.empty(1, 1, *(math.ceil(side / stride) for side in canvas)) for stride in ours.strides]
    (wanted,) = theirs(ImageList(torch.empty(1, 3, *canvas), [canvas]), maps)
    torch.testing.assert_close(ours.grid(canvas), wanted, rtol=0, atol=0)


# The best anchor of a box


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("offset", [0.5, 0.0])
def test_best_ious_are_those_of_a_search_over_the_whole_grid(name: str, offset: float) -> None:
    """Boxes are small and large, across borders, in corners, and on canvases that the strides do not divide."""
    anchors = Anchors(OURS[name].strides, OURS[name].sizes, grid_offset=offset)
    generator = torch.Generator().manual_seed(0)
    for canvas in [(96, 160), (320, 224)]:
        width_height = torch.tensor([canvas[1], canvas[0]])
        centre = torch.rand(300, 2, generator=generator) * width_height
        extent = (torch.rand(300, 2, generator=generator) * 7).exp2() * 2
        boxes = torch.cat((centre - extent / 2, centre + extent / 2), dim=1)
        wanted = box_iou(boxes, anchors.grid(canvas)).amax(dim=1)
        found = best_ious(anchors, boxes, torch.tensor([canvas]).expand(300, 2))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_best_iou_of_an_anchor_is_one_and_of_a_box_without_area_zero() -> None:
    canvas = (128, 128)
    anchors = RETINANET.grid(canvas)[::50]
    found = best_ious(RETINANET, anchors, torch.tensor([canvas]).expand(len(anchors), 2))
    torch.testing.assert_close(found, torch.ones(len(anchors)), rtol=1e-4, atol=1e-4)
    assert best_ious(RETINANET, torch.tensor([[5.0, 5.0, 5.0, 5.0]]), torch.tensor([canvas])).tolist() == [0]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"sizes": []}, r"model\.anchor_sizes=\[\]: expected numbers over 0"),
        ({"sizes": [32.0, 64.0]}, r"model\.anchor_sizes=\[32\.0, 64\.0\]: expected 1, one for each map, of stride 16"),
        ({"scales": []}, r"model\.anchor_scales=\[\]: expected numbers over 0, one at least"),
        ({"ratios": [1.0, 0.0]}, r"model\.anchor_ratios=\[1\.0, 0\.0\]: expected numbers over 0"),
        ({"scales": [-1.0]}, r"model\.anchor_scales=\[-1\.0\]: expected numbers over 0"),
    ],
)
def test_shapes_that_make_no_anchors_are_refused_by_name(shapes: dict[str, list[float]], said: str) -> None:
    given = {"sizes": [32.0], "scales": [1.0], "ratios": [0.5, 1.0]} | shapes
    with pytest.raises(ValueError, match=said):
        scaled_anchors((16,), **given, grid_offset=0.5, round_anchors=False)
