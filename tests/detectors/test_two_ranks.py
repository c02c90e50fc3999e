"""Two gloo ranks in one pair of processes: means over ranks, the loss's normalisers, and SyncBatchNorm."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fcos_cases import random_outputs, random_truth
from torch import Tensor, nn

from detectors.backbones import SyncBatchNorm
from detectors.fcos import FCOSLoss, FCOSOutputs
from detectors.losses import mean_over_ranks


def _part(outputs: FCOSOutputs, rank: int) -> FCOSOutputs:
    keys = ("logits", "distances", "centerness")
    return replace(outputs, **{k: getattr(outputs, k)[rank : rank + 1].detach().requires_grad_() for k in keys})


def _norm_and_input() -> tuple[SyncBatchNorm, Tensor]:
    torch.manual_seed(0)
    norm = SyncBatchNorm(3)
    nn.init.normal_(norm.weight)
    return norm, torch.randn(4, 3, 5, 5) * 3 + 7


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results: dict[str, object] = {"mean": mean_over_ranks(torch.tensor([1.0, 10.0]) * (rank + 1))}
    if rank == 0:  # alone: would wait for ever if it reduced
        with torch.no_grad():
            results["alone"] = mean_over_ranks(torch.tensor([5.0]))

    outputs = _part(random_outputs(2, 3), rank)
    boxes, labels = random_truth(2, 4, 3)
    labels[1] = -1  # the second rank has no positive at all, and still takes part
    losses = FCOSLoss()(outputs, boxes[rank : rank + 1], labels[rank : rank + 1])
    sum(losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    results |= {"losses": {k: v.detach() for k, v in losses.items()}, "grad": outputs.distances.grad}

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

    outputs = random_outputs(2, 3)
    boxes, labels = random_truth(2, 4, 3)
    labels[1] = -1
    whole = FCOSLoss()(outputs, boxes, labels)
    sum(whole.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    for name, loss in whole.items():
        # each rank divides by the mean over ranks, so the mean of their losses is the loss of both
        torch.testing.assert_close((first["losses"][name] + second["losses"][name]) / 2, loss.detach())
    assert outputs.distances.grad is not None
    torch.testing.assert_close(torch.cat((first["grad"], second["grad"])) / 2, outputs.distances.grad)

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
