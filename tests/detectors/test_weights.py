import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from detectors.backbones.resnet import ResNet
from detectors.weights import load_backbone, read_weights


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return models.resnet18(weights=None).state_dict()


@pytest.fixture
def backbone() -> ResNet:
    return ResNet(18, weights=None, norm="bn", frozen_stages=0)


def same(backbone: nn.Module, state: dict[str, Tensor]) -> bool:
    ours = backbone.state_dict()
    return all(torch.equal(ours[n], v) for n, v in state.items() if not n.startswith("fc."))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_is_found_alone_wrapped_and_saved_from_data_parallel(
    wrap: str | None, prefix: str, tmp_path: Path, state: dict[str, Tensor], backbone: ResNet
) -> None:
    named = {prefix + n: v for n, v in state.items()}
    torch.save({wrap: named, "epoch": 3} if wrap else named, tmp_path / "w.pth")
    load_backbone(backbone, tmp_path / "w.pth")
    assert same(backbone, state)


def test_safetensors_are_read(tmp_path: Path, state: dict[str, Tensor], backbone: ResNet) -> None:
    save_file(state, tmp_path / "w.safetensors")
    load_backbone(backbone, str(tmp_path / "w.safetensors"))
    assert same(backbone, state)


def test_half_precision_is_widened(tmp_path: Path, state: dict[str, Tensor], backbone: ResNet) -> None:
    torch.save({n: v.half() if v.is_floating_point() else v for n, v in state.items()}, tmp_path / "w.pt")
    load_backbone(backbone, tmp_path / "w.pt")
    assert backbone.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(backbone.conv1.weight.data, state["conv1.weight"], rtol=1e-3, atol=1e-4)


def test_our_checkpoint_gives_its_backbone_and_its_pixel_scale(tmp_path: Path, backbone: ResNet) -> None:
    other = ResNet(18, weights=None, norm="bn", frozen_stages=0)
    other.pixel_mean.fill_(0.25)
    named = {f"network.backbone.{n}": v for n, v in other.state_dict().items()}
    named |= {"network.head.weight": torch.zeros(3)}
    torch.save({"state_dict": named, "boxwright": {"class_names": ["cat"]}}, tmp_path / "best.ckpt")
    load_backbone(backbone, tmp_path / "best.ckpt")
    assert same(backbone, other.state_dict())
    assert backbone.pixel_mean.tolist() == [0.25] * 3


def test_the_log_lists_the_taken_and_the_skipped_tensors(
    tmp_path: Path, state: dict[str, Tensor], backbone: ResNet, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(state | {"extra.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "detectors.weights"):
        load_backbone(backbone, tmp_path / "w.pth")
    (line,) = caplog.messages
    assert "w.pth: 120 of 122 tensors taken; skipped: extra.weight" in line  # all but the pixel scale
    assert "fc." not in line


def test_missing_tensors_are_listed_and_nothing_is_changed(
    tmp_path: Path, state: dict[str, Tensor], backbone: ResNet
) -> None:
    torch.save({n: v for n, v in state.items() if "layer3" not in n}, tmp_path / "w.pth")
    before = backbone.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"w\.pth: 25 of 122 tensors are not in the file: layer3\.0\.conv1"):
        load_backbone(backbone, tmp_path / "w.pth")
    assert torch.equal(backbone.conv1.weight, before)


def test_weights_of_another_depth_are_refused_by_shape(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is \(64, 64, 1, 1\), expected \(64, 64, 3, 3\)"):
        ResNet(18, weights=tmp_path / "w.pth")


def test_a_norm_without_its_statistics_in_the_file_is_refused(tmp_path: Path) -> None:
    torch.save(ResNet(18, weights=None, norm="gn").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"bn1\.running_mean.*depth and norm"):
        ResNet(18, weights=tmp_path / "w.pth", norm="frozen_bn")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_named(suffix: str, share: float, tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    small = {n: v for n, v in state.items() if n.startswith("layer1")}
    torch.save(small, whole) if suffix == ".pth" else save_file(small, whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"cut\{suffix}: cannot be read .* Fetch it again"):
        read_weights(cut)


class Trap:
    """An object whose pickle would run code when read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_runs_code_is_refused_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Trap()}, "saved.pth")
    Path("plain.pt").write_bytes(pickle.dumps({"conv1.weight": Trap()}, protocol=2))
    for name in ("saved.pth", "plain.pt"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as tensors only"):
            read_weights(name)
    assert not Path("sprung").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth.*torch\.save\(model\.state_dict\(\), path\)"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "expected named tensors"),
        ({}, "expected named tensors"),
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, "'epoch' is int"),
    ],
)
def test_a_file_without_named_tensors_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(("name", "message"), [("w.bin", "ending in .pth, .pt"), ("absent.pth", "no such file")])
def test_wrong_paths_say_what_was_expected(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / name)
