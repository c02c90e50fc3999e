from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from detectors.backbones.base import Backbone
from detectors.pyramid import FeaturePyramid


class Maps(Backbone):
    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.channels = dict(zip((32, 16, 8, 4), reversed(channels), strict=False))

    def stages(self) -> list[list[nn.Module]]:
        return []


def test_it_equals_the_original(golden: Callable[[str], dict[str, Any]]) -> None:
    case = golden("fcos/fpn")["p6_from_P5(fcos)"]
    theirs = case["in"]["state_dict"]
    state: dict[str, Tensor] = {}
    for name, value in theirs.items():
        layer, kind = name.rsplit(".", 1)
        if layer.startswith("top_blocks"):
            state[f"{layer.removeprefix('top_blocks.')}.{kind}"] = value
        else:
            place = {"fpn_inner": "lateral", "fpn_layer": "output"}[layer[:-1]]
            state[f"{place}.{int(layer[-1]) - 2}.{kind}"] = value
    pyramid = FeaturePyramid(Maps(16, 32, 64), 24, "p5")
    pyramid.load_state_dict(state)
    for ours, expected in zip(pyramid(case["in"]["C3_C4_C5"]), case["out"]["P3_to_P7"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p6_from", ["p5", "c5"])
def test_maps_of_any_size_give_five_levels(p6_from: str) -> None:
    pyramid = FeaturePyramid(Maps(4, 8, 16), 16, p6_from)  # C5 and P5 have equally many channels
    maps = [torch.randn(1, 4, 13, 9), torch.randn(1, 8, 7, 5), torch.randn(1, 16, 4, 3)]
    levels = pyramid(maps)
    assert [tuple(x.shape[1:]) for x in levels] == [
        (16, 13, 9),
        (16, 7, 5),
        (16, 4, 3),
        (16, 2, 2),
        (16, 1, 1),
    ]
    assert pyramid.strides == (8, 16, 32, 64, 128)
    torch.testing.assert_close(levels[3], pyramid.p6(levels[2] if p6_from == "p5" else maps[2]))
    torch.testing.assert_close(levels[4], pyramid.p7(levels[3].clamp(min=0)))


def test_levels_from_a_pool_equal_torchvision() -> None:
    """P6 of P2-P6 is every second cell of P5, also where their number is odd."""
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork([4, 8, 16, 32], 24, LastLevelMaxPool())
    pyramid = FeaturePyramid(Maps(4, 8, 16, 32), 24, "pool")
    places = {"inner_blocks": "lateral", "layer_blocks": "output"}
    state: dict[str, Tensor] = {}
    for name, value in theirs.state_dict().items():
        place, level, _, kind = name.split(".")
        state[f"{places[place]}.{level}.{kind}"] = nn.init.normal_(value)
    pyramid.load_state_dict(state)
    maps = [
        torch.randn(2, c, *size) for c, size in zip((4, 8, 16, 32), ((40, 24), (20, 12), (10, 6), (5, 3)), strict=True)
    ]
    levels = pyramid(maps)
    expected = theirs({str(i): x for i, x in enumerate(maps)})
    for ours, other in zip(levels, expected.values(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)
    assert levels[4].shape == (2, 24, 3, 2)
    assert torch.equal(levels[4], levels[3][:, :, [0, 2, 4]][..., [0, 2]])
    assert pyramid.inputs == (4, 8, 16, 32)
    assert pyramid.strides == (4, 8, 16, 32, 64)


def test_a_coarse_cell_is_repeated_over_the_finer_ones() -> None:
    pyramid = FeaturePyramid(Maps(1, 1, 1), 1)
    with torch.no_grad():
        for layer in (*pyramid.lateral, *pyramid.output):
            nn.init.dirac_(layer.weight)  # pyright: ignore[reportArgumentType]
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    p3 = pyramid([fine, coarse, torch.zeros(1, 1, 1, 1)])[0]
    assert p3[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_convolutions_start_uniform_without_bias() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid(Maps(64, 64, 64), 64)
    for layer in pyramid.modules():
        if isinstance(layer, nn.Conv2d):
            bound = (3 / layer.weight[0].numel()) ** 0.5  # kaiming_uniform with a=1
            assert 0.99 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is not None
            assert layer.bias.abs().sum() == 0


def test_an_unknown_source_of_p6_is_refused() -> None:
    with pytest.raises(ValueError, match="p6_from=c4: expected p5, c5 or pool"):
        FeaturePyramid(Maps(4, 8, 16), 16, "c4")


@pytest.mark.parametrize("canvas", [32, 64])
def test_gradients_on_single_cells_are_the_same_every_time_in_bf16(canvas: int) -> None:
    """Where P5 or P6 is one cell, a bf16 kernel read uninitialized memory; filling it with other values shows that."""
    torch.manual_seed(0)
    pyramid = FeaturePyramid(Maps(32, 96, 1280), 32)
    maps = [torch.randn(2, c, canvas // s, canvas // s) for c, s in zip((32, 96, 1280), (8, 16, 32), strict=True)]
    gradients = []
    for _ in range(20):
        pyramid.zero_grad()
        poison = [torch.full((2**n,), torch.nan) for n in range(8, 18)]
        del poison
        with torch.autocast("cpu", torch.bfloat16):
            outputs = pyramid(maps)
        sum(x.float().sum() for x in outputs).backward()  # pyright: ignore[reportAttributeAccessIssue]
        gradients.append((pyramid.p6.weight.grad.clone(), pyramid.p7.weight.grad.clone()))  # pyright: ignore[reportOptionalMemberAccess]
    for p6, p7 in gradients:
        assert torch.equal(p6, gradients[0][0])
        assert torch.equal(p7, gradients[0][1])
        assert p7.isfinite().all()


def test_single_cells_can_be_counted_without_being_computed() -> None:
    with torch.device("meta"):
        pyramid, maps = FeaturePyramid(Maps(4, 8, 16), 4), [torch.empty(1, c, 1, 1) for c in (4, 8, 16)]
        assert [tuple(x.shape) for x in pyramid(maps)] == [(1, 4, 1, 1)] * 5
