"""What surrounds the main function of every script: its output folder, and how quiet other libraries are."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from boxwright.config.command_line import explain_command_line, only_prints
from boxwright.config.errors import clear_errors
from boxwright.config.files import CONF
from boxwright.config.from_checkpoint import Completion, complete
from boxwright.config.resolvers import register_resolvers
from boxwright.runs.folder import remove_empty
from boxwright.runs.log import end_with_reader, is_rank_zero

P = ParamSpec("P")
R = TypeVar("R")

Main = Callable[[DictConfig], Any]
Start = Callable[[], None]
Wrap = Callable[[Main], Main]


def command(name: str, completion: Completion | None = None, jobs: Wrap | None = None) -> Callable[[Main], Start]:
    """Makes a script of its main function, which gets the config that conf/NAME.yaml and the command line make.

    A mistake on the command line is answered before Hydra and heavy imports; one in config or data without a traceback
    and, but for a run, without a folder that stays. `completion`: what a checkpoint adds to the command line. `jobs`:
    how the jobs of a sweep are run, where they are runs.
    """

    def decorate(main: Main) -> Start:
        guarded = clear_errors(main if jobs is not None else none_if_refused(main))
        task = guarded if jobs is None else jobs(guarded)

        @functools.wraps(main)
        def start() -> None:
            register_resolvers()
            if only_prints(sys.argv[1:]):
                end_with_reader()
            if completion is not None:
                complete(completion)
            explain_command_line(name)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()

        return start

    return decorate


def none_if_refused(main: Callable[P, R]) -> Callable[P, R]:
    """Removes the folder that Hydra made, where config or data are refused before anything was written to it.

    The log must be opened with the first line (`delay: true`), so that there is none until then.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (ValueError, InstantiationException):
            folder = Path(HydraConfig.get().runtime.output_dir)
            with suppress(OSError):  # something lies in it
                folder.rmdir()
                remove_empty(folder.parent)
            raise

    return guarded


log = logging.getLogger(__name__)


def name_unused(*keys: str, used: tuple[str, ...] = ()) -> None:
    """Logs which settings of the command line have no effect on a script that takes train.py's: those of `keys`."""
    unused: list[str] = []
    for line in HydraConfig.get().overrides.task:
        key = line.lstrip("+~").partition("=")[0]
        if _is_within(key, keys) and not _is_within(key, used):
            unused.append(line)
    if unused:
        log.info("without effect here: %s", " ".join(unused))


def _is_within(key: str, parents: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{parent}.") for parent in parents)


def quieten() -> None:
    """Hide what other libraries say about themselves; ranks other than 0 say nothing but warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*is deprecated.*",
        ".*`srun` command is available.*",  # on every login node; within a job Lightning refuses what does not fit
        ".*smaller than the logging.*",
        ".*in eval mode at the start.*",
        ".*recommended to use `self.log.*sync_dist.*",  # every rank logs the same number already
    ):
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = _without_source
    if not is_rank_zero():
        logging.getLogger().setLevel(logging.WARNING)


def _without_source(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"
