"""The jobs of a sweep (`train.py -m`): a folder and a process for each, and what is said of all.

Hydra makes the jobs and calls `Sweep` (conf/train.yaml, `hydra.callbacks`). Imports nothing heavy.
"""

import ctypes
import functools
import json
import logging
import math
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_modules import runs
from lit_modules.conf_files import is_group
from lit_modules.run_folders import safe_name
from lit_modules.settings import ConfigError

Main = Callable[[DictConfig], float | None]

_LEFT_OUT = "hydra.job.config.override_dirname.exclude_keys"
_OF_THE_SWEEP = ("hydra.mode", "hydra.run.dir", "hydra.sweep", "hydra/sweep", "hydra.launch", "hydra/launch", _LEFT_OUT)
"""What a job's own command is not told."""
_TERMINATED = (75, -signal.SIGTERM)
_INTERRUPTED = (130, -signal.SIGINT)
"""Exit codes of a job that was told to end, after it has saved and before."""


class JobError(RuntimeError):
    """A job of a sweep failed, and has said so itself."""


class Sweep(Callback):
    """What Hydra calls before, between and after the jobs of a sweep."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._was_finished = False
        self._failed: list[str] = []

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **_: Any) -> None:
        """Fix the name that the jobs share, and by which of their overrides they are told apart."""
        logging.getLogger(BasicLauncher.__module__).setLevel(logging.WARNING)  # what it says, `on_job_start` says
        hydra: Any = config.hydra
        overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(
            list(hydra.overrides.task)
        )
        if problem := _problem(overrides):
            print(problem, file=sys.stderr)
            sys.exit(2)
        in_config = dict(hydra.sweeper.get("params") or {})
        swept = {o.key_or_group for o in overrides if o.is_sweep_override()} | in_config.keys()
        name = _name(str(config_name), overrides)
        with read_write(config), open_dict(config):
            if swept and not any(line.startswith(_LEFT_OUT) for line in hydra.overrides.hydra):
                shared = ["name", *(o.key_or_group for o in overrides if o.key_or_group not in swept)]
                hydra.overrides.hydra.append(f"{_LEFT_OUT}=[{','.join(map(_quoted, dict.fromkeys(shared)))}]")
            if name != config.name:
                config.name = name
                hydra.overrides.task.append(f"name={_quoted(name)}")
        if hydra.sweeper._target_.endswith(".BasicSweeper") and not in_config:
            self._total = len(BasicSweeper.split_arguments(overrides, None)[0])

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if _is_of_a_sweep(config.hydra):
            self._was_finished = Path(config.hydra.runtime.output_dir, "finished.json").exists()
            if not self._was_finished:
                _say(self._name(config))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Tell of a failure, and keep it from Hydra, which would end with a traceback of the first one."""
        if not _is_of_a_sweep(config.hydra):
            return
        result: Any = job_return._return_value  # pyright: ignore[reportPrivateUsage]
        if job_return.status == JobStatus.FAILED:
            if not isinstance(result, JobError | ConfigError):  # which were told by whom they struck
                traceback.print_exception(result)
            reason = str(result) if isinstance(result, JobError) else runs.reason(result)
            self._failed.append(f"{' '.join(_apart(config.hydra))} failed: {reason}")
            _say(f"{self._name(config)} failed: {reason}")
            job_return.return_value, job_return.status = math.nan, JobStatus.COMPLETED
        elif self._was_finished:
            monitor = str(OmegaConf.select(config, "callbacks.checkpoints.monitor"))
            score = f"{result:.4f}" if monitor.startswith("val/loss") else f"{100 * result:.2f} %"
            _say(f"{self._name(config)} is finished already: {monitor} {score}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """The table and the plot of what lies in the sweep's folder; status 1 where a job of this command failed."""
        if not runs.is_rank_zero():
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            from lit_modules import comparing

            if any(comparing.find([folder])):
                comparing.summarize([folder], folder, self._failed)
        except Exception as error:
            print(f"no table of the sweep: {runs.reason(error)}", file=sys.stderr)
        if self._failed:
            sys.exit(1)

    def _name(self, config: DictConfig) -> str:
        of = f" of {self._total}" if self._total else ""
        return f"job {config.hydra.job.num + 1}{of}: {' '.join(_apart(config.hydra))}"


def _is_of_a_sweep(hydra: Any) -> bool:
    return hydra.mode == RunMode.MULTIRUN


def _apart(hydra: Any) -> list[str]:
    """A job's overrides without those that it shares with the others."""
    lines: list[str] = list(hydra.overrides.task)
    parsed = zip(lines, OverridesParser.create().parse_overrides(lines), strict=True)
    return [line for line, o in parsed if o.key_or_group not in hydra.job.config.override_dirname.exclude_keys]


def _say(text: str) -> None:
    if runs.is_rank_zero():
        print(text, flush=True)


def _problem(overrides: Iterable[Override]) -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # whose ranks can meet for one job only
        return "-m: a sweep starts the processes of its jobs itself; start it without torchrun"
    for override in overrides:
        if override.key_or_group == "resume":
            return f"{override.input_line}: a sweep goes on when its command is given again; leave it out"
        if override.key_or_group == "name" and override.is_sweep_override():
            return f"{override.input_line}: the jobs of a sweep have their name in common; give one name, or none"
    return ""


def _name(config_name: str, overrides: Iterable[Override]) -> str:
    """What the jobs are called; where they are of several models, data sets or recipes, all their names."""
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override() else [line]
        for o in overrides
        if (line := o.input_line) is not None and (is_group(o.key_or_group) or o.key_or_group == "name")
    ]
    names = dict.fromkeys(str(compose(config_name, list(lines)).name) for lines in product(*choices))
    return names.popitem()[0] if len(names) == 1 else safe_name("+".join(names))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"\'") + "'"


# A process for each job


def each_in_a_process(main: Main) -> Main:
    """Runs each job of a sweep by a command of its own, with the folder that Hydra gave it.

    So a job's memory, its devices and ranks, and its end are its own. Launchers other than Hydra's basic one start
    processes themselves, and are left to it.
    """

    @functools.wraps(main)
    def job(cfg: DictConfig) -> float | None:
        hydra: Any = HydraConfig.get()
        if not _is_of_a_sweep(hydra) or not hydra.launcher._target_.endswith(".BasicLauncher"):
            return main(cfg)
        run = runs.open_run(cfg)
        results = run.results
        if results is None:
            code, told = _follow(_command(hydra, run.folder))
            _end_if_told(code, told)
            results = _results(run.folder, code)
        return results["score"]

    return job


def _command(hydra: Any, folder: Path) -> list[str]:
    """This command for one of the jobs alone."""
    given = get_args_parser().parse_args(sys.argv[1:])
    options = ("config_path", "config_name", "config_dir")
    return [
        sys.executable,
        os.path.abspath(sys.argv[0]),
        *(f"--{option.replace('_', '-')}={value}" for option in options if (value := getattr(given, option))),
        *hydra.overrides.task,
        *(line for line in hydra.overrides.hydra if not line.startswith(_OF_THE_SWEEP)),
        f"hydra.run.dir={_quoted(str(folder))}",
    ]


def _follow(command: list[str]) -> tuple[int, int | None]:
    """The exit code of a command that gets Ctrl-C and SIGTERM in place of this process, and which of them it got.

    It has a process group of its own, so that nothing of a failed job stays behind, such as a rank that waits for
    another, and it is told to end when this process dies.
    """
    told: int | None = None
    job: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, _: object) -> None:
        nonlocal told
        told = signum
        if job is not None:
            with suppress(ProcessLookupError):  # a terminal sends Ctrl-C to every process
                (os.killpg if signum == signal.SIGINT else os.kill)(job.pid, signum)

    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for signum, handler in kept.items():
        if handler != signal.SIG_IGN:  # as SIGINT is in the background of a shell
            signal.signal(signum, pass_on)
    try:
        job = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_end_with_parent)
        if told is not None:  # while it was started
            pass_on(told, None)
        code = job.wait()
    finally:
        for signum, handler in kept.items():
            signal.signal(signum, handler)
    if code not in (0, *_TERMINATED, *_INTERRUPTED):
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    return code, told


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _end_if_told(code: int, told: int | None) -> None:
    interrupted = code in _INTERRUPTED or told == signal.SIGINT
    if interrupted or code in _TERMINATED or told is not None:
        _say(f"the sweep ends ({'Ctrl-C' if interrupted else 'SIGTERM'}); the same command goes on with it")
        sys.exit(_INTERRUPTED[0] if interrupted else _TERMINATED[0])


def _results(folder: Path, code: int) -> dict[str, Any]:
    """Of a job that has ended; JobError with its reason if it failed."""
    if code == 0:
        return json.loads((folder / "finished.json").read_text())
    reason = f"it ended with status {code}; see {folder / 'log.txt'}"
    if code < 0:
        died = "; the system may have lacked memory" if code == -signal.SIGKILL else ""
        reason = f"it was ended by {signal.Signals(-code).name}{died}"
    raise JobError(runs.keep_failure(folder, reason))
