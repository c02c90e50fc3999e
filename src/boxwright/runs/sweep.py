"""A sweep (`train.py -m`) as Hydra calls it: names, folders, and what is printed about all its jobs.

Hydra makes the jobs and calls `Sweep` (conf/train.yaml, `hydra.callbacks`). Imports nothing heavy.
"""

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from boxwright.config.errors import ConfigError
from boxwright.config.files import is_group
from boxwright.config.hydra_internals import LAUNCHER_LOG, is_basic, returned, split_jobs
from boxwright.runs.claim import InUseError
from boxwright.runs.expected import UnexpectedError
from boxwright.runs.folder import failure_reason, remove_empty
from boxwright.runs.jobs import EXCLUDED, JobError, is_of_a_sweep, print_once, quoted
from boxwright.runs.log import is_rank_zero
from boxwright.runs.names import safe_name
from evaluation.monitored import Score


class Sweep(Callback):
    """Hydra's callback before, between and after the jobs of a sweep."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._was_finished = False
        self._failed: list[str] = []

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **_: Any) -> None:
        """Fixes the name that the jobs share, and which of their overrides distinguish them."""
        logging.getLogger(LAUNCHER_LOG).setLevel(logging.WARNING)  # `on_job_start` prints the same
        hydra: Any = config.hydra
        overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(
            list(hydra.overrides.task)
        )
        if problem := _problem(overrides):
            print(problem, file=sys.stderr)
            sys.exit(2)
        in_config = dict(hydra.sweeper.get("params") or {})
        swept = {o.key_or_group for o in overrides if o.is_sweep_override()} | in_config.keys()
        searched = [line for line in hydra.overrides.hydra if line.startswith("hydra.searchpath=")]
        name = _name(str(config_name), overrides, searched)
        with read_write(config), open_dict(config):
            if swept and not any(line.startswith(EXCLUDED) for line in hydra.overrides.hydra):
                shared = ["name", *(o.key_or_group for o in overrides if o.key_or_group not in swept)]
                hydra.overrides.hydra.append(f"{EXCLUDED}=[{','.join(map(quoted, dict.fromkeys(shared)))}]")
            if name != config.name:
                config.name = name
                hydra.overrides.task.append(f"name={quoted(name)}")
        if is_basic(hydra.sweeper._target_) and not in_config:
            self._total = len(split_jobs(overrides))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if is_of_a_sweep(config.hydra):
            self._was_finished = _finished_file(config).exists()
            if not self._was_finished:
                print_once(self._name(config))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Prints a failure, and keeps it from Hydra, which would end with a traceback of the first one."""
        if not is_of_a_sweep(config.hydra):
            return
        result: Any = returned(job_return)
        if job_return.status == JobStatus.FAILED:
            if not isinstance(result, JobError | ConfigError | UnexpectedError):  # printed where they were raised
                traceback.print_exception(result)
            reason = str(result) if isinstance(result, JobError) else failure_reason(result)
            ended = "is left out" if isinstance(result, InUseError) else "failed"
            self._failed.append(f"{' '.join(_apart(config.hydra))} {ended}: {reason}")
            print_once(f"{self._name(config)} {ended}: {reason}")
            job_return.return_value, job_return.status = math.nan, JobStatus.COMPLETED
        elif self._was_finished:
            monitor = OmegaConf.select(config, "callbacks.checkpoints.monitor")
            of = json.loads(_finished_file(config).read_text()).get("score_of", monitor)
            print_once(f"{self._name(config)} is finished already: {Score(str(of), result)}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Makes table and plot of all runs in the sweep's folder; exits with 1 if a job of this command failed."""
        if not is_rank_zero():
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            from boxwright.runs import compare

            if any(compare.find([folder])):
                compare.summarize([folder], folder, self._failed)
        except Exception as error:
            print(f"no table of the sweep: {failure_reason(error)}", file=sys.stderr)
        if self._failed:
            _leave_no_trace(folder)
            sys.exit(1)

    def _name(self, config: DictConfig) -> str:
        of = f" of {self._total}" if self._total else ""
        return f"job {config.hydra.job.num + 1}{of}: {' '.join(_apart(config.hydra))}"


def _leave_no_trace(folder: Path) -> None:
    """Removes the folder of a sweep all of whose jobs were refused: nothing lies in it but Hydra's config."""
    with suppress(OSError):
        if [file.name for file in folder.iterdir()] == ["multirun.yaml"]:
            (folder / "multirun.yaml").unlink()
            remove_empty(folder)


def _finished_file(config: DictConfig) -> Path:
    return Path(config.hydra.runtime.output_dir, "finished.json")


def _apart(hydra: Any) -> list[str]:
    """Lists a job's overrides without those that it shares with the others."""
    lines: list[str] = list(hydra.overrides.task)
    parsed = zip(lines, OverridesParser.create().parse_overrides(lines), strict=True)
    return [line for line, o in parsed if o.key_or_group not in hydra.job.config.override_dirname.exclude_keys]


def _problem(overrides: Iterable[Override]) -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # whose ranks can meet for one job only
        return "-m: a sweep starts the processes of its jobs itself; start it without torchrun"
    for override in overrides:
        if override.key_or_group == "resume":
            return f"{override.input_line}: a sweep continues when its command is repeated; leave it out"
        if override.key_or_group == "name" and override.is_sweep_override():
            return f"{override.input_line}: the jobs of a sweep share one name; give one name, or none"
    return ""


def _name(config_name: str, overrides: Iterable[Override], searched: Iterable[str]) -> str:
    """Gives the name of the jobs; of jobs with several models, data sets or recipes, all their names joined."""
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override() else [line]
        for o in overrides
        if (line := o.input_line) is not None and (is_group(o.key_or_group) or o.key_or_group == "name")
    ]
    names = dict.fromkeys(str(compose(config_name, [*searched, *lines]).name) for lines in product(*choices))
    return names.popitem()[0] if len(names) == 1 else safe_name("+".join(names))
