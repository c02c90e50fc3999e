"""Compare a training step of each detector with torchvision's on the same weights, images and boxes.

    python measurements/training.py [--models retinanet fcos] [--sizes 320 640] [--rounds 5] [--json FILE]
    python measurements/training.py --device cuda --canvas 800x1344 --batch 16 [--compile]
    python measurements/training.py --memory [--models ..] [--sizes ..]

A step is forward, losses, backward and SGD with momentum on a ResNet-50 with a pyramid, frozen batch norm and three
stages that train; images are noise at their final size. Cases take turns in one process; the ratio is the median over
the rounds of torchvision's time by ours. torchvision runs as its reference scripts have it, in float32 (on a GPU also
under autocast to fp16, their `--amp`), and in bf16 with channels_last, which is its fastest; ours runs as `train.py`
does, in channels_last.
`--memory` prints peak memory; on a CPU each case has a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pairs import MODELS, Pair, as_torchvision, by_turns, make_batch, make_pair, synchronize, times_faster, versions

from datamodules.batch import Batch
from lit_modules.callbacks.compiled import Compiled
from lit_modules.detection_module import DetectionModule

RATE = 1e-5
"""So low that the random weights hardly change."""
NO_TRAINER: Any = None
OURS = {"float32": torch.float32, "bf16": torch.bfloat16}
THEIRS = {
    "torchvision float32": (torch.float32, False),
    "torchvision bf16 channels_last": (torch.bfloat16, True),
}
GPU_THEIRS = {"torchvision fp16 --amp": (torch.float16, False), "torchvision fp16 channels_last": (torch.float16, True)}


def our_step(
    module: DetectionModule, batch: Batch, precision: torch.dtype, compiled: bool = False
) -> Callable[[], torch.Tensor]:
    device = batch.images.device
    module.network.to(device, memory_format=torch.channels_last)
    module.train()
    optimizer = module.make_optimizer(module.network, RATE)
    callback = Compiled()
    if compiled:
        callback.on_fit_start(NO_TRAINER, module)

    def step() -> torch.Tensor:
        if compiled:
            callback.on_train_batch_start(NO_TRAINER, module, batch, 0)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = torch.stack(list(module.losses(module.forward_batch(batch), batch).values())).sum()
        if compiled:
            callback.on_before_backward(NO_TRAINER, module, loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def their_step(
    pair: Pair, batch: Batch, precision: torch.dtype, channels_last: bool, name: str
) -> Callable[[], torch.Tensor]:
    model, device = pair.theirs.to(batch.images.device).train(), batch.images.device
    if channels_last:
        model.to(memory_format=torch.channels_last)
        together = model.transform.batch_images
        model.transform.batch_images = lambda *x, **y: together(*x, **y).contiguous(memory_format=torch.channels_last)
    images, targets = as_torchvision(batch, int(name == "faster_rcnn"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)

    def step() -> torch.Tensor:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def case(name: str, which: str, size: int, batch: Batch, options: argparse.Namespace) -> Callable[[], Any]:
    pair = make_pair(name, options.classes, size)
    if which.startswith("ours"):
        kind = which.removeprefix("ours ").removesuffix(" compiled")
        return our_step(pair.ours, batch, OURS[kind], which.endswith("compiled"))
    precision, channels_last = (THEIRS | GPU_THEIRS)[which]
    return their_step(pair, batch, precision, channels_last, name)


def names_of_cases(options: argparse.Namespace) -> list[str]:
    ours = [f"ours {kind}" for kind in OURS] + (["ours bf16 compiled"] if options.compile else [])
    return [*ours, *THEIRS, *(GPU_THEIRS if options.device == "cuda" else ())]


def canvas_of(size: int, options: argparse.Namespace) -> tuple[int, int]:
    if options.canvas is None:
        return size, size
    height, width = options.canvas.split("x")
    return int(height), int(width)


def measure(name: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    canvas = canvas_of(size, options)
    batch = make_batch(options.batch, canvas, options.boxes, options.classes, device)
    cases = {which: case(name, which, min(canvas), batch, options) for which in names_of_cases(options)}
    seconds = by_turns(cases, options.rounds, device, options.warm_up)
    fastest = {}
    others = [which for which in cases if not which.startswith("ours")] + (["ours bf16"] if options.compile else [])
    for mine in (which for which in cases if which.startswith("ours")):
        fastest[mine] = {other: times_faster(seconds, mine, other) for other in others}
    return {"model": name, "canvas": canvas, "batch": options.batch, "seconds": seconds, "times": fastest}


def show(row: dict[str, Any]) -> None:
    height, width = row["canvas"]
    print(f"\n{row['model']}, {row['batch']} images of {height} x {width}\n")
    others = list(next(iter(row["times"].values())))
    print("| | ms a step | images/s | " + " | ".join(f"by {name}" for name in others) + " |")
    print("|---|" + "---|" * (2 + len(others)))
    for name, seconds in row["seconds"].items():
        middle = statistics.median(seconds)
        ratios = [f"{row['times'][name][other]:.2f}" if name in row["times"] else "" for other in others]
        print(f"| {name} | {1000 * middle:.0f} | {row['batch'] / middle:.2f} | {' | '.join(ratios)} |", flush=True)


def peak_memory(name: str, which: str, size: int, options: argparse.Namespace) -> float:
    """Peak memory of steps in MiB above that before the first step; on CUDA, all that is allocated."""
    device = torch.device(options.device)
    canvas = canvas_of(size, options)
    batch = make_batch(options.batch, canvas, options.boxes, options.classes, device)
    step = case(name, which, min(canvas), batch, options)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = resident("VmRSS")
    for _ in range(3):
        step()
    synchronize(device)
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident("VmHWM") - before


def resident(key: str) -> float:
    """Resident memory of this process in MiB, as Linux reports it."""
    lines = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm")
    )
    return int(lines[key].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[320, 640])
    parser.add_argument("--canvas", help="HEIGHTxWIDTH instead of squares")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--classes", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also ours under torch.compile")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = [0] if options.canvas else options.sizes
    if options.one:
        print(peak_memory(options.models[0], options.one, sizes[0], options))
        return
    print(versions(torch.device(options.device)))
    rows = []
    for name in options.models:
        for size in sizes:
            if options.memory:
                own = {"model": name, "size": size, "MiB": {}}
                for which in names_of_cases(options):
                    again = [*sys.argv, "--one", which, "--models", name, "--sizes", str(size)]
                    own["MiB"][which] = float(subprocess.check_output([sys.executable, *again], text=True))
                print(own, flush=True)
                rows.append(own)
            else:
                rows.append(measure(name, size, options))
                show(rows[-1])
    if options.json:
        options.json.write_text(json.dumps({**versions(torch.device(options.device)), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
