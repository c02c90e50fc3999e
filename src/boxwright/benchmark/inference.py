"""Times an evaluation: the network and the decoding of its outputs, separately."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from boxwright.benchmark.clock import Clock, Limit, spread
from boxwright.benchmark.data import canvases
from datamodules.batch import Batch
from lit_modules.detection_module import DetectionModule
from lit_modules.flops import counter
from lit_modules.training_module import TrainingModule


class _Round(NamedTuple):
    batch: int
    start: Any
    network: Any
    end: Any


def measure_inference(
    module: TrainingModule, trainer: pl.Trainer, batches: list[Batch], warmup: int, limit: Limit
) -> dict[str, Any]:
    """Times `module.network` and all that follows it in `forward_batch` and `evaluate_batch`, per image of a batch.

    It runs as an evaluation does, in its precision; images start on the device, and detections end on the host.
    """
    device = trainer.strategy.root_device
    clock, precision = Clock(device), _precision(trainer)
    module.to(device).eval()
    batches = [batch.to(device) for batch in batches]

    def once(at: int) -> _Round:
        clock.wait()
        start = clock.now()
        network = _evaluate(module, precision, batches[at], clock.now)
        return _Round(at, start, network, clock.now())

    rounds: list[_Round] = []
    with torch.inference_mode():
        counted = [_operations(module, precision, batch) for batch in batches]
        numbers = [_number_found(module, precision, batch) for batch in batches]
        for number in range(max(warmup, len(batches))):
            once(number % len(batches))
        limit.start()
        while not limit.reached(len(rounds)):
            rounds.append(once(len(rounds) % len(batches)))
    images = [len(batch.images) for batch in batches]
    operations = {
        "network": [network for network, _ in counted],
        "decoding": [both - network for network, both in counted],
        "total": [both for _, both in counted],
    }

    def per_image(first: str, last: str) -> list[float]:
        return [clock.ms(getattr(one, first), getattr(one, last)) / images[one.batch] for one in rounds]

    ends = {"network": ("start", "network"), "decoding": ("network", "end"), "total": ("start", "end")}
    times = {part: per_image(*moments) for part, moments in ends.items()}
    figures: dict[str, Any] = {
        "batch": images[0],
        "canvases": canvases(batches),
        **{f"{part}_ms": spread(found) for part, found in times.items()},
        "images_per_s": 1000 / statistics.median(times["total"]),
        "detections_per_image": sum(numbers) / sum(images) if isinstance(module, DetectionModule) else None,
    }
    for part, of_batch in operations.items():
        gflops = [of_batch[one.batch] / images[one.batch] / 1e9 for one in rounds]
        figures[f"{part}_gflops"] = statistics.median(gflops)
        rates = [1000 * number / ms for number, ms in zip(gflops, times[part], strict=True)]
        figures[f"{part}_gflops_per_s"] = statistics.median(rates)
    return figures


def _precision(trainer: pl.Trainer) -> Callable[[], Any]:
    """Gives the precision context of the Trainer's evaluations."""
    plugin: Any = trainer.precision_plugin
    return plugin.val_step_context


def _evaluate(module: TrainingModule, precision: Callable[[], Any], batch: Batch, read: Callable[[], Any]) -> Any:
    """Evaluates a batch; returns the value of `read` at the end of the network."""
    at_end: list[Any] = []

    def note(*_: object) -> None:
        at_end.append(read())

    hook = module.network.register_forward_hook(note)
    try:
        with precision():
            module.evaluate_batch(module.forward_batch(batch), batch)
    finally:
        hook.remove()
    (found,) = at_end
    return found


def _operations(module: TrainingModule, precision: Callable[[], Any], batch: Batch) -> tuple[int, int]:
    """Counts the floating-point operations of the network, and of network and decoding."""
    with counter() as counted:
        network = _evaluate(module, precision, batch, counted.get_total_flops)
    return network, counted.get_total_flops()


def _number_found(module: TrainingModule, precision: Callable[[], Any], batch: Batch) -> int:
    if not isinstance(module, DetectionModule):
        return 0
    with precision():
        return int((module.detect(module.forward_batch(batch), batch).labels >= 0).sum())
