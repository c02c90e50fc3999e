import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.anchors import RETINANET, Anchors
from detectors.backbones.norms import GroupNorm
from detectors.backbones.resnet import ResNet
from detectors.retinanet import BOX_LOSSES, RetinaNet, RetinaNetDecoder, RetinaNetHead, RetinaNetLoss


def small_network(anchors: Anchors = RETINANET, **options: Any) -> RetinaNet:
    torch.manual_seed(0)
    backbone = ResNet(18, weights=None, norm="gn", frozen_stages=2)
    options = {"pyramid_channels": 64, "num_convs": 2} | options
    return RetinaNet(backbone, 3, anchors, **options)


def some_images(num: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.randint(256, (num, 3, height, width), generator=torch.manual_seed(1), dtype=torch.uint8)


def head(channels: int = 64, classes: int = 4, **options: Any) -> RetinaNetHead:
    return RetinaNetHead(channels, classes, 9, **{"num_convs": 4, "head_norm": None, "prior": 0.01} | options)


def test_rows_go_cell_by_cell_and_in_a_cell_anchor_by_anchor() -> None:
    """The head has no towers and outputs 100 times the number of the cell, plus that of its channel."""
    plain = head(channels=1, classes=2, num_convs=0)
    with torch.no_grad():
        for layer in (plain.logits, plain.deltas):
            layer.weight.zero_()
            layer.weight[:, 0, 1, 1] = 100.0
            assert layer.bias is not None
            layer.bias.copy_(torch.arange(len(layer.bias)))
    fine, coarse = torch.arange(6.0).reshape(1, 1, 2, 3), torch.arange(2.0).reshape(1, 1, 1, 2)
    logits, deltas = plain([fine, coarse])
    for level, cells in enumerate((6, 2)):
        expected = 100 * torch.arange(cells)[:, None, None]
        assert torch.equal(logits[level][0], (expected + torch.arange(18).reshape(9, 2)).flatten(0, 1).float())
        assert torch.equal(deltas[level][0], (expected + torch.arange(36).reshape(9, 4)).flatten(0, 1).float())


@pytest.mark.parametrize(("level", "row", "column"), [(0, 1, 2), (0, 8, 12), (1, 4, 0), (2, 2, 3), (4, 0, 0)])
def test_the_outputs_of_a_cell_belong_to_the_anchors_around_it(level: int, row: int, column: int) -> None:
    """The canvas is not divisible by the larger strides."""
    plain = head(channels=1, classes=2, num_convs=0)
    maps = [torch.zeros(1, 1, math.ceil(72 / stride), math.ceil(104 / stride)) for stride in RETINANET.strides]
    maps[level][0, 0, row, column] = 1
    with torch.no_grad():
        plain.logits.weight.zero_()
        plain.logits.weight[:, 0, 1, 1] = 1
        logits = torch.cat(plain(maps)[0], dim=1)
    grid = RETINANET.grid((72, 104))
    assert len(grid) == logits.shape[1]
    there = grid[logits[0].amax(dim=1) == logits.amax()]
    stride = RETINANET.strides[level]
    centre = torch.tensor([(column + 0.5) * stride, (row + 0.5) * stride])
    torch.testing.assert_close((there[:, :2] + there[:, 2:]) / 2, centre.expand(9, 2), rtol=1e-5, atol=1e-4)
    sides = (there[:, 2:] - there[:, :2]).prod(dim=1).sqrt()
    assert sides.tolist() == pytest.approx(list(RETINANET.sizes[level]) * 3, rel=1e-4)


@pytest.mark.parametrize("canvas", [(64, 96), (128, 128), (96, 160)])
def test_every_anchor_of_the_canvas_has_outputs(canvas: tuple[int, int]) -> None:
    outputs = small_network().eval()(some_images(2, *canvas), torch.tensor([canvas] * 2))
    num_anchors = len(RETINANET.grid(canvas))
    assert outputs.logits.shape == (2, num_anchors, 3)
    assert outputs.deltas.shape == (2, num_anchors, 4)
    assert torch.equal(outputs.anchors, RETINANET.grid(canvas))
    assert outputs.level_sizes == tuple(
        9 * math.ceil(canvas[0] / stride) * math.ceil(canvas[1] / stride) for stride in RETINANET.strides
    )


def test_the_head_starts_as_in_the_paper() -> None:
    """Section 4.1: normal weights of deviation 0.01, no bias, except that each class begins at its prior."""
    torch.manual_seed(0)
    ours = head(prior=0.02)
    for name, value in ours.state_dict().items():
        mean = -math.log(0.98 / 0.02) if name == "logits.bias" else 0.0
        assert value.mean().item() == pytest.approx(mean, abs=1e-3), name
        deviation = 0.01 if name.endswith("weight") else 0.0
        assert value.std(correction=0).item() == pytest.approx(deviation, abs=1e-3), name


def test_every_class_starts_at_its_prior() -> None:
    logits = small_network(prior=0.2)(some_images(1), torch.tensor([[64, 96]])).logits
    assert logits.sigmoid().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_prior_without_a_logit_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match=f"prior={prior}: expected 0 < prior < 1"):
        small_network(prior=prior)


def test_towers_are_convolutions_and_group_norms_where_asked_for() -> None:
    assert [type(layer) for layer in head().class_tower] == [nn.Conv2d, nn.ReLU] * 4
    with_norm = head(head_norm="gn", num_convs=2)
    for tower in (with_norm.class_tower, with_norm.box_tower):
        assert [type(layer) for layer in tower] == [nn.Conv2d, GroupNorm, nn.ReLU] * 2
    with pytest.raises(ValueError, match="head_norm=bn: expected gn or null"):
        head(head_norm="bn")


def test_classes_and_boxes_have_towers_of_their_own() -> None:
    ours = head()
    maps = [torch.randn(1, 64, 2, 2, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        for tower, changed in ((ours.class_tower, 0), (ours.box_tower, 1)):
            before = ours(maps)
            last = tower[-2]
            assert isinstance(last, nn.Conv2d)
            nn.init.normal_(last.weight, std=1.0)
            after = ours(maps)
            assert not torch.equal(before[changed][0], after[changed][0])
            assert torch.equal(before[1 - changed][0], after[1 - changed][0])


@pytest.mark.parametrize(("p6_from", "channels"), [("c5", 512), ("p5", 64)])
def test_p6_is_made_from_c5_by_default(p6_from: str, channels: int) -> None:
    assert small_network(p6_from=p6_from).pyramid.p6.in_channels == channels
    assert small_network().pyramid.p6.in_channels == 512


def test_anchors_of_other_strides_are_refused() -> None:
    anchors = Anchors((4, 8, 16, 32, 64), RETINANET.sizes)
    with pytest.raises(ValueError, match=r"strides \(4, 8, 16, 32, 64\): expected .* \(8, 16, 32, 64, 128\)"):
        small_network(anchors)


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_a_batch_of_empty_images_reaches_every_trained_parameter(box_loss: str, p6_from: str) -> None:
    network = small_network(p6_from=p6_from, head_norm="gn").train()
    outputs = network(some_images(2), torch.tensor([[64, 96], [50, 60]]))
    losses = RetinaNetLoss(box_loss=box_loss)(outputs, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    assert all(v.isfinite() for v in losses.values())
    first = trained["backbone.layer2.0.conv1.weight"].grad
    assert first is not None
    assert first.abs().sum() > 0


@pytest.mark.parametrize("fast", [False, True])
def test_batched_equals_single_on_the_same_canvas(fast: bool) -> None:
    network = small_network().eval()
    images, sizes = some_images(3), torch.tensor([[64, 96], [40, 96], [64, 33]])
    with torch.no_grad():
        for layer in (network.head.logits, network.head.deltas):
            nn.init.normal_(layer.weight, std=0.3)
        together = network(images, sizes)
        decode = RetinaNetDecoder(score_threshold=0.02, top_class_only=fast)
        detections = decode(together, sizes)
        assert (detections.labels >= 0).any(dim=1).all()
        for i in range(3):
            alone = network(images[i : i + 1], sizes[i : i + 1])
            for name in ("logits", "deltas"):
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


def test_autocast_leaves_anchors_in_float32() -> None:
    network = small_network().eval()
    images, sizes = some_images(1), torch.tensor([[64, 96]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = network(images, sizes)
    assert half.logits.dtype == half.deltas.dtype == torch.bfloat16
    assert half.anchors.dtype == torch.float32
    with torch.no_grad():
        whole = network(images, sizes)
    assert torch.equal(half.anchors, whole.anchors)
    torch.testing.assert_close(half.logits.float(), whole.logits, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.deltas.float(), whole.deltas, rtol=0.05, atol=0.05)


def test_channels_last_changes_nothing() -> None:
    network = small_network().eval()
    images, sizes = some_images(2), torch.tensor([[64, 96], [64, 96]])
    with torch.no_grad():
        expected = network(images, sizes)
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        ours = network(images.contiguous(memory_format=torch.channels_last), sizes)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.deltas, expected.deltas, rtol=1e-4, atol=1e-4)
