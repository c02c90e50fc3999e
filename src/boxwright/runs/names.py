"""Names of the folders of runs."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from boxwright.config.errors import ConfigError
from boxwright.runs.newest import has_begun, or_newest_run

_LONGEST = 100
"""Characters of a name before its hash; W&B takes 128, file systems 255 bytes."""


_timed: set[str] = set()


def is_timed(folder: str) -> bool:
    """Whether this process named a folder by the time, so that it is a new one's."""
    return folder in _timed


def _by_time(folder: str) -> str:
    _timed.add(folder)
    return folder


def run_name(model: str, data: str) -> str:
    """Makes a name such as `fcos-coco` from the two `_target_`s."""
    return f"{model.split('.')[1]}-{data.split('.')[1]}"


def backbone_name(backbone: Mapping[str, Any]) -> str:
    """Names a backbone by its node in a config, such as `ResNet50` or `ResNet50 32x8d`."""
    kind, which = str(backbone["_target_"]).rpartition(".")[2], str(backbone.get("depth", ""))
    if backbone.get("groups", 1) > 1:
        which = f"{which} {backbone['groups']}x{backbone['width_per_group']}d"
    if "name" in backbone:
        which = f" {backbone['name']}"
    return f"{kind}{which}"


def run_folder(name: str, resume: str | None, now: str) -> str:
    """Gives the folder of a new run, or of the one to resume.

    Under a scheduler that starts every rank by itself the job's number replaces the time, so that the ranks
    agree, and a requeued job finds its folder.
    """
    if resume is None:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return _by_time(f"runs/{name}/{now}") if job == "none" else f"runs/{name}/job-{job}"
    if resume == "last":
        runs = sorted(Path("runs", name).glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
        finished = [file for file in runs if (file.parent / "finished.json").exists()]
        unfinished = [file.parent for file in runs if file not in finished and has_begun(file.parent)]
        if not unfinished:
            raise ConfigError(
                f"resume=last: no unfinished run in {Path('runs', name).resolve()} ({len(finished)} finished); start "
                f"one without resume, or give resume=FOLDER, or name=NAME of the run{or_newest_run()}"
            )
        return str(unfinished[-1])
    if not Path(resume, "config.yaml").exists():
        raise ConfigError(
            f"resume={resume}: {Path(resume).resolve()} is not a run's folder: it has no config.yaml"
            f"{or_newest_run(Path(resume))}"
        )
    return resume


def job_folder(overrides: Iterable[str], excluded: Iterable[str]) -> str:
    """Names the folder of a job within its sweep by its overrides, without those of the keys in `excluded`.

    `data.resize=667,model.backbone=resnet18`, the `/` of a group being a dot; see `safe_name`.
    """
    parsed = [o for o in OverridesParser.create().parse_overrides(list(overrides)) if o.key_or_group not in excluded]
    if not parsed:
        return "defaults"
    pairs = sorted((o.get_key_element().replace("/", "."), o.get_value_element_as_str()) for o in parsed)
    return safe_name(",".join(f"{key}={value}" for key, value in pairs))


def safe_name(text: str) -> str:
    """Returns the text if file systems, shells and W&B accept it; else what is left of it, with a hash of all of it."""
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", text)[:_LONGEST]
    if name == text:
        return name
    return f"{name.strip('-.,=+')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def output_folder(script: str, output: str | None, now: str) -> str:
    """Gives the output folder of a script that does not train: `output`, or a new one in runs/evaluate and the like."""
    return output or _by_time(f"runs/{script.removesuffix('_data')}/{now}")
