"""Measure the wait for the answer to a wrong command, and for the first training step.

    python measurements/waiting.py --data FOLDER [--rounds 5] [--json FILE]

First `train.py --help` and mistakes in the config, each as a whole process. Then from the command to the end of the
first step, part by part, on a data set of COCO train2017's size whose index is cached: FCOS with a ResNet-50 at 64 px,
four images, two workers; with random weights and a CSV file, and with weights from a file and W&B offline.
The data set, that of startup.py with hard links to a few JPEGs, is written to FOLDER unless it exists.

A part ends where the next begins: this script starts the interpreter, imports the large libraries one after the other
where `train.py` would, and notes the time around the calls of its `main`; nothing in src/ depends on it.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
os.environ["PYTHONPATH"] = str(ROOT / "src")  # for the processes that are timed

ANSWERS = {
    "`train.py --help`": "--help",
    "`--cfg job`": "--cfg job data.root=.",
    "`data.resiez=3`": "data.resiez=3",
    "`model=fcoz`": "model=fcoz",
    "`+model.center_samplin=2`": "+model.center_samplin=2 data.root=.",
    "no `data.root`": "",
    "a `data.root` that does not exist": "data.root=nowhere",
    "a metric that does not exist": "data.root=. callbacks.checkpoints.monitor=val/APP",
    "a batch that the devices do not divide": "data.root=. data.batch_size=15 trainer.devices=2",
}
RUNS = {
    "random weights, a CSV file": "model.backbone.weights=null logger=csv",
    "weights from a file, W&B offline": "model.backbone.weights={data}/resnet50.pth logger.wandb.mode=offline",
}
COMMON = (
    "model=fcos model/backbone=resnet50 data=coco data.root={data} data.cache_dir={data}/cache data.val_fraction=0.04 "
    "test=false data.resize=64 data.batch_size=4 data.num_workers=2"
)


def make_data(data: Path) -> None:
    """Writes the data set of startup.py, each image a hard link to one of its size, weights of a ResNet-50, and the
    index.
    """
    import cv2
    import numpy as np
    import startup
    import torch
    import torchvision

    startup.write_data(data)
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8)
    content = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    for number, image in enumerate(content["images"]):
        # ext4 allows only some 65 000 hard links to a file.
        source = data / f"{image['width']}_{number // 20_000}.jpg"
        if not source.exists():
            cv2.imwrite(str(source), cv2.GaussianBlur(noise[: image["height"], : image["width"]], (0, 0), 5))
        file = data / "train2017" / image["file_name"]
        file.unlink()
        os.link(source, file)
    torch.save(torchvision.models.resnet50().state_dict(), data / "resnet50.pth")
    startup.module(data).setup("fit")


# In the started process


def traced(times: Path, arguments: list[str]) -> None:
    """Runs train.py up to the end of its first step and writes the time at which each part ended."""
    ends: list[tuple[str, float]] = [("interpreter", time.monotonic())]

    def ended(part: str) -> None:
        ends.append((part, time.monotonic()))

    def noted(owner: Any, name: str, part: str, before: str | None = None) -> None:
        """Wraps a function so that its end is recorded; `before` names the part that ends at its first call."""
        function = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            if before:
                ended(before)
            result = function(*args, **options)
            ended(part)
            return result

        setattr(owner, name, wrapped)

    from boxwright.runs import folder as run_folder

    open_run = run_folder.open_run

    def opened(cfg: Any) -> Any:
        ended("Hydra: import, composition, command line")
        run = open_run(cfg)
        ended("check of the config, the run's folder")
        for library in ("torch", "torchvision", "pytorch_lightning"):
            importlib.import_module(library)
            ended(f"import {library}" + " (with torchmetrics, scipy, matplotlib)" * (library == "pytorch_lightning"))
        from boxwright import build
        from boxwright.train import start
        from lit_modules.training_module import TrainingModule

        for node in (cfg.model, cfg.data, *cfg.logger.values()):
            importlib.import_module(node._target_.rpartition(".")[0])
        ended("import what is left")
        noted(start, "prepare", "precision, seed, scaling")
        noted(build, "make_datamodule", "opening the index, and whether all files are there")
        noted(build, "make_module", "network and its weights")
        noted(build, "make_trainer", "trainer and loggers")
        noted(start, "announce", "environment, config and operations logged")
        noted(TrainingModule, "configure_optimizers", "optimizer and schedule", "Lightning before the optimizer")
        noted(TrainingModule, "training_step", "forward and losses", "workers, first batch")
        on_train_batch_end = TrainingModule.on_train_batch_end

        def first_step(*args: Any) -> None:
            on_train_batch_end(*args)
            ended("backward and optimizer")
            times.write_text(json.dumps(ends))
            for process in multiprocessing.active_children():
                process.kill()
            os._exit(0)

        base: Any = TrainingModule
        base.on_train_batch_end = first_step
        return run

    run_folder.open_run = opened
    sys.argv = [str(ROOT / "train.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


# In this process


def seconds(arguments: list[str], folder: Path) -> float:
    """Seconds of the whole command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - start


def parts(arguments: list[str], folder: Path) -> dict[str, float]:
    """Seconds of each part, from the start of the process."""
    times = folder / "times.json"
    command = [sys.executable, str(Path(__file__).resolve()), "--traced", str(times), *arguments]
    end = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not times.exists():
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    taken: dict[str, float] = {}
    for part, at in json.loads(times.read_text()):
        taken[part], end = at - end, at
    times.unlink()
    return taken | {"all": sum(taken.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    data: Path = options.data.resolve()
    if not (data / "cache").exists():
        make_data(data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers: dict[str, list[float]] = {what: [] for what in ANSWERS}
        begun: dict[str, list[dict[str, float]]] = {what: [] for what in RUNS}
        for round in range(options.rounds + 1):
            for what, line in ANSWERS.items():
                answers[what].append(seconds(line.split(), folder))
            for what, line in RUNS.items():
                begun[what].append(parts(f"{COMMON} {line}".format(data=data).split(), folder))
            if round == 0:  # the first round read the libraries from the disk
                answers, begun = {what: [] for what in ANSWERS}, {what: [] for what in RUNS}
            shutil.rmtree(folder / "runs", ignore_errors=True)
    print("| answered | s, median | slowest |\n|---|---|---|")
    for what, times in answers.items():
        print(f"| {what} | {statistics.median(times):.2f} | {max(times):.2f} |")
    print(f"\n| to the end of the first step, s | {' | '.join(RUNS)} |\n|---|{'---|' * len(RUNS)}")
    for part in next(iter(begun.values()))[0]:
        row = [f"{statistics.median(run[part] for run in found):.2f}" for found in begun.values()]
        print(f"| {part} | {' | '.join(row)} |")
    if options.json:
        options.json.write_text(json.dumps({"answers": answers, "parts": begun}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--traced"]:
        traced(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
