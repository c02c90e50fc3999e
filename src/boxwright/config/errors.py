"""`ConfigError`, and how it ends a script. Imports nothing heavy."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode

from evaluation.errors import UserError
from evaluation.files import FULL

P = ParamSpec("P")
R = TypeVar("R")


class ConfigError(UserError):
    """Mistakes in the config; names each key, where it was set, what was expected, and the nearest spelling."""


def clear_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Prints a ConfigError without traceback and ends with status 2; in a sweep only its job fails.

    The same for a value that a constructor refuses, which Hydra would wrap. A full disk and a mistake in the data end
    it with status 1.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (ConfigError, InstantiationException) as error:
            if isinstance(error, InstantiationException) and not isinstance(error.__cause__, ValueError):
                raise
            print(error.__cause__ if isinstance(error, InstantiationException) else error, file=sys.stderr)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            sys.exit(2)
        except OSError as error:
            if error.errno not in FULL or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            print(error, file=sys.stderr)
            sys.exit(1)
        except UserError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            if not getattr(error, "is_logged", False):  # by the run's log
                print(error, file=sys.stderr)
            sys.exit(1)

    return guarded


def listed(problems: list[str]) -> str:
    return "\n".join(["Invalid config:", *(f"  - {problem}" for problem in problems)])


def few(names: Sequence[str], count: int = 10) -> str:
    """Joins the first `count` names, and counts the rest."""
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:count])
    return f"{shown} and {len(names) - count} more" if len(names) > count else shown
