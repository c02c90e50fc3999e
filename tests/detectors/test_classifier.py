"""The classifier compared with torchvision's, and its loss compared with a hand calculation."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchvision import models

from detectors.backbones.base import Backbone
from detectors.backbones.mobilenet import MobileNetV2
from detectors.backbones.resnet import ResNet
from detectors.classifier import Classifier, classification_loss, top_classes


def pair(name: str) -> tuple[nn.Module, Backbone, nn.Linear]:
    """Builds torchvision's classifier with non-trivial statistics, our backbone, and the last layer."""
    torch.manual_seed(0)
    theirs = (models.resnet18 if name == "resnet18" else models.mobilenet_v2)(weights=None, num_classes=7)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.running_mean, std=0.1)
    options = {"weights": None, "norm": "bn", "frozen_stages": 0}
    if name == "resnet18":
        return theirs.eval(), ResNet(18, **options), theirs.fc  # pyright: ignore[reportArgumentType]
    return theirs.eval(), MobileNetV2(**options), theirs.classifier[1]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_logits_are_those_of_torchvision(name: str) -> None:
    theirs, backbone, linear = pair(name)
    ours = Classifier(backbone, 7).eval()
    ours.backbone.load_state_dict(
        theirs.state_dict() | {k: v for k, v in backbone.state_dict().items() if "pixel" in k}, strict=False
    )
    ours.linear.load_state_dict(linear.state_dict())
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    x = (images / 255 - backbone.pixel_mean[:, None, None]) / backbone.pixel_std[:, None, None]
    with torch.no_grad():
        found = ours(images, torch.tensor([[64, 64]] * 2))
        torch.testing.assert_close(found, theirs(x), rtol=1e-4, atol=1e-4)
    assert found.std() > 0.01


def test_the_loss_is_the_mean_of_minus_log_of_the_right_class() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]))
    assert classification_loss(logits, torch.tensor([0, 2]))["loss_cls"].item() == pytest.approx(
        -(math.log(0.7) + math.log(0.3)) / 2
    )


def test_an_image_without_label_is_ignored() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = classification_loss(logits, torch.tensor([1, -1, 3]))["loss_cls"]
    torch.testing.assert_close(loss, classification_loss(logits[[0, 2]], torch.tensor([1, 3]))["loss_cls"])
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1].eq(0).all()
    nothing = classification_loss(logits, torch.tensor([-1, -1, -1]))["loss_cls"]
    assert nothing.item() == 0
    nothing.backward()  # the gradient exists all the same


def test_the_loss_is_taken_in_float32_also_under_autocast() -> None:
    logits = torch.tensor([[3.0, 1.0], [100.0, 99.5]])
    with torch.autocast("cpu", torch.bfloat16):
        found = classification_loss(logits.bfloat16(), torch.tensor([0, 1]))["loss_cls"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, classification_loss(logits, torch.tensor([0, 1]))["loss_cls"])


def test_classes_are_ranked_by_falling_logit_and_equal_ones_by_label() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 5.0, 5.0, 6.0]])
    assert top_classes(logits, 3).tolist() == [[1, 3, 2], [3, 0, 1]]
    assert top_classes(logits, 9).tolist() == [[1, 3, 2, 0], [3, 0, 1, 2]]


def _loss_of_rank(rank: int, folder: Path, logits: Tensor, labels: Tensor) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    part = slice(0, 1) if rank == 0 else slice(1, None)
    mine = logits[part].clone().requires_grad_()
    loss = classification_loss(mine, labels[part])["loss_cls"]
    loss.backward()
    torch.save((loss.detach(), mine.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_unequal_shares_take_the_step_of_one_rank(tmp_path: Path) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5), torch.tensor([-1, 0, 3, 4])  # the first rank has no label
    mp.spawn(_loss_of_rank, (tmp_path, logits, labels), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    (first, grad), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    whole = logits.clone().requires_grad_()
    loss = classification_loss(whole, labels)["loss_cls"]
    loss.backward()
    torch.testing.assert_close((first + second) / 2, loss.detach())
    torch.testing.assert_close(torch.cat((grad, other)) / 2, whole.grad)
