"""Names outside of Hydra's public interface, in one place to check at an upgrade. Imports nothing heavy."""

from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn

__all__ = ["LAUNCHER_LOG", "get_args_parser", "is_basic", "returned", "split_jobs"]

LAUNCHER_LOG = BasicLauncher.__module__
"""The logger that Hydra's launcher names its jobs on."""


def is_basic(target: str) -> bool:
    """Whether a `_target_` is Hydra's own launcher or sweeper, one job after the other, and not a plugin's."""
    return target.endswith((f".{BasicLauncher.__name__}", f".{BasicSweeper.__name__}"))


def split_jobs(overrides: Any) -> list[list[str]]:
    """Gives the overrides of each job of a sweep, from its parsed command line."""
    return list(BasicSweeper.split_arguments(overrides, None)[0])


def returned(job: JobReturn) -> Any:
    """Gives a job's return value, or the exception that it failed with, which `return_value` would raise."""
    return job._return_value  # pyright: ignore[reportPrivateUsage]
