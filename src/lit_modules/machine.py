"""Precision, devices, versions and memory of the machine that a run is on."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch


def memory_mb(device: torch.device) -> float:
    """Measures the peak memory so far in 2^20 bytes: tensors on a device, the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def choose_precision(asked: str | None, accelerator: str) -> str:
    """Chooses bf16-mixed where the hardware multiplies in bf16 natively, else 32-true, if `asked` is None;
    else what was asked for.

    The config check lets no `bf16-true` and `16-true` pass, which would round the boxes themselves.
    """
    if asked is not None:
        return asked
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    native = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return "bf16-mixed" if native and accelerator in ("auto", "cpu") else "32-true"


def environment() -> dict[str, str]:
    """Lists versions, and the commit of this code, marked if files differ from it."""
    names: dict[str, str] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "lightning": version("pytorch-lightning"),
        "numpy": np.__version__,
    }
    if torch.version.cuda and torch.cuda.is_available():
        names["cuda"] = torch.version.cuda
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], stderr=subprocess.DEVNULL, text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], stderr=subprocess.DEVNULL, text=True)
        names["commit"] = commit.strip() + (" (changed)" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        names["commit"] = "unknown"
    return names


def device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
