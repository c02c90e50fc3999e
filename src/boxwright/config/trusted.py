"""The packages whose classes a config may name: this project's, and those that the user trusts.

A checkpoint names the classes that it is rebuilt from, and it may come from a stranger. So whoever reads it decides
which packages beside this project's are trusted (`trusted_packages`, BOXWRIGHT_TRUSTED_PACKAGES, or `load_detector`'s
argument), never the file. Imports nothing heavy.
"""

import os
from collections.abc import Iterable

OURS = ("detectors", "lit_modules", "datamodules", "torch.optim")
VARIABLE = "BOXWRIGHT_TRUSTED_PACKAGES"

_trusted: set[str] = set()


def trust(packages: Iterable[str]) -> None:
    """Trusts packages, or modules, by name until this process ends."""
    _trusted.update(packages)


def users_packages() -> tuple[str, ...]:
    """Lists the packages that the user trusts, in this process or by BOXWRIGHT_TRUSTED_PACKAGES=first,second."""
    variable = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return tuple(sorted(_trusted | {name for name in variable if name}))


def is_trusted(target: str) -> bool:
    """Whether a `_target_` lies in a trusted package or module."""
    return target.startswith(tuple(f"{package}." for package in (*OURS, *users_packages())))


class UntrustedError(ValueError):
    """A checkpoint names a class of a package that its reader has not said to trust; the file may be sound."""


def explain_untrusted(target: str) -> str:
    """Explains what to type for a `_target_` of a package that is not trusted."""
    package = target.partition(".")[0]
    return (
        f"{package} is not part of this project, and a checkpoint that names it is read only if you trust it: give "
        f"trusted_packages=[{package}], or set {VARIABLE}={package}"
    )
