"""`ConfigError`, and how it ends a script. Imports nothing heavy."""

import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode

from evaluation.errors import UserError
from evaluation.files import FULL
from lit_modules.died import explain

P = ParamSpec("P")
R = TypeVar("R")


_PARTS = ("model", "data", "callbacks", "logger", "trainer", "optimizer", "schedule")


class ConfigError(UserError):
    """Mistakes in the config; names each key, where it was set, what was expected, and the nearest spelling."""


def clear_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Prints a mistake in the config without traceback and ends with status 2; in a sweep only its job fails.

    That is a ConfigError, a value that a constructor refuses, which Hydra would wrap, or a setting that Lightning
    refuses. The same with status 1 for a full disk, for what is wrong with the data, and where another process of
    the run was ended.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except Exception as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) else error
            status = _status(cause, is_wrapped=cause is not error)
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            if status is None or (in_sweep and status == 1):
                raise
            if not getattr(cause, "is_logged", False):  # by the run's log
                print(explain(cause) or with_key(error), file=sys.stderr)
            if in_sweep:
                raise
            sys.exit(status)

    return guarded


def with_key(error: BaseException) -> str:
    """The message of an error; of a constructor that names its own argument alone, with the key of that argument."""
    if not isinstance(error, InstantiationException) or error.__cause__ is None:
        return str(error)
    said, found = str(error.__cause__), re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE)
    if found is None or not re.match(r"[a-z_]\w*=", said):
        return said
    key = found[1] if found[1].partition(".")[0] in _PARTS else f"model.{found[1]}"  # a model is built of its own node
    return f"{key}.{said}"


def _status(error: BaseException | None, is_wrapped: bool) -> int | None:
    """The exit code of an error that its user can mend; None for any other."""
    is_lightnings = any(
        kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__
    )  # not imported here
    if isinstance(error, ConfigError) or is_lightnings or (is_wrapped and isinstance(error, ValueError)):
        return 2
    is_full = isinstance(error, OSError) and error.errno in FULL
    return 1 if isinstance(error, UserError) or is_full or explain(error) else None


def listed(problems: list[str]) -> str:
    return "\n".join(["Invalid config:", *(f"  - {problem}" for problem in problems)])


def few(names: Sequence[str], count: int = 10) -> str:
    """Joins the first `count` names, and counts the rest."""
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:count])
    return f"{shown} and {len(names) - count} more" if len(names) > count else shown
