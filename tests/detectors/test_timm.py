"""Models of timm as backbones: maps, weights, pixel scale, freezing, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiers import slow_but
from torch import Tensor, nn

from detectors.anchors import FASTER_RCNN_FPN, FASTER_RCNN_VGG16
from detectors.backbones.timm_models import Timm
from detectors.faster_rcnn import FasterRCNN
from detectors.fcos import FCOS
from detectors.rpn import RPN

timm = pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[timm]'")

CONVNEXT, VIT, ONE_PIECE, SWIN = "test_convnext", "test_vit", "efficientnet_b0", "swin_tiny_patch4_window7_224"
NHWC = (SWIN, "mambaout_femto")
STRIDES = (4, 8, 16, 32)


def small(name: str = CONVNEXT, **options: Any) -> Timm:
    return Timm(name, **({"weights": None} | options))


@pytest.mark.parametrize(
    "name",
    slow_but(
        CONVNEXT,
        "vgg16",
        "mambaout_femto",
        ONE_PIECE,
        VIT,
        of=[
            CONVNEXT,
            "resnet50",
            SWIN,
            "mambaout_femto",
            "vgg16",
            ONE_PIECE,
            "regnety_004",
            VIT,
            "xcit_nano_12_p16_224",
        ],
    ),
)
@pytest.mark.parametrize("strides", [STRIDES, (8, 16, 32)])
def test_maps_have_the_stated_channels_and_strides(name: str, strides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = small(name).eval()
        maps = backbone(torch.zeros(1, 3, 128, 96), strides)
    assert [tuple(m.shape) for m in maps] == [(1, backbone.channels[s], 128 // s, 96 // s) for s in strides]


def of_timm(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, features_only=True, **options).eval()


@pytest.mark.parametrize(
    "name",
    slow_but(
        CONVNEXT,
        "efficientnet_lite0",
        of=[CONVNEXT, "mambaout_femto", "efficientnet_lite0", "resnet18", SWIN, "repvit_m0_9"],
    ),
)
@torch.no_grad()
def test_maps_equal_timms(name: str, tmp_path: Path) -> None:
    """From the file of the whole model, as timm publishes it, and from that of its maps."""
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    for tensor in whole.state_dict().values():  # statistics of norms among them
        if tensor.is_floating_point() and tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    file = {"file": str(tmp_path / "whole.safetensors")}
    any_size = {"strict_img_size": False} if name == SWIN else {}
    theirs = of_timm(name, pretrained=True, pretrained_cfg_overlay=file, **any_size)
    torch.save(theirs.state_dict(), tmp_path / "maps.pth")
    x = torch.randn(1, 3, 64, 96)
    expected = {r: m for r, m in zip(theirs.feature_info.reduction(), theirs(x), strict=True) if r > 2}
    for file in ("whole.safetensors", "maps.pth"):
        ours = small(name, weights=tmp_path / file).eval()
        for stride, m in zip(STRIDES, ours(x, STRIDES), strict=True):
            theirs_m = expected[stride].permute(0, 3, 1, 2) if name in NHWC else expected[stride]
            torch.testing.assert_close(m, theirs_m, rtol=1e-4, atol=1e-5 * theirs_m.abs().max().item())


def test_the_log_names_what_a_file_has_beyond_the_maps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = timm.create_model(CONVNEXT).state_dict()
    torch.save(state | {"teacher.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with caplog.at_level("INFO", "detectors.backbones.timm_models"):
        ours = small(weights=tmp_path / "w.pth")
    (line,) = caplog.messages
    assert line.endswith(f"{len(state) - 2} tensors taken; skipped: head.fc.bias, head.fc.weight, teacher.weight")
    assert torch.equal(ours.body.stem_0.weight, state["stem.0.weight"])


@torch.no_grad()
def test_a_vit_gets_the_simple_pyramid_from_its_last_map() -> None:
    backbone = small(VIT).eval()
    x = torch.randn(1, 3, 64, 96)
    width = backbone.channels[16]
    last = backbone.body(x)[-1]
    p4, p8, p16, p32 = backbone(x, STRIDES)
    assert last.shape == (1, width, 4, 6)
    assert torch.equal(p16, last)
    assert torch.equal(p32, last.unflatten(3, (3, 2)).unflatten(2, (2, 2)).amax(dim=(3, 5)))
    assert p8.shape == (1, width // 2, 8, 12)
    weight, bias = backbone.simple_pyramid.up8.weight, backbone.simple_pyramid.up8.bias  # pyright: ignore[reportOptionalMemberAccess]
    cell = torch.einsum("c,cdij->dij", last[0, :, 1, 2], weight) + bias[:, None, None]  # pyright: ignore[reportOptionalSubscript]
    torch.testing.assert_close(p8[0, :, 2:4, 4:6], cell)
    assert p4.shape == (1, width // 4, 16, 24)


def test_the_pixel_scale_is_that_of_the_weights() -> None:
    half = small("mobilenetv3_small_050.lamb_in1k", norm="bn"), small("vit_tiny_patch16_224")
    for backbone, mean in zip(half, ([0.485, 0.456, 0.406], [0.5, 0.5, 0.5]), strict=True):
        assert backbone.pixel_mean.tolist() == pytest.approx(mean)
    assert half[1].pixel_std.tolist() == [0.5, 0.5, 0.5]


def test_a_checkpoint_of_ours_is_read(tmp_path: Path) -> None:
    ours = small("resnet18", norm="frozen_bn")
    ours.pixel_mean.fill_(0.25)
    state = {f"network.backbone.{n}": v for n, v in ours.state_dict().items()}
    torch.save({"state_dict": state | {"network.head.weight": torch.zeros(1)}}, tmp_path / "best.ckpt")
    again = small("resnet18", weights=tmp_path / "best.ckpt").state_dict()
    assert all(torch.equal(v, again[n]) for n, v in ours.state_dict().items())


@pytest.mark.parametrize(
    ("name", "part"), [(CONVNEXT, "stages.2"), (CONVNEXT, "stem.0.weight"), (ONE_PIECE, "blocks.2"), (VIT, "blocks.1")]
)
@pytest.mark.parametrize("kind", ["whole", "maps"])
def test_a_file_without_a_part_is_refused(kind: str, name: str, part: str, tmp_path: Path) -> None:
    model = timm.create_model(name, features_only=kind == "maps")
    left = part.replace(".", "_", 1) if kind == "maps" and name == CONVNEXT else part
    state = model.state_dict()
    torch.save({n: v for n, v in state.items() if not n.removeprefix("model.").startswith(left)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"weights=.*part\.pth: .*(stem|stages|blocks)"):
        small(name, weights=tmp_path / "part.pth")


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"resnet18\.pth: they do not fit model\.backbone\.name=test_convnext .*Give"):
        small(weights=tmp_path / "resnet18.pth")


def test_a_failed_download_names_the_place_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRouteError(Exception):
        pass

    def load(*_: object, **__: object) -> None:
        raise NoRouteError("no route to host")

    monkeypatch.setattr(sys.modules["timm.models._builder"], "load_state_dict_from_hf", load)
    monkeypatch.setattr("detectors.backbones.timm_models.unreachable", lambda url: "")
    with pytest.raises(
        ValueError,
        match=r"weights=pretrained: .*test_convnext.*no route.*model\.safetensors of timm/.*"
        r"model\.backbone\.weights=FILE, or null",
    ):
        Timm(CONVNEXT)


def test_pretrained_weights_are_those_of_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = timm.create_model(CONVNEXT), list[object]()

    def load(place: object, *_: object, **__: object) -> dict[str, Tensor]:
        asked.append(place)
        return dict(model.state_dict())

    monkeypatch.setattr(sys.modules["timm.models._builder"], "load_state_dict_from_hf", load)
    ours = Timm(f"{CONVNEXT}.r160_in1k")
    assert asked == ["timm/test_convnext.r160_in1k"]
    assert torch.equal(ours.body.stem_0.weight, model.stem[0].weight)


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"name=convnext_tiny: .*need the package timm.*pip install 'boxwright\[timm\]'"
    ):
        Timm("convnext_tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnxt_tiny", r"has no such model; nearest are convnext_tiny"),
        ("hf-hub:someone/model", r"has no such model"),
        ("convnext_tiny.nothing", r"convnext_tiny\.nothing: .*tag"),
        ("vit_small_patch14_dinov2", r"strides|any size"),
        ("vit_base_patch32_224", r"its maps have strides 32, 32, 32; expected 4, 8, 16 and 32 .* or 16 alone"),
        ("maxvit_tiny_rw_224", r"of any size with it \(height \(24\) must be divisible by window"),
    ],
)
def test_models_without_useful_maps_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(name)


# Freezing


def frozen(backbone: Timm) -> set[str]:
    return {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("name", "stages", "layers"),
    [
        (CONVNEXT, 2, {"stem_0", "stem_1", "stages_0"}),
        (CONVNEXT, 3, {"stem_0", "stem_1", "stages_0", "stages_1"}),
        ("resnet18", 1, {"conv1", "bn1"}),
        ("resnet18", 2, {"conv1", "bn1", "layer1"}),
        (VIT, 4, {"model"}),
    ],
)
def test_stages_are_frozen_by_stride(name: str, stages: int, layers: set[str]) -> None:
    with torch.device("meta"):
        assert frozen(small(name, frozen_stages=stages, norm="bn")) == layers


@pytest.mark.parametrize(("name", "stages", "least"), [(CONVNEXT, 1, 2), (VIT, 3, 4), (ONE_PIECE, 2, 5)])
def test_stages_that_a_model_does_not_have_cannot_be_frozen(name: str, stages: int, least: int) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=rf"frozen_stages={stages}: {name} .*stride {2**stages}; .*or {least} or more"),
    ):
        small(name, frozen_stages=stages)


@pytest.mark.parametrize(("norm", "trains"), [("frozen_bn", False), ("bn", True)])
def test_batch_norms_are_frozen_or_not(norm: Any, trains: bool) -> None:
    backbone = small("resnet18", norm=norm).train()
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert trains is any(not torch.equal(b, before[n]) for n, b in backbone.named_buffers())
    assert trains is any("bn" in n for n, _ in backbone.named_parameters())


# In detectors


IMAGES, SIZES = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]])


@pytest.mark.parametrize("name", [CONVNEXT, VIT])
def test_every_trained_parameter_has_a_gradient(name: str) -> None:
    """A map of stride 4, which FCOS does not take, has layers of its own in the simple pyramid."""
    network = FCOS(small(name), 3, pyramid_channels=32, num_convs=1)
    outputs = network(IMAGES, SIZES)
    (outputs.logits.mean() + outputs.distances.mean() + outputs.centerness.mean()).backward()
    assert not [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == (
        [f"backbone.simple_pyramid.up4.{i}.{k}" for i in (0, 1, 3) for k in ("weight", "bias")] if name == VIT else []
    )


@pytest.mark.parametrize("name", [CONVNEXT, VIT])
def test_one_map_does_for_proposals_and_not_for_regions(name: str) -> None:
    with torch.device("meta"):
        backbone = small(name)
        with pytest.raises(ValueError, match=rf"{name}: no layers .* take a pyramid \(model\.pyramid_channels=256\)"):
            FasterRCNN(backbone, 3, FASTER_RCNN_VGG16, pyramid_channels=None)
        assert RPN(backbone, FASTER_RCNN_VGG16, pyramid_channels=None)(
            IMAGES.to("meta"), SIZES.to("meta")
        ).logits.shape == (1, 16 * 9)
        backbone.leave_out((16,))
        assert frozen(backbone) == ({"stages_3"} if name == CONVNEXT else {"up4", "up8"})
        FasterRCNN(backbone, 3, FASTER_RCNN_FPN)


def test_one_map_of_a_model_in_one_piece_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"comes as one piece.*model\.pyramid_channels=256"):
        small(ONE_PIECE).leave_out((16,))


def test_a_silent_hub_is_not_asked_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is offline while the model is made, so that kept weights are taken, and is as it was afterwards."""
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr("detectors.backbones.timm_models.unreachable", lambda url: asked.append(url) or "nobody there")
    with pytest.raises(ValueError, match=r"weights of convnext_atto could not be had \(nobody there\)\. Fetch model\."):
        Timm("convnext_atto")
    assert asked == [hub.ENDPOINT]
    assert not hub.HF_HUB_OFFLINE

    def make(name: str, **options: Any) -> nn.Module:
        offline.append((hub.HF_HUB_OFFLINE, options.pop("pretrained", False)))
        return create(name, **options)

    offline: list[tuple[bool, bool]] = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", make)
    Timm("convnext_atto")
    assert offline[-1] == (True, True)
    assert not hub.HF_HUB_OFFLINE
    monkeypatch.setattr("detectors.backbones.timm_models.unreachable", lambda url: "")
    Timm("convnext_atto")
    assert offline[-1] == (False, True)
