from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from detectors.backbones.base import CAFFE_MEAN
from detectors.backbones.norms import NORMS, Norm
from detectors.backbones.vgg import VGG16


def their_maps(network: models.VGG, x: Tensor) -> list[Tensor]:
    """torchvision's maps of stride 4, 8 and 16, each before the next pooling, and the output of the last pooling."""
    layers = list(network.features.children())
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    maps: list[Tensor] = []
    for start, end in pairwise((0, *pools[2:], len(layers))):
        x = nn.Sequential(*layers[start:end])(x)
        maps.append(x)
    return maps


def convolutions(network: models.VGG) -> dict[str, Tensor]:
    return {n: v for n, v in network.state_dict().items() if n.startswith("features.")}


@pytest.fixture(scope="module")
def plain() -> models.VGG:
    """torchvision's VGG16, random; fc6 and fc7 repeat one row of numbers, so that a file of them is small."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = models.vgg16(weights=None, init_weights=False)
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        fan_in = value[0].numel()
        if name.startswith("classifier") and name.endswith("weight"):
            state[name] = (torch.randn(sum(value.shape)) * (2 / fan_in) ** 0.5).as_strided(value.shape, (1, 1))
        elif name.endswith("weight"):
            state[name] = torch.randn(value.shape) * (2 / fan_in) ** 0.5
        else:
            state[name] = torch.randn(value.shape) * 0.1
    network.load_state_dict(state, assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def file(plain: models.VGG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(plain.state_dict(), path)
    assert path.stat().st_size < 64 * 2**20
    return path


@pytest.fixture(scope="module")
def whole(file: Path) -> VGG16:
    return VGG16(weights=file, fully_connected=True, dropout=0.5)


@pytest.mark.parametrize("canvas", [(64, 64), (32, 96)])
@torch.no_grad()
def test_maps_equal_torchvision(plain: models.VGG, whole: VGG16, canvas: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *canvas, generator=torch.Generator().manual_seed(0))
    maps = whole.eval()(x, (4, 8, 16, 32))
    for ours, theirs, (stride, channels) in zip(maps, their_maps(plain, x), whole.channels.items(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert ours.shape == (2, channels, canvas[0] // stride, canvas[1] // stride)
        assert ours.std() > 0.1


@torch.no_grad()
def test_regions_pass_through_fc6_and_fc7(plain: models.VGG, whole: VGG16) -> None:
    x = torch.randn(3, 512, 7, 7, generator=torch.Generator().manual_seed(0))
    ours = whole.eval().region_head(x)
    assert ours.shape == (3, whole.region_channels)
    torch.testing.assert_close(ours, plain.classifier[:6](x.flatten(1)), rtol=1e-4, atol=1e-4)
    assert (ours > 0).any()
    assert ours.std(dim=0).mean() > 0.1


@torch.no_grad()
def test_dropout_is_off_in_evaluation_and_by_default(whole: VGG16) -> None:
    x = torch.randn(1, 512, 7, 7)
    assert torch.equal(whole.eval().region_head(x), whole.region_head(x))
    assert not torch.equal(whole.train().region_head(x), whole.region_head(x))
    with torch.device("meta"):
        layers = VGG16(weights=None, fully_connected=True).modules()
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.0, 0.0]


@torch.no_grad()
def test_with_a_norm_maps_equal_torchvisions_vgg16_bn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = models.vgg16_bn(weights=None, init_weights=False)
    for layer in theirs.features.to_empty(device="cpu").children():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.reset_parameters()
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    theirs.features(torch.randn(2, 3, 64, 64))  # sets the statistics of its norms
    torch.save(convolutions(theirs), tmp_path / "vgg16_bn.pth")
    x = torch.randn(1, 3, 64, 64)
    expected = their_maps(theirs.eval(), x)
    for norm in ("bn", "frozen_bn"):
        ours = VGG16(weights=tmp_path / "vgg16_bn.pth", norm=norm).eval()
        for a, b in zip(ours(x, (4, 8, 16, 32)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert b.std() > 0.01


@pytest.mark.parametrize("norm", [None, *NORMS])
def test_maps_have_the_stated_channels_and_strides(norm: Norm | None) -> None:
    with torch.device("meta"):
        backbone = VGG16(weights=None, norm=norm, frozen_stages=0).eval()
        maps = backbone(torch.zeros(1, 3, 64, 96), (4, 8, 16, 32))
    assert [tuple(x.shape) for x in maps] == [(1, c, 64 // s, 96 // s) for s, c in backbone.channels.items()]


def frozen(backbone: VGG16) -> set[int]:
    return {int(n.split(".")[1]) for n, p in backbone.named_parameters() if not p.requires_grad}


def test_one_frozen_stage_is_conv1_and_conv2() -> None:
    with torch.device("meta"):
        assert frozen(VGG16(weights=None)) == {0, 2, 5, 7}  # the first ten of torchvision's features
        assert frozen(VGG16(weights=None, frozen_stages=0)) == set()
        assert frozen(VGG16(weights=None, frozen_stages=2)) == {0, 2, 5, 7, 10, 12, 14}
        with_norm = VGG16(weights=None, norm="bn")
    with_norm.train()
    assert frozen(with_norm) == {0, 1, 3, 4, 7, 8, 10, 11}
    training = [
        i
        for i, layer in enumerate(with_norm.features.children())
        if layer.training and isinstance(layer, nn.BatchNorm2d)
    ]
    assert min(training) == 15


def test_a_file_without_fully_connected_layers_is_refused(plain: models.VGG, tmp_path: Path) -> None:
    path = tmp_path / "features.pth"
    torch.save(convolutions(plain), path)
    with torch.device("meta"), pytest.raises(ValueError, match=r"4 of 32 tensors are not in the file: classifier\.0"):
        VGG16(weights=path, fully_connected=True)


def test_without_fully_connected_layers_there_is_no_region_head() -> None:
    with torch.device("meta"):
        backbone = VGG16(weights=None)
    with pytest.raises(ValueError, match=r"model\.backbone\.fully_connected=false: .* set it to true"):
        _ = backbone.region_channels


@pytest.fixture(scope="module")
def caffe(plain: models.VGG, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VGG16]:
    path = tmp_path_factory.mktemp("caffe") / "vgg16_caffe.pth"
    torch.save(convolutions(plain), path)
    return path, VGG16(weights=path, caffe=True).eval()


@torch.no_grad()
def test_weights_of_caffe_receive_bgr_minus_their_mean(plain: models.VGG, caffe: tuple[Path, VGG16]) -> None:
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, ours = caffe
    x = ours.normalize(images, torch.tensor([[32, 32]]))
    torch.testing.assert_close(x, images - torch.tensor(CAFFE_MEAN)[:, None, None], rtol=1e-4, atol=1e-3)
    theirs = next(plain.features.children())((images - torch.tensor(CAFFE_MEAN)[:, None, None]).flip(1))
    torch.testing.assert_close(next(ours.features.children())(x), theirs, rtol=1e-4, atol=1e-2)
    assert theirs.std() > 10


def test_our_checkpoint_is_not_converted_again_and_keeps_its_pixel_scale(
    caffe: tuple[Path, VGG16], tmp_path: Path
) -> None:
    _, ours = caffe
    named = {f"network.backbone.{n}": v for n, v in ours.state_dict().items()}
    torch.save({"state_dict": named}, tmp_path / "best.ckpt")
    for setting in (True, False):
        again = VGG16(weights=tmp_path / "best.ckpt", caffe=setting).state_dict()
        assert all(torch.equal(again[n], v) for n, v in ours.state_dict().items())


def test_caffe_with_imagenet_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"caffe=true with model\.backbone\.weights=imagenet: .* or caffe=false"):
        VGG16(caffe=True)


@pytest.mark.parametrize(("norm", "name"), [(None, r"vgg16-\w+"), ("bn", r"vgg16_bn-\w+")])
def test_imagenet_weights_are_chosen_by_the_norm(norm: Norm | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", download)
    monkeypatch.setattr("detectors.weights.loading.unreachable", lambda url: "")
    with torch.device("meta"), pytest.raises(ValueError, match=rf"{name}\.pth could not be downloaded"):
        VGG16(norm=norm)
