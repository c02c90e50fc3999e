"""Measures time on a device, the spread of many rounds, and the rate of matrix products."""

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LEAST = 5
"""Rounds that are measured whatever the time limit."""
_SIDE = {"cuda": 8192}
"""Rows and columns of the matrices by which a device's rate is measured; 2048 elsewhere."""
_PRODUCTS = 10
_WARM_UP = 0.3
"""Seconds before the first product that counts, in which clock rates rise."""


class Clock:
    """Moments in the work of one device.

    On CUDA a moment is an event in its stream, which waits for nothing: more work is queued meanwhile,
    as in training. Elsewhere it is the time when everything before it is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> Any:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        self.wait()
        return time.perf_counter()

    def wait(self) -> None:
        """Waits until the device has finished all queued work."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def ms(self, start: Any, end: Any) -> float:
        """Computes the milliseconds between two moments; waits for the second."""
        if self.device.type == "cuda":
            end.synchronize()
            return float(start.elapsed_time(end))
        return 1000 * float(end - start)


@dataclass
class Limit:
    """The end of a measurement: after `rounds` rounds or `seconds` seconds, though not before `LEAST` rounds."""

    rounds: int
    seconds: float
    _end: float = 0.0

    def start(self) -> None:
        self._end = time.perf_counter() + self.seconds

    def reached(self, rounds: int) -> bool:
        return rounds >= self.rounds or (rounds >= LEAST and time.perf_counter() > self._end)


def spread(values: Iterable[float]) -> dict[str, float]:
    """Computes median, 95th percentile and number of some rounds."""
    found = np.array(list(values))
    return {"median": float(np.median(found)), "p95": float(np.percentile(found, 95)), "n": len(found)}


def matrix_rate(device: torch.device, precision: str) -> dict[str, Any]:
    """Measures 10^9 operations a second (two for a multiply-add) in the fastest of some products of square matrices.

    In the type that convolutions have under `precision`, which is the Trainer's. On CUDA float32 convolutions are
    TensorFloat-32 unless `torch.backends.cudnn.allow_tf32` is off, so the product is too.
    """
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)
    side, clock = _SIDE.get(device.type, 2048), Clock(device)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    times: list[float] = []
    begin = time.perf_counter()
    with _tf32_as_convolutions(device, dtype) as is_tf32:
        while len(times) < _PRODUCTS:
            clock.wait()
            start = clock.now()
            torch.mm(a, b, out=out)
            ms = clock.ms(start, clock.now())
            if time.perf_counter() - begin > _WARM_UP:
                times.append(ms)
    return {
        "gflops_per_s": 2 * side**3 / min(times) / 1e6,
        "side": side,
        "dtype": "tf32" if is_tf32 else str(dtype).removeprefix("torch."),
        "best_of": _PRODUCTS,
    }


@contextmanager
def _tf32_as_convolutions(device: torch.device, dtype: torch.dtype) -> Generator[bool]:
    """Sets matrix products to TensorFloat-32 where convolutions use it; yields whether they do."""
    if device.type != "cuda" or dtype != torch.float32 or not torch.backends.cudnn.allow_tf32:
        yield False
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield torch.cuda.get_device_capability(device) >= (8, 0)
    finally:
        torch.set_float32_matmul_precision(before)
