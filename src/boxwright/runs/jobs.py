"""Runs the jobs of a sweep (`train.py -m`), a process for each. Imports nothing heavy."""

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from boxwright.config.hydra_internals import get_args_parser, is_basic
from boxwright.runs.claim import Claim, InUseError
from boxwright.runs.expected import score
from boxwright.runs.folder import keep_failure, open_run
from boxwright.runs.log import is_rank_zero, let_go

Main = Callable[[DictConfig], float | None]
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
_OF_THE_SWEEP = (
    "hydra.mode",
    "hydra.run.dir",
    "hydra.sweep",
    "hydra/sweep",
    "hydra.launch",
    "hydra/launch",
    EXCLUDED,
)
"""Settings of Hydra that are not passed on to a job's own command."""
_TERMINATED = (75, -signal.SIGTERM)
_INTERRUPTED = (130, -signal.SIGINT)
"""Exit codes of a job that a signal ended, after it has saved and before."""


class JobError(RuntimeError):
    """A job of a sweep failed, and has printed its reason itself."""


def is_of_a_sweep(hydra: Any) -> bool:
    return hydra.mode == RunMode.MULTIRUN


def print_once(text: str) -> None:
    if is_rank_zero():
        try:
            print(text, flush=True)
        except BrokenPipeError:
            let_go()


def quoted(text: str) -> str:
    return "'" + text.replace("'", r"\'") + "'"


# A process for each job


def each_in_a_process(main: Main) -> Main:
    """Runs each job of a sweep by a command of its own, with the folder that Hydra gave it.

    So a job's memory, its devices and ranks, and its end are its own. Launchers other than Hydra's basic one start
    processes themselves, and are not changed.
    """

    @functools.wraps(main)
    def job(cfg: DictConfig) -> float | None:
        hydra: Any = HydraConfig.get()
        if not is_of_a_sweep(hydra) or not is_basic(hydra.launcher._target_):
            return main(cfg)
        run = open_run(cfg)
        results = run.results
        if results is None:
            run.release()  # the job's own process claims it
            code, received = _follow(_command(hydra, run.folder))
            _end_if_signalled(code, received)
            results = _results(run.folder, code)
        return score(run, results)

    return job


def _command(hydra: Any, folder: Path) -> list[str]:
    """Makes the command that runs one job of this sweep."""
    given = get_args_parser().parse_args(sys.argv[1:])
    options = ("config_path", "config_name", "config_dir")
    return [
        sys.executable,
        os.path.abspath(sys.argv[0]),
        *(f"--{option.replace('_', '-')}={value}" for option in options if (value := getattr(given, option))),
        *hydra.overrides.task,
        *(line for line in hydra.overrides.hydra if not line.startswith(_OF_THE_SWEEP)),
        f"hydra.run.dir={quoted(str(folder))}",
    ]


def _follow(command: list[str]) -> tuple[int, int | None]:
    """Runs a command, passing Ctrl-C and SIGTERM on to it; returns its exit code and the signal received, if any.

    It has a process group of its own, so that nothing of a failed job stays behind, such as a rank that waits for
    another, and it gets SIGTERM when this process dies.
    """
    received: int | None = None
    job: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, _: object) -> None:
        nonlocal received
        received = signum
        if job is not None:
            with suppress(ProcessLookupError):  # a terminal sends Ctrl-C to every process
                (os.killpg if signum == signal.SIGINT else os.kill)(job.pid, signum)

    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for signum, handler in kept.items():
        if handler != signal.SIG_IGN:  # as SIGINT is in the background of a shell
            signal.signal(signum, pass_on)
    try:
        job = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_end_with_parent)
        if received is not None:  # while it was started
            pass_on(received, None)
        code = job.wait()
    finally:
        for signum, handler in kept.items():
            signal.signal(signum, handler)
    if code not in (0, *_TERMINATED, *_INTERRUPTED):
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    return code, received


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _end_if_signalled(code: int, received: int | None) -> None:
    interrupted = code in _INTERRUPTED or received == signal.SIGINT
    if interrupted or code in _TERMINATED or received is not None:
        print_once(f"{'Ctrl-C' if interrupted else 'SIGTERM'}: the sweep ends; repeat the command to continue it")
        sys.exit(_INTERRUPTED[0] if interrupted else _TERMINATED[0])


def _results(folder: Path, code: int) -> dict[str, Any]:
    """Reads the results of a job that has ended; raises JobError with the reason if it failed."""
    if code == 0:
        return json.loads((folder / "finished.json").read_text())
    reason = f"it ended with status {code}; see {folder / 'log.txt'}"
    if code < 0:
        died = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        reason = f"it was killed by {signal.Signals(-code).name}{died}"
    try:
        with Claim(folder):
            reason = keep_failure(folder, reason)
    except InUseError as error:  # another sweep took the job while this one was about to start it
        reason = str(error)
    raise JobError(reason)
