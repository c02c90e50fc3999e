"""Compares the runs below some folders, for compare.py and at the end of a sweep. Imports nothing heavy."""

import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from boxwright.config.earlier import renamed_line
from boxwright.config.files import flat
from boxwright.runs.folder import load_config
from boxwright.runs.scaling import scaled
from evaluation.files import write_whole
from evaluation.monitored import Monitor
from reports.comparison import Result, compare

FILE = "comparison"
"""The name of the table and the plot."""
_WIDTH = 1000
"""Columns of the table in a file or a pipe, where nothing is cut."""
_PARTS = ("model", "data", "trainer", "scale_schedule")
"""Keys of a run's config that the config.yaml of another program lacks."""


def summarize(folders: Sequence[Path], output: Path, failed: Sequence[str] | None = None) -> None:
    """Prints the table of all runs below the folders; writes comparison.csv, .md and .png to `output`.

    `failed`: failure messages to print instead of those in the folders.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"{folder.absolute()} is not a folder; give one that contains runs, such as runs/sweeps/NAME"
            )
    found = [result for folder in find(folders) if (result := read(folder, output)) is not None]
    if not found:
        raise ValueError(
            f"no run in {', '.join(str(folder.absolute()) for folder in folders)}: a run is a folder with a "
            "config.yaml that train.py has written"
        )
    comparison = compare(found)
    from rich.console import Console

    from reports.comparison_plot import plot
    from reports.comparison_tables import as_csv, as_markdown, as_table, failures, in_a_line, notes

    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / f"{FILE}.csv", as_csv(comparison).encode("utf-8", "replace"))
    write_whole(output / f"{FILE}.md", as_markdown(comparison).encode("utf-8", "replace"))
    write_whole(output / f"{FILE}.png", plot(comparison))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(as_table(comparison))
    files = (f"{output / FILE}.{kind}" for kind in ("csv", "md", "png"))
    failed = failures(comparison) if failed is None else [in_a_line(reason) for reason in failed]
    print(*notes(comparison), *failed, *files, sep="\n", flush=True)


def find(folders: Iterable[Path]) -> Iterator[Path]:
    """Yields the folders of runs, each once; folders inside of a run are not searched."""
    seen: set[Path] = set()
    for top in folders:
        for path, below, files in os.walk(top):
            below.sort()
            folder = Path(path)
            if "config.yaml" in files:
                below.clear()
                if folder.resolve() not in seen:
                    seen.add(folder.resolve())
                    yield folder


def read(folder: Path, start: Path) -> Result | None:
    """Reads a run's folder, finished or not, named as seen from `start`; None if it is not a run's."""
    try:
        config = load_config(folder / "config.yaml")
    except (YAMLError, OSError) as error:  # OmegaConf's where it is not a mapping
        raise ValueError(f"{folder / 'config.yaml'} is damaged ({' '.join(str(error).split())})") from error
    if any(part not in config for part in _PARTS):
        return None
    given, finished, failed = (_json(folder / f"{name}.json") for name in ("overrides", "finished", "failed"))
    lines = (renamed_line(config.model.get("_target_"), line) for line in given.get("overrides", ()))
    overridden = (line.lstrip("+~").partition("=")[0] for line in lines)
    curves = _curves(folder / "metrics.csv")
    best = _best(curves, config, finished.get("best_step"))
    metrics: dict[str, float] = finished.get("val") or _metrics(best)
    figures = {**metrics, "val/loss": best.get("val/loss", math.nan)}
    if finished.get("test") not in (None, {}, finished.get("val")):
        figures |= {f"test/{name}": value for name, value in finished["test"].items()}
    figures |= {name: value for name in ("ms_per_image", "train_seconds") if (value := finished.get(name)) is not None}
    timed: dict[str, Any] = finished.get("timed", {})
    return Result(
        folder=os.path.relpath(folder, start),
        settings=flat(config),
        choices=given.get("choices", {}),
        overridden=frozenset(overridden),
        state="finished" if finished else "failed" if failed else "unfinished",
        step=int(finished.get("step", max((row["step"] for row in curves), default=0))),
        steps=int(scaled(config, quiet=True).trainer.max_steps),
        reason=failed.get("reason", ""),
        figures=figures,
        timed=", ".join(str(timed[name]) for name in ("device", "precision") if name in timed),
    )


def _json(file: Path) -> dict[str, Any]:
    """Reads a JSON file; empty where it does not exist."""
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error})") from error


def _curves(file: Path) -> list[dict[str, float]]:
    """Reads the rows of metrics.csv, without empty cells; a row that a crash has cut is skipped."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8", errors="replace") as opened:
        rows = [{name: _number(value) for name, value in row.items()} for row in csv.DictReader(opened)]
    known = ({name: value for name, value in row.items() if value is not None} for row in rows)
    return [row for row in known if "step" in row]


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _best(curves: list[dict[str, float]], config: DictConfig, step: int | None) -> dict[str, float]:
    """Finds the validation of a step, or the best so far by the monitored metric; empty before the first."""
    name, mode = (OmegaConf.select(config, f"callbacks.checkpoints.{key}") for key in ("monitor", "mode"))
    monitor, best = Monitor(str(name), mode or "max"), None
    found: dict[str, float] = {}
    for row in curves:
        is_validation = "val/loss" in row and (step is None or row["step"] == step)
        if is_validation and monitor.is_better(score := monitor.score(row), best):
            found, best = row, score
    return found


def _metrics(row: dict[str, float]) -> dict[str, float]:
    """Gives the metrics of a validation, without losses and scores of single classes."""
    named = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    return {name: value for name, value in named.items() if "/" not in name and not name.startswith("loss")}
