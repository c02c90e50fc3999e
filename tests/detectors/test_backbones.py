import copy
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from tiers import slow_but
from torch import Tensor, nn
from torchvision import models

from detectors.backbones.base import Backbone
from detectors.backbones.mobilenet import MobileNetV2, MobileNetV3Large
from detectors.backbones.norms import NORMS, FrozenBatchNorm, group_norm
from detectors.backbones.resnet import ResNet


def build(name: str, **options: object) -> Backbone:
    options = {"weights": None, "frozen_stages": 0} | options
    if name.startswith("mobilenet"):
        return (MobileNetV2 if name == "mobilenet_v2" else MobileNetV3Large)(**options)  # pyright: ignore[reportArgumentType]
    return ResNet(int(name), **options)  # pyright: ignore[reportArgumentType]


NAMES = ("18", "34", "50", "101", "152", "mobilenet_v2", "mobilenet_v3_large")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_stated_channels_and_strides(name: str, norm: str) -> None:
    with torch.device("meta"):
        backbone = build(name, norm=norm).eval()
        maps = backbone(torch.zeros(1, 3, 64, 96), (4, 8, 16, 32))
    expected = [(1, c, 64 // stride, 96 // stride) for stride, c in backbone.channels.items()]
    assert [tuple(x.shape) for x in maps] == expected


def torchvision_features(model: nn.Module, x: Tensor) -> list[Tensor]:
    if isinstance(model, models.MobileNetV2 | models.MobileNetV3):
        maps = [x := layer(x) for layer in model.features]
        return [maps[i] for i in ((6, 13, 18) if isinstance(model, models.MobileNetV2) else (6, 12, 16))]
    x = nn.Sequential(*list(model.children())[:4])(x)  # stem, up to the pooling
    maps = [x := layer(x) for layer in list(model.children())[4:8]]
    return maps[1:]


def with_statistics(model: nn.Module) -> nn.Module:
    """Sets random weights, and norms as after a little training."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    model.train()(torch.randn(2, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("18", "bn"),
        ("50", "frozen_bn"),
        ("101", "frozen_bn"),
        ("mobilenet_v2", "bn"),
        ("mobilenet_v2", "frozen_bn"),
        ("mobilenet_v3_large", "bn"),
        ("mobilenet_v3_large", "frozen_bn"),
    ],
)
def test_weights_of_torchvision_give_the_features_of_torchvision(name: str, norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_theirs = getattr(models, name if name.startswith("mobilenet") else f"resnet{name}")
    theirs = with_statistics(build_theirs(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build(name, norm=norm, weights=str(tmp_path / "weights.pth")).eval().double()
    x = torch.randn(1, 3, 64, 64).double()  # so that rounding does not accumulate over a hundred layers
    with torch.no_grad():
        for a, b in zip(ours(x), torchvision_features(theirs.double(), x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())


def test_published_mobilenet_weights_give_the_features_of_torchvision(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenet_v2_imagenet.pth"
    ours = MobileNetV2(weights=path).eval()
    theirs = models.mobilenet_v2(weights=None).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    images = torch.randint(256, (1, 3, 96, 96), dtype=torch.uint8)
    x = ours.normalize(images, torch.tensor([[96, 96]]))
    with torch.no_grad():
        for a, b in zip(ours(x), torchvision_features(theirs, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("18", "ResNet18_Weights.IMAGENET1K_V1"),
        ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V1"),
        ("mobilenet_v3_large", "MobileNet_V3_Large_Weights.IMAGENET1K_V1"),
    ],
)
def test_imagenet_weights_are_those_that_torchvision_publishes(
    name: str, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = getattr(models, name if name.startswith("mobilenet") else f"resnet{name}")()
    asked: list[str] = []

    def download(self: models.WeightsEnum, **_: object) -> OrderedDict[str, Tensor]:
        asked.append(str(self))
        return OrderedDict(model.state_dict())

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", download)
    monkeypatch.setattr("detectors.weights.loading.unreachable", lambda url: "")
    ours = build(name, weights="imagenet")
    assert asked == [published]
    first = "conv1.weight" if name == "18" else "features.0.0.weight"
    assert torch.equal(ours.state_dict()[first], model.state_dict()[first])


def test_a_failed_download_names_the_address_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", download)
    monkeypatch.setattr("detectors.weights.loading.unreachable", lambda url: "")
    with pytest.raises(
        ValueError, match=r"resnet18-.*\.pth could not be downloaded .*no route.*model\.backbone\.weights=FILE, or null"
    ):
        ResNet(18)


def test_a_server_that_cannot_be_reached_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torchvision would wait for it; a file that was downloaded before needs no server."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr("detectors.weights.loading.unreachable", lambda url: asked.append(url) or "nobody there")
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(ValueError, match=r"resnet18-f37072fd\.pth could not be downloaded \(nobody there\)"):
        ResNet(18)
    assert asked == [str(models.ResNet18_Weights.IMAGENET1K_V1.url)]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").touch()
    state = models.resnet18().state_dict()
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: state)
    assert torch.equal(ResNet(18).conv1.weight, state["conv1.weight"])
    assert len(asked) == 1


def test_pixels_are_scaled_and_the_padding_is_zero_after_it() -> None:
    backbone = build("18")
    images = torch.full((2, 3, 4, 6), 255, dtype=torch.uint8)
    x = backbone.normalize(images, torch.tensor([[4, 6], [2, 3]]))
    white = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(x[0], white[:, None, None].expand(3, 4, 6))
    torch.testing.assert_close(x[1, :, :2, :3], white[:, None, None].expand(3, 2, 3))
    assert x[1, :, 2:].abs().sum() == x[1, :, :, 3:].abs().sum() == 0


@pytest.mark.parametrize("of_images", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_weights", [torch.contiguous_format, torch.channels_last])
def test_pixels_take_the_memory_format_of_the_weights(
    of_images: torch.memory_format, of_weights: torch.memory_format
) -> None:
    backbone, sizes = build("18"), torch.tensor([[8, 8], [4, 4]])
    backbone.to(memory_format=of_weights)  # pyright: ignore[reportCallIssue]
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    x = backbone.normalize(images.contiguous(memory_format=of_images), sizes)
    assert x.is_contiguous(memory_format=of_weights)
    assert torch.equal(x, build("18").normalize(images, sizes))


def test_the_pixel_scale_is_stored_with_the_weights() -> None:
    state = build("18").state_dict()
    assert state["pixel_mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert state["pixel_std"].tolist() == pytest.approx([0.229, 0.224, 0.225])


def frozen_names(backbone: Backbone) -> set[str]:
    """Layers (first two parts of a name) with a parameter that is not trained."""
    return {".".join(n.split(".")[:2]) for n, p in backbone.named_parameters() if not p.requires_grad}


def test_two_frozen_stages_of_a_resnet_are_stem_and_first_residual_stage() -> None:
    backbone = build("18", norm="bn", frozen_stages=2)
    assert frozen_names(backbone) == {"conv1.weight", "bn1.weight", "bn1.bias", "layer1.0", "layer1.1"}


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large"])
def test_two_frozen_stages_of_mobilenet_are_all_features_up_to_stride_four(name: str) -> None:
    backbone = build(name, norm="bn", frozen_stages=2)
    assert frozen_names(backbone) == {f"features.{i}" for i in range(4)}
    x = torch.zeros(1, 3, 64, 64)
    for stage, stride in zip(backbone.stages(), (2, 4, 8, 16, 32), strict=True):
        x = nn.Sequential(*stage)(x)
        assert x.shape[-1] == 64 // stride


@pytest.mark.parametrize("name", ["18", "mobilenet_v2"])
@pytest.mark.parametrize(("frozen_stages", "trains"), [(0, True), (5, False)])
def test_no_stage_or_every_stage_can_be_frozen(name: str, frozen_stages: int, trains: bool) -> None:
    backbone = build(name, norm="bn", frozen_stages=frozen_stages)
    assert all(p.requires_grad is trains for p in backbone.parameters())


@pytest.mark.parametrize("norm", ["bn", "sync_bn"])
@pytest.mark.parametrize("name", ["18", "mobilenet_v2"])
def test_statistics_of_frozen_stages_do_not_move(name: str, norm: str) -> None:
    backbone = nn.Sequential(build(name, norm=norm, frozen_stages=3)).train()  # as a part of a larger model
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    moved = {n for n, b in backbone.named_buffers() if not torch.equal(b, before[n])}
    firsts = ("0.layer3", "0.layer4") if name == "18" else tuple(f"0.features.{i}." for i in range(7, 19))
    assert moved
    assert all(n.startswith(firsts) for n in moved)
    assert {n for n in before if n.startswith(firsts) and "running_mean" in n} <= moved


def test_frozen_bn_has_nothing_to_train_and_nothing_that_moves() -> None:
    backbone = build("18", norm="frozen_bn").train()
    assert not [n for n, _ in backbone.named_parameters() if "bn" in n]
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())


@pytest.mark.parametrize("name", slow_but("18", "50", "mobilenet_v2", "mobilenet_v3_large", of=NAMES))
def test_a_frozen_norm_is_part_of_the_convolution_before_it_and_trains_as_if_it_were_not(name: str) -> None:
    """Equal in outputs, gradients and names of weights, also after a copy and a change of the statistics."""
    folded, x = copy.deepcopy(build(name, norm="frozen_bn").train().double()), torch.randn(2, 3, 64, 64).double()
    norms = [layer for layer in folded.modules() if isinstance(layer, FrozenBatchNorm)]
    for layer in norms:
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
    apart = copy.deepcopy(folded)
    for layer in apart.modules():
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d
        elif isinstance(layer, FrozenBatchNorm):
            layer.folded = False
    assert norms
    assert all(layer.folded for layer in norms)
    assert list(folded.state_dict()) == list(apart.state_dict())
    seen = []
    for network in (folded, apart):
        maps = network(x)
        # A weighted sum: any bounded function of maps that grow with the depth would amplify rounding.
        draw = torch.Generator().manual_seed(1)
        torch.stack([(m * torch.randn(m.shape, generator=draw, dtype=m.dtype)).sum() for m in maps]).sum().backward()
        seen.append([*maps, *(p.grad for p in network.parameters())])
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * b.abs().max().item())


@pytest.mark.parametrize("norm", ["bn", "sync_bn", "gn"])
def test_every_trained_norm_takes_a_step_on_one_cpu_process(norm: str) -> None:
    backbone = build("18", norm=norm)
    sum(x.square().mean() for x in backbone(torch.randn(2, 3, 64, 64))).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(256, 32), (64, 32), (16, 8), (24, 12), (32, 16), (144, 24), (576, 32), (7, 1), (1, 1)],
)
def test_group_norm_takes_the_largest_number_of_groups_with_two_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("name", ["18", "mobilenet_v2"])
def test_more_stages_than_there_are_cannot_be_frozen(name: str) -> None:
    with pytest.raises(ValueError, match=r"frozen_stages=6: expected 0 .* to 5"):
        build(name, frozen_stages=6)
