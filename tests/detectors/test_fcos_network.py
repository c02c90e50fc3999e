from collections.abc import Callable
from typing import Any

import pytest
import torch
from fcos_cases import STRIDES, rows
from torch import Tensor, nn

from detectors.backbones.resnet import ResNet
from detectors.fcos import FCOS, FCOSDecoder, FCOSHead, FCOSLoss

Golden = Callable[[str], dict[str, Any]]


def small_network(**options: Any) -> FCOS:
    torch.manual_seed(0)
    backbone = ResNet(18, weights=None, norm="gn", frozen_stages=2)
    options = {"pyramid_channels": 64, "num_convs": 2} | options
    return FCOS(backbone, 3, **options)


def some_images(num: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.randint(256, (num, 3, height, width), generator=torch.manual_seed(1), dtype=torch.uint8)


def of_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict under our names."""
    names = {
        "cls_tower": "class_tower",
        "bbox_tower": "box_tower",
        "cls_logits": "logits",
        "bbox_pred": "distances",
    }
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        first, rest = name.split(".", 1)
        if first == "scales":
            renamed[f"scales.{rest.removesuffix('.scale')}"] = value.reshape(())
        else:
            renamed[f"{names.get(first, first)}.{rest}"] = value
    return renamed


def head(**options: Any) -> FCOSHead:
    plain: dict[str, Any] = {"num_convs": 4, "head_norm": "gn", "prior": 0.01}
    plain |= {"normalize_targets": False, "centerness_on_box": False}
    return FCOSHead(64, 4, STRIDES, **plain | options)


def test_the_head_equals_the_original(golden: Golden) -> None:
    recorded = golden("fcos/head")["default"]
    ours = head()
    ours.load_state_dict(of_original(recorded["in"]["state_dict"]))
    outputs, expected = ours(recorded["in"]["features"]), recorded["out"]
    torch.testing.assert_close(outputs.logits, rows(expected["train_logits"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.centerness, rows(expected["train_centerness"])[..., 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.distances, rows(expected["train_bbox_reg"]), rtol=1e-4, atol=1e-4)
    assert outputs.level_sizes == (80, 20, 6, 2, 1)


def test_the_head_starts_as_the_original(golden: Golden) -> None:
    """Compares (mean, std) of every tensor, within the sampling error."""
    recorded = golden("fcos/head")["default"]["out"]["init_mean_std"]
    torch.manual_seed(0)
    ours = head().state_dict()
    recorded = (
        of_original({n: v[:1] for n, v in recorded.items()}),
        of_original({n: v[1:] for n, v in recorded.items()}),
    )
    assert ours.keys() == recorded[0].keys()
    for name, value in ours.items():
        assert value.mean().item() == pytest.approx(recorded[0][name].item(), abs=1e-3), name
        assert value.std(correction=0).item() == pytest.approx(recorded[1][name].item(), abs=1e-3), name


def test_normalized_targets_are_rectified_strides_and_centerness_can_move_to_the_box_tower() -> None:
    torch.manual_seed(0)
    plain, other = head(), head(normalize_targets=True, centerness_on_box=True)
    for layer in plain.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.1)
    with torch.no_grad():
        plain.scales[1].fill_(2.0)
    other.load_state_dict(plain.state_dict())
    maps = [torch.randn(2, 64, n, n) for n in (8, 4, 2, 1, 1)]
    a, b = plain(maps), other(maps)
    raw = a.distances.log()
    torch.testing.assert_close(b.distances, raw.relu() * a.strides[:, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.logits, b.logits)
    box_towers = [plain.box_tower(x) for x in maps]
    torch.testing.assert_close(b.centerness, rows([plain.centerness(x) for x in box_towers])[..., 0])
    assert not torch.allclose(a.centerness, b.centerness)
    second = plain.distances(box_towers[1]) * 2
    torch.testing.assert_close(raw[:, 64:80], rows([second]), rtol=1e-4, atol=1e-4)


def test_every_class_starts_at_its_prior() -> None:
    logits = small_network(prior=0.2)(some_images(1), torch.tensor([[64, 96]])).logits
    assert logits.sigmoid().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_prior_without_a_logit_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match=f"prior={prior}: expected 0 < prior < 1"):
        small_network(prior=prior)


def test_towers_without_norm_have_only_convolutions() -> None:
    layers = [type(layer) for layer in head(head_norm=None).class_tower]
    assert layers == [nn.Conv2d, nn.ReLU] * 4
    with pytest.raises(ValueError, match="head_norm=bn: expected gn or null"):
        head(head_norm="bn")


@pytest.mark.parametrize("normalize_targets", [False, True])
def test_a_batch_of_empty_images_reaches_every_trained_parameter(normalize_targets: bool) -> None:
    network = small_network(normalize_targets=normalize_targets, p6_from="c5").train()
    outputs = network(some_images(2), torch.tensor([[64, 96], [50, 60]]))
    losses = FCOSLoss()(outputs, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    assert all(v.isfinite() for v in losses.values())
    assert trained["backbone.layer2.0.conv1.weight"].grad is not None
    assert trained["backbone.layer2.0.conv1.weight"].grad.abs().sum() > 0


def test_batched_equals_single_on_the_same_canvas() -> None:
    network = small_network().eval()
    images, sizes = some_images(3), torch.tensor([[64, 96], [40, 96], [64, 33]])
    with torch.no_grad():
        for layer in (network.head.logits, network.head.centerness):
            nn.init.normal_(layer.weight, std=0.3)
        together = network(images, sizes)
        decode = FCOSDecoder(score_threshold=0.02)
        detections = decode(together, sizes)
        assert (detections.labels >= 0).any(dim=1).all()
        for i in range(3):
            alone = network(images[i : i + 1], sizes[i : i + 1])
            for name in ("logits", "distances", "centerness"):
                torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[i], rtol=1e-4, atol=1e-4)
            single = decode(alone, sizes[i : i + 1])
            torch.testing.assert_close(single.scores[0], detections.scores[i], rtol=1e-4, atol=1e-4)


def test_the_contents_of_the_padding_do_not_matter() -> None:
    network = small_network().eval()
    images, sizes = some_images(1), torch.tensor([[40, 70]])
    cleaned = images.clone()
    cleaned[:, :, 40:], cleaned[:, :, :, 70:] = 0, 255
    with torch.no_grad():
        torch.testing.assert_close(network(images, sizes).logits, network(cleaned, sizes).logits)


def test_autocast_keeps_distances_in_float32() -> None:
    network = small_network().eval()
    images, sizes = some_images(1), torch.tensor([[64, 96]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = network(images, sizes)
    assert half.logits.dtype == torch.bfloat16
    assert half.distances.dtype == half.points.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(half.distances, network(images, sizes).distances, rtol=0.05, atol=0.05)


def test_channels_last_changes_nothing() -> None:
    network = small_network().eval()
    images, sizes = some_images(2), torch.tensor([[64, 96], [64, 96]])
    with torch.no_grad():
        expected = network(images, sizes)
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        ours = network(images.contiguous(memory_format=torch.channels_last), sizes)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.distances, expected.distances, rtol=1e-4, atol=1e-4)
