"""Measure how the time of a training step grows with image size, batch, classes and boxes; fit exponents and plot.

    python measurements/scaling.py [--models fcos retinanet faster_rcnn] [--rounds 3] [--plot FILE] [--json FILE]
    python measurements/scaling.py --device cuda

Each of the four is varied alone, starting from 320 pixels, two images, 80 classes and ten boxes, on a ResNet-50 in bf16
with channels_last as `train.py` has it; the values of one take turns. Time is per image (of batches: of the whole
batch); the exponent is the slope of a straight line through the logarithms of time and of the input's size, which for
images is the number of pixels. 1 means growth in proportion; less means that a part of the time does not grow.
"""

import argparse
import gc
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import MODELS, by_turns, make_batch, our_module, versions
from training import our_step

BASE = {"size": 320, "batch": 2, "classes": 80, "boxes": 10}
VALUES = {
    "size": (320, 480, 640, 800, 1066, 1333),
    "batch": (1, 2, 4, 8),
    "classes": (3, 80, 1200),
    "boxes": (0, 10, 100, 500),
}
LABELS = {"size": "side in pixels", "batch": "images a step", "classes": "classes", "boxes": "boxes an image"}


def measure(name: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    device, steps = torch.device(options.device), {}
    for value in VALUES[what]:
        case = BASE | {what: value} | ({"batch": 1} if what == "size" else {})
        side = math.ceil(case["size"] / 32) * 32
        torch.manual_seed(0)
        module = our_module(name, case["classes"])
        batch = make_batch(case["batch"], (side, side), case["boxes"], case["classes"], device)
        steps[str(value)] = our_step(module, batch, torch.bfloat16)
    seconds = by_turns(steps, options.rounds, device, warm_up=1)
    medians = [statistics.median(seconds[str(value)]) for value in VALUES[what]]
    if what not in ("batch", "size"):
        medians = [t / BASE["batch"] for t in medians]
    grown = [(value, t) for value, t in zip(VALUES[what], medians, strict=True) if value > 0]
    x, y = np.log(np.array(grown, float)).T
    slope = float(np.polyfit(x * (2 if what == "size" else 1), y, 1)[0])
    gc.collect()
    return {"model": name, "what": what, "values": VALUES[what], "seconds": medians, "exponent": slope}


def plot(file: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    shown = dict(zip(MODELS, (("FCOS", "#0062a8"), ("RetinaNet", "#b84a00"), ("Faster R-CNN", "#2a7f3f")), strict=True))
    panels = figure.subplots(1, 4, sharey=True)
    for axes, what in zip(panels, VALUES, strict=True):
        for row in (row for row in rows if row["what"] == what):
            name, color = shown[row["model"]]
            label = f"{name}: {row['exponent']:.2f}"
            axes.plot(row["values"], row["seconds"], "o-", color=color, markersize=3, lw=1.2, label=label)
        axes.set_xscale("symlog" if what == "boxes" else "log")
        axes.set_xticks(VALUES[what], [str(value) for value in VALUES[what]], fontsize=7)
        axes.set_xlabel(LABELS[what])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(title="exponent", fontsize=7, title_fontsize=7, frameon=False, loc="upper left")
    seconds = [t for row in rows for t in row["seconds"]]
    ticks = [t for t in (2.0**n for n in range(-10, 10)) if min(seconds) / 2 < t < max(seconds) * 2]
    panels[0].set_yscale("log")
    panels[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    for axes in panels:
        axes.minorticks_off()
    panels[0].set_ylim(min(seconds) * 0.8, max(seconds) * 4)
    panels[0].set_ylabel("seconds of an image\n(of batches: of the step)")
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    about = versions(torch.device(options.device))
    print(about)
    rows = []
    for what in VALUES:
        print(f"\n| {LABELS[what]} | " + " | ".join(map(str, VALUES[what])) + " | exponent |")
        print("|---|" + "---|" * (len(VALUES[what]) + 1))
        for name in options.models:
            rows.append(measure(name, what, options))
            times = " | ".join(f"{1000 * t:.0f}" for t in rows[-1]["seconds"])
            print(f"| {name}, ms | {times} | {rows[-1]['exponent']:.2f} |", flush=True)
    if options.plot:
        plot(options.plot, rows)
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
