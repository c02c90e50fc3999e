import pytest
import torch
from faster_rcnn_cases import random_boxes
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from detectors.roi_pooling import align_regions, max_pool_regions, pyramid_levels

STRIDES = (4, 8, 16, 32)


def maps_of(canvas: tuple[int, int], strides: tuple[int, ...] = STRIDES, channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, -(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in strides]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def by_torchvision(
    maps: list[Tensor], strides: tuple[int, ...], images: Tensor, boxes: Tensor, size: int, aligned: bool
) -> Tensor:
    """Pools region by region, each on the map that torchvision chooses."""
    first = int(torch.tensor(strides[0]).log2())
    levels = LevelMapper(first, first + len(strides) - 1)([boxes]).tolist()
    regions = torch.cat((images[:, None].float(), boxes), dim=1)
    rows = [
        roi_align(maps[level], regions[i : i + 1], size, 1 / strides[level], 2, aligned)
        for i, level in enumerate(levels)
    ]
    return torch.cat(rows)


REGIONS = {
    "inside": random_boxes(30, 512.0),
    "partly outside": random_boxes(20, 512.0, seed=1) - torch.tensor([60.0, 40.0, 60.0, 40.0]),
    "over the far corner": random_boxes(20, 512.0, seed=2) + 200.3,
    "wholly outside": torch.tensor([[-90.0, -90.0, -50.0, -40.0], [10.0, 700.0, 90.0, 801.0], [900.0, 0, 950.0, 9.0]]),
    "tiny": torch.tensor([[50.0, 50.0, 50.01, 50.02], [0.0, 0.0, 0.3, 0.2], [319.9, 255.9, 320.0, 256.0]]),
    "without area": torch.tensor([[0.0, 0.0, 0.0, 0.0], [33.0, 20.0, 33.0, 60.0]]),
    "huge": torch.tensor([[0.0, 0.0, 320.0, 256.0], [-500.0, -700.0, 1500.0, 900.0], [0.0, 0.0, 1e5, 1e5]]),
    "slender": torch.tensor([[0.0, 100.0, 320.0, 101.0], [100.0, 0.0, 101.0, 256.0]]),
}


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("name", REGIONS)
def test_aligned_regions_and_their_gradients_equal_torchvision(name: str, aligned: bool) -> None:
    maps, boxes = maps_of((256, 320)), REGIONS[name]
    images = torch.arange(len(boxes)) % 2
    ours = align_regions(maps, STRIDES, images, boxes, 7, aligned)
    theirs = by_torchvision(maps, STRIDES, images, boxes, 7, aligned)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad((x * weight).sum(), maps, allow_unused=True, materialize_grads=True) for x in (ours, theirs)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
    assert (ours.abs().max() > 0.1) == (name != "wholly outside")


def test_regions_of_every_level_are_compared_above() -> None:
    boxes = torch.cat(list(REGIONS.values()))
    assert pyramid_levels(boxes, STRIDES).unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("canvas", [(16, 16), (32, 16), (16, 80)])
def test_one_map_of_one_cell_or_one_row_equals_torchvision(canvas: tuple[int, int], aligned: bool) -> None:
    maps = maps_of(canvas, (16,))
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [3.0, 4.0, 9.0, 70.0], [-20.0, -8.0, 90.0, 12.0], [0.0, 0, 0.5, 0.5]])
    images = torch.tensor([0, 1, 1, 0])
    for size in (1, 2, 7):
        ours = align_regions(maps, (16,), images, boxes, size, aligned)
        theirs = by_torchvision(maps, (16,), images, boxes, size, aligned)
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_pooling_a_map_of_coordinates_gives_the_centres_of_the_bins() -> None:
    """With `aligned` a cell's value is at its centre, without it at its corner, half a cell away."""
    x = (torch.arange(20) + 0.5) * 16
    (ours,) = align_regions(
        [x.expand(1, 1, 20, 20)], [16], torch.tensor([0]), torch.tensor([[32.0, 48, 144, 160]]), 7, True
    )
    assert ours[0, 0].tolist() == pytest.approx([40, 56, 72, 88, 104, 120, 136])
    (legacy,) = align_regions(
        [x.expand(1, 1, 20, 20)], [16], torch.tensor([0]), torch.tensor([[32.0, 48, 144, 160]]), 7, False
    )
    assert (legacy - ours).flatten().tolist() == pytest.approx([8.0] * 49)


def test_without_regions_the_result_is_empty() -> None:
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    assert align_regions(maps_of((64, 64)), STRIDES, *none, 7, True).shape == (0, 3, 7, 7)
    assert max_pool_regions(maps_of((64, 64), (16,))[0], 16, *none, 7).shape == (0, 3, 7, 7)


def test_regions_of_bf16_maps_are_pooled_in_float32_also_under_autocast() -> None:
    boxes, images = random_boxes(6, 512.0), torch.tensor([0, 1, 0, 1, 0, 1])
    maps = [x.detach().bfloat16() for x in maps_of((256, 320))]
    exact = align_regions([x.float() for x in maps], STRIDES, images, boxes, 7, True)
    largest = max_pool_regions(maps[2].float(), 16, images, boxes, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(align_regions(maps, STRIDES, images, boxes, 7, True), exact)
        assert torch.equal(max_pool_regions(maps[2], 16, images, boxes, 7), largest)


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16, 32)])
def test_levels_at_and_near_their_borders_are_torchvisions(strides: tuple[int, ...]) -> None:
    borders = torch.tensor([56.0, 112.0, 224.0, 448.0, 896.0])
    steps = torch.tensor([-1e-2, -1e-4, -4e-5, -3e-5, -1e-5, 0.0, 1e-5, 1e-4, 1e-2])
    side = torch.cat(((borders[:, None] + steps).flatten(), torch.tensor([0.0, 1e-20, 1.0, 1e4, 1e9])))
    other = torch.rand(len(side), generator=torch.Generator().manual_seed(0)) + 0.5
    boxes = torch.stack((torch.zeros_like(side), torch.zeros_like(side), side * other, side / other), dim=1)
    boxes = torch.cat((boxes, torch.stack((0 * side, 0 * side, side, side), dim=1)))
    first = strides[0].bit_length() - 1
    assert torch.equal(pyramid_levels(boxes, strides), LevelMapper(first, first + len(strides) - 1)([boxes]))
    on_border = torch.tensor([[0.0, 0.0, 112.0, 112.0], [0.0, 0.0, 111.9, 111.9], [10.0, 10.0, 458.0, 458.0]])
    assert pyramid_levels(on_border, STRIDES).tolist() == [1, 0, 3]
