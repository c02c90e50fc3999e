"""Ends a run whose loss is not finite, and masks out that step's update until the host knows."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from datamodules.batch import Batch


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; names the step, its images and each part."""


class Flags(NamedTuple):
    """Whether a step's loss is finite and whether a rank has to stop, the same on every rank."""

    on_device: Tensor
    """float32 (2,): 1 where the loss is not finite, 1 where a rank has to stop."""
    on_host: Tensor
    copied: torch.cuda.Event | None
    """The moment from which `on_host` holds them."""
    parts: dict[str, Tensor]
    batch: Batch
    where: str

    def read(self) -> tuple[bool, bool]:
        """Reads whether the loss is bad and whether to stop; waits for the copy alone."""
        if self.copied is not None:
            self.copied.synchronize()
        bad, stop = cast("list[float]", self.on_host.tolist())  # pyright: ignore[reportUnknownMemberType]
        return bool(bad), bool(stop)

    def mask_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sets all gradients to zero where the loss is bad, without waiting for the device."""
        bad = self.on_device[0] > 0
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(bad, 0.0)

    def error(self, file: Path, rates: Iterable[float], rank: int) -> NonFiniteLossError:
        """Makes the error that names the step, and saves its batch in `file`."""
        ids = [info.image_id for info in self.batch.infos]
        rate = ", ".join(sorted({f"{rate:.3g}" for rate in rates}))
        return NonFiniteLossError(
            f"the loss is not finite at {self.where}, rate {rate}: "
            + ", ".join(f"{name} = {value.item():.6g}" for name, value in self.parts.items())
            + f"; images {ids} (rank {rank}). {self._save(file)}; no checkpoint was written after this step. Lower "
            "model.lr, lengthen schedule.warmup_steps, or set trainer.gradient_clip_val; look at the images' boxes "
            "when it comes back at the same ones."
        )

    def _save(self, file: Path) -> str:
        batch = self.batch
        content = {"images": batch.images.cpu(), "sizes": batch.sizes.cpu(), "boxes": batch.boxes.cpu(),
                   "labels": batch.labels.cpu(), "image_ids": [i.image_id for i in batch.infos]}  # fmt: skip
        try:
            torch.save(content, file)
        except (OSError, RuntimeError) as error:  # a full disk must not hide the reason
            return f"The batch could not be saved in {file} ({error})"
        return f"The batch is saved in {file}"


def raise_flags(total: Tensor, losses: dict[str, Tensor], batch: Batch, where: str, stop: bool) -> Flags:
    """Agrees over ranks whether the loss is finite and whether to stop, without waiting for the device.

    From a device the flags are copied while the step continues and read at the start of the next step, the gradients of
    this one being masked in the meantime: they are copied before the backward pass, in which the device is still busy
    then.
    """
    asked = torch.full_like(total, float(stop), dtype=torch.float32)
    flags = torch.stack([(~torch.isfinite(total.detach())).float(), asked])
    if dist.is_initialized():
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    host, copied = flags.to("cpu", non_blocking=flags.is_cuda), None
    if flags.is_cuda:
        copied = torch.cuda.Event()
        copied.record()
    return Flags(flags, host, copied, {name: value.detach() for name, value in losses.items()}, batch, where)


def refuse_infinite_weights(network: nn.Module, step: int) -> None:
    """Raises NonFiniteLossError where a weight is not finite: a finite loss can have a gradient that is not."""
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in network.parameters()])
    if finite.all():
        return
    names = [name for (name, _), good in zip(network.named_parameters(), finite, strict=True) if not good]
    raise NonFiniteLossError(
        f"{len(names)} weights are not finite at step {step}, the first of them {names[0]}: not saved. Continue from "
        "the last checkpoint with trainer.gradient_clip_val, or start anew with a lower model.lr"
    )
