"""The output folder of a command that is no run."""

import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException

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
