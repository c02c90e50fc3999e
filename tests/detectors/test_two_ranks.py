"""Two gloo ranks in one pair of processes: means over ranks, the losses' normalisers, and SyncBatchNorm."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import fcos_cases
import retinanet_cases
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from faster_rcnn_cases import of_images, proposals_of, random_boxes, random_region_outputs, random_rpn_outputs
from torch import Tensor, nn

from detectors.backbones.norms import SyncBatchNorm
from detectors.faster_rcnn import RegionLoss, RegionOutputs, RegionSampler
from detectors.fcos import FCOSLoss
from detectors.losses import mean_over_ranks
from detectors.retinanet import RetinaNetLoss
from detectors.rpn import AnchorSampler, RPNLoss, RPNOutputs


def _losses(part: slice) -> dict[str, Tensor]:
    """Losses of a batch of two images, or of one of them, for each detector, and all gradients.

    The second image has no object, so that a rank with it alone has no positive, and must still take part.
    """
    boxes, labels = fcos_cases.random_truth(2, 4, 3)
    boxes[1], labels[1] = 0, -1
    results: dict[str, Tensor] = {}
    seeds = (3, 4)[part]

    def proposing(outputs: RPNOutputs, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The first image has fewer anchors than the requested number of samples, since some are ignored."""
        sample = AnchorSampler(num_samples=4000)
        return RPNLoss()(outputs, sample(outputs, boxes, labels, torch.full((len(boxes), 2), 128), seeds))

    def refining(outputs: RegionOutputs, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The second image has fewer proposals than the requested number of samples."""
        both = proposals_of(random_boxes(40), random_boxes(10, seed=1))
        own = of_images(both, part)
        return RegionLoss()(outputs, RegionSampler(num_samples=16)(own, boxes, labels, seeds))

    kinds: list[tuple[Any, Any]] = [
        (FCOSLoss(), fcos_cases.random_outputs(2, 3)),
        (RetinaNetLoss(), retinanet_cases.random_outputs(2, 3)),
        (RetinaNetLoss(box_loss="giou"), retinanet_cases.random_outputs(2, 3)),
        (proposing, random_rpn_outputs(2)),
        (refining, random_region_outputs(2, 16, 3)),
    ]
    for number, (loss, outputs) in enumerate(kinds):
        leaves = {k: v[part].detach().requires_grad_() for k, v in vars(outputs).items() if _is_leaf(v)}
        losses = loss(replace(outputs, **leaves), boxes[part], labels[part])
        torch.stack(list(losses.values())).sum().backward()
        results |= {f"{number} {name}": value.detach() for name, value in losses.items()}
        results |= {f"{number} grad {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return results


def _is_leaf(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _norm_and_input() -> tuple[SyncBatchNorm, Tensor]:
    torch.manual_seed(0)
    norm = SyncBatchNorm(3)
    nn.init.normal_(norm.weight)
    return norm, torch.randn(4, 3, 5, 5) * 3 + 7


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results: dict[str, object] = {"mean": mean_over_ranks(torch.tensor([1.0, 10.0]) * (rank + 1))}
    if rank == 0:  # called on one rank only: would wait forever if it communicated
        with torch.no_grad():
            results["alone"] = mean_over_ranks(torch.tensor([5.0]))

    results["losses"] = _losses(slice(rank, rank + 1))

    norm, x = _norm_and_input()
    share = (x[:1], x[1:])[rank].requires_grad_()  # unequal shares
    y = norm(share)
    (y**3).sum().backward()
    results |= {"y": y.detach(), "dx": share.grad, "dw": norm.weight.grad}
    results |= {"running": (norm.running_mean, norm.running_var)}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(_rank, (tmp_path,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))

    assert first["mean"].tolist() == second["mean"].tolist() == [1.5, 15.0]
    assert first["alone"].tolist() == [5.0]

    whole = _losses(slice(2))
    assert len(whole) == 3 + 3 + 4 * (2 + 2)
    for name, expected in whole.items():
        # each rank divides by the mean over ranks, so the mean of their losses is the loss of both
        a, b = first["losses"][name], second["losses"][name]
        torch.testing.assert_close(torch.cat((a, b)) / 2 if "grad" in name else (a + b) / 2, expected)

    norm, x = _norm_and_input()
    plain = nn.BatchNorm2d(3)
    plain.load_state_dict(norm.state_dict())
    x.requires_grad_()
    y = plain(x)
    (y**3).sum().backward()
    torch.testing.assert_close(torch.cat((first["y"], second["y"])), y.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat((first["dx"], second["dx"])), x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first["dw"] + second["dw"], plain.weight.grad, rtol=1e-4, atol=1e-4)
    for rank in (first, second):
        torch.testing.assert_close(rank["running"], (plain.running_mean, plain.running_var))
