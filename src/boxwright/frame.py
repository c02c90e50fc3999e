"""What surrounds the main function of every script: its output folder, and how quiet other libraries are."""

import functools
import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException

from boxwright.runs.log import is_rank_zero

P = ParamSpec("P")
R = TypeVar("R")


def none_if_refused(main: Callable[P, R]) -> Callable[P, R]:
    """Removes the folder that Hydra made, where config or data are refused before anything was written to it.

    The log must be opened with the first line (`delay: true`), so that there is none until then.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (ValueError, InstantiationException):
            with suppress(OSError):  # something lies in it
                Path(HydraConfig.get().runtime.output_dir).rmdir()
            raise

    return guarded


log = logging.getLogger(__name__)


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
