import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torchvision
from torch import Tensor

from detectors.losses import (
    BACKGROUND,
    BOX_LOSSES,
    IGNORED,
    BoxLoss,
    fused_sigmoid_focal_loss,
    giou_loss,
    iou_loss,
    linear_iou_loss,
    mean_over_ranks,
    sigmoid_focal_loss,
)

Golden = Callable[[str], dict[str, Any]]


Focal = Callable[[Tensor, Tensor, float, float], Tensor]


@pytest.fixture(params=[sigmoid_focal_loss, fused_sigmoid_focal_loss])
def focal(request: pytest.FixtureRequest) -> Focal:
    """The plain formula, and the fused version with its explicit gradient."""
    return request.param


def test_focal_loss_of_even_odds(focal: Focal) -> None:
    # p = 1/2: the positive column costs 0.25 (1/2)^2 ln 2, the other one 0.75 (1/2)^2 ln 2
    loss = focal(torch.zeros(1, 2), torch.tensor([0]), alpha=0.25, gamma=2.0)
    assert loss.item() == pytest.approx(0.25 * math.log(2))


def test_focal_loss_of_a_background_row_is_all_negative(focal: Focal) -> None:
    loss = focal(torch.zeros(1, 2), torch.tensor([BACKGROUND]), alpha=0.25, gamma=2.0)
    assert loss.item() == pytest.approx(2 * 0.75 * 0.25 * math.log(2))


def test_focal_loss_of_an_ignored_row_is_nothing(focal: Focal) -> None:
    logits = torch.tensor([[3.0, -2.0], [1.0, 0.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([IGNORED, 0]), alpha=0.25, gamma=2.0)
    loss.backward()
    assert loss == focal(logits[1:], torch.tensor([0]), alpha=0.25, gamma=2.0) > 0
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0, 0]


def test_focal_loss_is_exact_for_extreme_logits(focal: Focal) -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([0]), alpha=0.25, gamma=2.0)
    loss.backward()
    assert loss.item() == 0.25 * 200 + 0.75 * 200
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.25, 0.75]]


@pytest.mark.parametrize("case", ["cpu_formula_float32", "cuda_kernel_normal"])
def test_focal_loss_equals_the_original(focal: Focal, golden: Golden, case: str) -> None:
    recorded = golden("fcos/focal")[case]
    logits, targets = recorded["in"]["logits"].requires_grad_(), recorded["in"]["targets"].long()
    assert (targets == -1).any()
    loss = focal(logits, targets - 1, **recorded["args"])  # ignored, background, classes: -1, 0, 1 ...
    loss.backward()
    torch.testing.assert_close(loss, recorded["out"]["sum"], rtol=1e-5, atol=0)
    torch.testing.assert_close(logits.grad, recorded["out"]["grad_of_sum"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.5), (0.3, 0.0)])
def test_focal_loss_equals_torchvision(focal: Focal, alpha: float, gamma: float) -> None:
    logits = torch.randn(3, 50, 7, dtype=torch.float64) * 4
    labels = torch.randint(-1, 7, (3, 50))
    one_hot = torch.nn.functional.one_hot(labels + 1, 8)[..., 1:].double()
    expected = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha, gamma, reduction="sum")
    torch.testing.assert_close(focal(logits, labels, alpha, gamma), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.5), (0.3, 0.0)])
def test_the_fused_focal_loss_is_the_formula(dtype: torch.dtype, alpha: float, gamma: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 500, 7, dtype=torch.float64) * 4).to(dtype)
    labels = torch.randint(IGNORED, 7, (3, 500))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = fused_sigmoid_focal_loss(ours, labels, alpha, gamma)
    expected = sigmoid_focal_loss(theirs, labels, alpha, gamma)
    torch.testing.assert_close(loss, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0)
    (2 * loss).backward()
    (2 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad is not None
    assert ours.grad.dtype == dtype


def test_box_losses_of_a_box_inside_another() -> None:
    predicted, target = torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    assert iou_loss(predicted, target).item() == pytest.approx(math.log(4))  # IoU 4 / 16
    assert linear_iou_loss(predicted, target).item() == pytest.approx(0.75)
    assert giou_loss(predicted, target).item() == pytest.approx(0.75)  # their hull is the larger one


def test_giou_loss_of_a_cross_counts_the_hull() -> None:
    # 2x6 across 6x2: intersection 4, union 20, hull 36
    predicted, target = torch.tensor([[1.0, 3.0, 1.0, 3.0]]), torch.tensor([[3.0, 1.0, 3.0, 1.0]])
    assert giou_loss(predicted, target).item() == pytest.approx(1 - 4 / 20 + 16 / 36)


def test_disjoint_boxes_do_not_overlap() -> None:
    # (1, 1, 3, 3) and (-4, -5, -2, -1) seen from the origin: areas 4 and 8, hull 7 x 8
    predicted, target = torch.tensor([[-1.0, -1.0, 3.0, 3.0]]), torch.tensor([[4.0, 5.0, -2.0, -1.0]])
    assert linear_iou_loss(predicted, target).item() == 1
    assert giou_loss(predicted, target).item() == pytest.approx(1 + (56 - 12) / 56)


def test_the_choices_of_a_config_are_the_existing_box_losses() -> None:
    assert get_args(BoxLoss) == tuple(BOX_LOSSES)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_equal_boxes_cost_nothing(name: str) -> None:
    boxes = torch.rand(9, 4) + 0.1
    assert BOX_LOSSES[name](boxes, boxes).abs().max() < 1e-6


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_losses_do_not_depend_on_the_unit(name: str) -> None:
    predicted, target = torch.rand(9, 4) * 5, torch.rand(9, 4) * 5
    torch.testing.assert_close(BOX_LOSSES[name](8 * predicted, 8 * target), BOX_LOSSES[name](predicted, target))


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_a_predicted_box_without_area_is_finite(name: str) -> None:
    predicted = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 2.0]], requires_grad=True)
    loss = BOX_LOSSES[name](predicted, torch.full((2, 4), 2.0))
    loss.sum().backward()
    assert predicted.grad is not None
    assert loss.isfinite().all()
    assert predicted.grad.isfinite().all()


def test_box_losses_equal_torchvision() -> None:
    predicted, target = torch.rand(99, 4) * 50, torch.rand(99, 4) * 50 + 0.1
    a, b = (torch.cat((-d[:, :2], d[:, 2:]), dim=1) for d in (predicted, target))
    torch.testing.assert_close(giou_loss(predicted, target), torchvision.ops.generalized_box_iou_loss(a, b))
    iou = torchvision.ops.box_iou(a, b).diagonal()
    torch.testing.assert_close(linear_iou_loss(predicted, target), 1 - iou)


def test_box_losses_of_arbitrary_boxes_equal_torchvision() -> None:
    """The point lies outside of most boxes; two in three pairs do not overlap."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 99, 2, generator=generator) * 50
    a, b = torch.cat((corner, corner + torch.rand(2, 99, 2, generator=generator) * 30), dim=-1)
    predicted, target = (torch.cat((20 - x[:, :2], x[:, 2:] - 20), dim=1) for x in (a, b))
    iou = torchvision.ops.box_iou(a, b).diagonal()
    assert (iou == 0).sum() > 50
    torch.testing.assert_close(linear_iou_loss(predicted, target), 1 - iou, rtol=1e-4, atol=1e-5)
    expected = torchvision.ops.generalized_box_iou_loss(a, b)
    torch.testing.assert_close(giou_loss(predicted, target), expected, rtol=1e-4, atol=1e-5)


def original_loss(kind: str, predicted: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """The original's formula; its `smoothing` is 1, ours is 0."""

    def area(d: Tensor) -> Tensor:
        return (d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3])

    intersection = area(torch.minimum(predicted, target))
    union = area(predicted) + area(target) - intersection
    hull = area(torch.maximum(predicted, target))
    iou = (intersection + smoothing) / (union + smoothing)
    return {"iou": -iou.log(), "linear_iou": 1 - iou, "giou": 1 - iou + (hull - union) / hull}[kind]


CASES = [
    *(f"{kind}_float32_weighted" for kind in BOX_LOSSES),
    *(f"{kind}_float64_unweighted" for kind in BOX_LOSSES),
    *(f"{kind}_float32_zero_weight" for kind in BOX_LOSSES),
    "iou_per_row_float64",
    "giou_per_row_float64",
]


@pytest.mark.parametrize("case", CASES)
def test_box_losses_equal_the_original_without_its_smoothing(golden: Golden, case: str) -> None:
    """With smoothing 1 the oracle equals the recorded original, with 0 ours."""
    recorded = golden("fcos/iou_loss")[case]
    kind, given = recorded["args"]["loss_type"], recorded["in"]
    predicted, target = given["pred"].requires_grad_(), given["target"]
    theirs = original_loss(kind, predicted, target, smoothing=1)
    if "row_loss" in recorded["out"]:
        torch.testing.assert_close(theirs, recorded["out"]["row_loss"], rtol=1e-6, atol=1e-9)
    else:
        weight = given.get("weight", torch.ones(()))
        total = (theirs * weight if weight.any() else theirs).sum()  # if all weights are zero the original uses none
        rtol, atol = (1e-4, 1e-6) if predicted.dtype == torch.float32 else (1e-6, 1e-9)
        torch.testing.assert_close(total, recorded["out"]["loss"], rtol=rtol, atol=atol)
        (grad,) = torch.autograd.grad(total, predicted)
        torch.testing.assert_close(grad, recorded["out"]["grad_pred"], rtol=rtol, atol=atol)

    overlaps = (predicted.detach() > 0).all(dim=1)  # elsewhere IoU may be 0, where ours limits the logarithm
    predicted = predicted.detach()[overlaps].requires_grad_()
    ours = BOX_LOSSES[kind](predicted, target[overlaps])
    expected = original_loss(kind, predicted, target[overlaps], smoothing=0)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), predicted), torch.autograd.grad(expected.sum(), predicted)
    )


def test_mean_over_one_rank_is_the_value_itself() -> None:
    x = torch.tensor([3.0, 4.0])
    assert mean_over_ranks(x) is x
