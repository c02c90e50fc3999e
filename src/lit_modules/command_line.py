"""A command line that a checkpoint completes, before Hydra reads it."""

import sys
from collections.abc import Callable

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lit_modules.settings import ConfigError


def complete(completed: Callable[[list[str]], list[str]]) -> None:
    """Before Hydra's main: ends with status 2 where the checkpoint that is needed for it can't be read."""
    try:
        sys.argv[1:] = completed(sys.argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def given(argv: list[str]) -> dict[str, Override]:
    """What is overridden, by key or group; nothing where it can't be parsed, which `settings.explain_command_line`
    tells."""
    try:
        overrides = OverridesParser.create().parse_overrides(get_args_parser().parse_args(argv).overrides)
    except HydraException:
        return {}
    return {override.key_or_group: override for override in overrides}
