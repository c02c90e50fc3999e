"""Replays the stored runs with the current version: each play uses root scripts and returns their outcome."""

import csv
import json
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from earlier_runs.skeletons import STORED, materialize
from running import Runner, curves, wandb_rows

ROOT = Path(__file__).parents[2]
COMPARE = "compare.py" if (ROOT / "compare.py").exists() else "sweep.py"
SWEPT = ["model.lr=0.01,0.02"]
TIMES = ("train_seconds", "ms_per_image", "timed")


def outcome(folder: Path, run: Path) -> dict[str, Any]:
    """Rows, files and results of a run without what depends on the clock; `kept` is the number of rows as stored."""
    stored = curves(STORED / run) if (STORED / run).exists() else []
    run = folder / run
    rows = curves(run)
    finished = json.loads((run / "finished.json").read_text())
    checkpoints = run / "checkpoints"
    return {
        "kept": next((i for i, (a, b) in enumerate(zip_longest(rows, stored)) if a != b), len(rows)),
        "rows": rows,
        "checkpoints": sorted(file.name for file in checkpoints.iterdir()),
        "links": {file.name: str(file.readlink()) for file in sorted(checkpoints.iterdir()) if file.is_symlink()},
        "finished": {key: value for key, value in finished.items() if key not in TIMES},
    }


def resumed(name: str) -> Callable[[Runner, Path], dict[str, Any]]:
    def play(train: Runner, folder: Path) -> dict[str, Any]:
        (run,) = materialize(folder, name)
        train([f"resume={run}"], folder)
        return outcome(folder, run)

    return play


def resumed_last(train: Runner, folder: Path) -> dict[str, Any]:
    """`resume=last` finds a run of an earlier version; `best.ckpt` has its averaged weights."""
    (run,) = materialize(folder, "fcos")
    train(["resume=last", "name=fcos"], folder)
    return outcome(folder, run)


def lengthened(train: Runner, folder: Path) -> dict[str, Any]:
    """A finished run has nothing to resume, unless it is given more steps."""
    (run,) = materialize(folder, "finished")
    train([f"resume={run}"], folder, expect=2)
    train([f"resume={run}", "trainer.max_steps=6"], folder)
    return outcome(folder, run)


def dashboard(train: Runner, folder: Path) -> dict[str, Any]:
    """A W&B run continues as the same run: its id, and each step once in its files."""
    (run,) = materialize(folder, "dashboard")
    (before,) = (folder / run).glob("wandb/offline-run-*/run-*.wandb")
    stored = steps(before)
    train([f"resume={run}", "trainer.max_steps=33"], folder)
    parts = (folder / run).glob("wandb/offline-run-*")
    return outcome(folder, run) | {
        "ids": [(folder / run / "wandb_id").read_text(), *sorted(part.name.rpartition("-")[2] for part in parts)],
        "steps before": stored,
        "steps kept": steps(before),
    }


def steps(file: Path) -> list[int]:
    return [row["trainer/global_step"] for row in wandb_rows(file) if "train" in row or "train/loss" in row]


def swept(train: Runner, folder: Path) -> dict[str, Any]:
    """The repeated command skips the finished job and continues the killed one."""
    (sweep,) = materialize(folder, "sweeps/halves")
    done, killed = folder / sweep / "model.lr=0.01", folder / sweep / "model.lr=0.02"
    files = {file: file.stat().st_mtime_ns for file in done.rglob("*")}
    given = json.loads((killed / "overrides.json").read_text())["overrides"]
    train(["-m", *[line for line in given if not line.startswith("model.lr=")], *SWEPT], folder)
    untouched = files == {file: file.stat().st_mtime_ns for file in done.rglob("*")}
    return {"untouched": untouched, "folders": sorted(p.name for p in (folder / sweep).iterdir() if p.is_dir())} | {
        "finished": outcome(folder, sweep / done.name),
        "killed": outcome(folder, sweep / killed.name),
    }


def scored(train: Runner, folder: Path) -> dict[str, Any]:
    """Output of `evaluate.py` and `predict.py` for each model's checkpoints, and whether a classifier has a score."""
    found: dict[str, Any] = {}
    names = ("fcos", "retinanet", "faster_rcnn", "classifier")
    for name, run in zip(names, materialize(folder, *names), strict=True):
        checkpoint = f"checkpoint={run}/checkpoints/{'best' if name == 'fcos' else 'last'}.ckpt"
        train([checkpoint, "output=scored", "accelerator=cpu"], folder, script="evaluate.py")
        found[name] = json.loads((folder / "scored/metrics.json").read_text())
        if name == "classifier":
            continue
        picture = ["source=data/shapes/val", "output=found", "draw=false", "score_threshold=0", "num_workers=1"]
        train([checkpoint, *picture, "accelerator=cpu"], folder, script="predict.py")
        found[name] |= predictions(folder / "found/predictions.json")
    return found


def predictions(file: Path) -> dict[str, Any]:
    """The keys of a results file, its number of boxes, and the highest scores of each image."""
    content = json.loads(file.read_text())
    scores: dict[str, list[float]] = {}
    for box in content["annotations"]:
        scores.setdefault(str(box["image_id"]), []).append(box["score"])
    return {
        "keys": sorted(content["annotations"][0]),
        "categories": content["categories"],
        "boxes": len(content["annotations"]),
        "scores": {image: sorted(found, reverse=True)[:5] for image, found in sorted(scores.items())},
    }


def started_from(train: Runner, folder: Path) -> dict[str, Any]:
    """`init_from=` takes the weights of an earlier version's checkpoint into a new run of the same settings."""
    (run,) = materialize(folder, "fcos")
    given = json.loads((folder / run / "overrides.json").read_text())["overrides"]
    replaced = ("name=", "callbacks.back_to_best", "trainer.max_steps")
    given = [line for line in given if not line.startswith(replaced)]
    weights = f"init_from={run}/checkpoints/best.ckpt"
    train([*given, weights, "name=new", "trainer.max_steps=2", "~callbacks.report"], folder)
    (new,) = (folder / "runs/new").iterdir()
    return outcome(folder, new.relative_to(folder))


def compared(train: Runner, folder: Path) -> dict[str, Any]:
    """The table of all stored runs: AP, validation loss, whether finished, and the step reached."""
    materialize(folder, "fcos", "retinanet", "rpn", "faster_rcnn", "dashboard", "finished", "sweeps/halves")
    train(["runs", "--output", "compared"], folder, script=COMPARE)
    (table,) = (folder / "compared").glob("*.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        Path(run).name if "sweeps" in run else Path(run).parent.name: {
            "AP": row["AP"], "val/loss": row["val/loss"], "steps": row["steps"], "state": row["state"].split(" ")[0],
        }
        for row in rows for run in row["runs"].split(" ")
    }  # fmt: skip


PLAYS: dict[str, Callable[[Runner, Path], dict[str, Any]]] = {
    "fcos": resumed_last,
    "retinanet": resumed("retinanet"),
    "rpn": resumed("rpn"),
    "faster_rcnn": resumed("faster_rcnn"),
    "classifier": resumed("classifier"),
    "finished": lengthened,
    "dashboard": dashboard,
    "sweep": swept,
    "scored": scored,
    "started_from": started_from,
    "compared": compared,
}
