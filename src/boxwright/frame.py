"""The frame around the main function of every script: its command line, its output folder, quiet libraries."""

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

from boxwright.config.auto import recognised
from boxwright.config.command_line import end_if, explain_command_line, only_prints
from boxwright.config.errors import clear_errors
from boxwright.config.files import CONF
from boxwright.config.from_checkpoint import Completion, complete
from boxwright.config.places import in_order, use_places
from boxwright.config.resolvers import register_resolvers
from boxwright.runs.claim import Claim, InUseError
from boxwright.runs.folder import remove_empty
from boxwright.runs.log import end_with_reader, is_rank_zero

P = ParamSpec("P")
R = TypeVar("R")

Main = Callable[[DictConfig], Any]
Start = Callable[[], None]
Wrap = Callable[[Main], Main]


def command(name: str, completion: Completion | None = None, jobs: Wrap | None = None) -> Callable[[Main], Start]:
    """Turns a main function into a script: it is called with the config of conf/NAME.yaml and the command line.

    A mistake on the command line is reported before Hydra and heavy imports; one in config or data without a traceback
    and, except in a run, without leaving a folder. `completion` adds a checkpoint's settings to the command line;
    `jobs` wraps the main function so that each job of a sweep is a run of its own.
    """

    def decorate(main: Main) -> Start:
        guarded = clear_errors(main if jobs is not None else in_own_folder(main))
        task = guarded if jobs is None else jobs(guarded)

        @functools.wraps(main)
        def start() -> None:
            register_resolvers()
            sys.argv[1:] = in_order(sys.argv[1:])
            if only_prints(sys.argv[1:]):
                end_with_reader()
            sys.argv[1:] = recognised(sys.argv[1:])
            if completion is not None:
                end_if(use_places(name, sys.argv[1:]))  # a checkpoint's choices may be files of the user's
                complete(completion)
            explain_command_line(name)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()

        return start

    return decorate


def in_own_folder(main: Callable[P, R]) -> Callable[P, R]:
    """Keeps other processes from the output folder while a script runs, and removes the one that Hydra made where
    config or data are refused before anything was written to it.

    The log must be opened with the first line (`delay: true`), so that there is none until then.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            claim = Claim(folder) if is_rank_zero() else None
        except InUseError as error:
            raise InUseError(f"{error}, or give another output=FOLDER") from None
        try:
            return main(*args, **kwargs)
        except (ValueError, InstantiationException):
            if claim is not None:
                claim.release()
            with suppress(OSError):  # something lies in it
                folder.rmdir()
                remove_empty(folder.parent)
            raise
        finally:
            if claim is not None:
                claim.release()

    return guarded


log = logging.getLogger(__name__)


def name_unused(*keys: str, used: tuple[str, ...] = ()) -> None:
    """Logs the overrides of `keys`, which a script accepts as train.py does, but which have no effect on it."""
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
    """Hides messages of other libraries about themselves; ranks other than 0 log warnings only."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for http in ("httpx", "httpx2"):  # a line for each request to the Hub
        logging.getLogger(http).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*is deprecated.*",
        ".*`srun` command is available.*",  # on every login node; within a job Lightning refuses what does not fit
        ".*smaller than the logging.*",
        ".*in eval mode at the start.*",
    ):
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = _without_source
    if not is_rank_zero():
        logging.getLogger().setLevel(logging.WARNING)


def _without_source(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"
