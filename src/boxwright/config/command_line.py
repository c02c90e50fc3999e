"""Checks the command line before Hydra reads it. Imports nothing heavy."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from boxwright.config.check import FREE
from boxwright.config.errors import ConfigError, listed
from boxwright.config.files import (
    CONF,
    contains,
    find_file,
    groups,
    is_group,
    loaded,
    name_file,
    nearest,
    options,
    plain,
    unknown,
    use_folder,
)
from boxwright.config.hydra_internals import get_args_parser
from boxwright.zoo.catalogue import SOURCES

_CHECKPOINTS = "callbacks.checkpoints"
_CHECKPOINT_KEYS = ("checkpoint", "init_from")
_SHELLS = ("bash", "fish", "zsh")

# The command line, before Hydra's main


def explain_command_line(config_name: str) -> None:
    """Ends with status 2 where the command line names a key or a choice that does not exist."""
    sys.argv[1:] = [line if line.startswith("-") else with_quotes(line) for line in sys.argv[1:]]
    if problems := command_line_problems(config_name, sys.argv[1:]):
        print(listed(problems), file=sys.stderr)
        sys.exit(2)


def command_line_problems(config_name: str, argv: list[str]) -> list[str]:
    """Lists unknown keys and choices among the overrides, and why a run cannot be resumed.

    Hydra finds them too, but suggests no nearest spelling, and advises to force the key in with `+`; for a line that it
    can't parse it names neither the line nor the remedy. All other mistakes are left to Hydra.
    """
    arguments = get_args_parser().parse_args(argv)
    if arguments.shell_completion:
        return list(_completion_problems(arguments.overrides))
    if arguments.config_path or arguments.config_name or arguments.help or arguments.hydra_help:
        return []
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        return [f"--config-dir={arguments.config_dir}: {Path(arguments.config_dir).absolute()} is not a folder"]
    use_folder(arguments.config_dir)
    arguments.overrides = [with_quotes(line) for line in arguments.overrides]
    place = [] if arguments.config_dir is None else [f"hydra.searchpath=[{_searched(arguments.config_dir)}]"]
    try:
        overrides = OverridesParser.create().parse_overrides(arguments.overrides)
    except HydraException:
        return [problem for line in arguments.overrides for problem in _unreadable(line)]
    overrides = [override for override in overrides if not override.is_hydra_override()]
    if kept := [problem for override in overrides for problem in _deletion_problems(override)]:
        return kept
    choices = [o for o in overrides if is_group(o.key_or_group) and not o.is_delete()]
    problems = [problem for override in choices for problem in _choice_problems(override)]
    if problems or len(choices) == len(overrides):
        return problems
    given = [(o.key_or_group, o.input_line) for o in overrides if o not in choices]
    free = tuple(f"{key}." for key in FREE)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            known = plain(compose(config_name, [*place, *(line for o in choices for line in _one_choice(o))]))
            for key, line in given:
                if not contains(known, key) and not key.startswith(free):
                    problems.append(unknown(key, f"command line, {line}", known))
            if not problems and "resume" in dict(given):
                problems += _folder_problems(
                    compose(config_name, [*place, *arguments.overrides], return_hydra_config=True)
                )
    except (HydraException, OmegaConfBaseException):
        return []
    finally:
        GlobalHydra.instance().clear()
    return problems


def only_prints(argv: list[str]) -> bool:
    """Whether a command line asks for the config or for help, not for a run."""
    given = get_args_parser().parse_args(argv)
    return bool(given.help or given.hydra_help or given.cfg or given.info or given.shell_completion)


def _completion_problems(overrides: list[str]) -> Iterator[str]:
    pattern = rf"(install|uninstall|query)=({'|'.join(_SHELLS)})"
    if sum(re.fullmatch(pattern, line) is not None for line in overrides) != 1:
        yield (
            f"-sc {' '.join(overrides)}: expected one of install=SHELL, uninstall=SHELL, query=SHELL, "
            f"with {', '.join(_SHELLS)} for SHELL"
        )


def _deletion_problems(override: Override) -> Iterator[str]:
    """Nothing may be left out but single callbacks and loggers; and no checkpoints, by which runs are resumed."""
    key = override.key_or_group
    group, _, name = key.partition(".")
    is_single = group in ("callbacks", "logger") and name and "." not in name
    if not override.is_delete() or (is_single and key != _CHECKPOINTS):
        return
    if key in ("callbacks", _CHECKPOINTS):
        said = "there is no run without its checkpoints; leave single callbacks out, such as '~callbacks.pictures'"
    else:
        said = f"there is no run without {key}; give it another value"
    yield f"{override.input_line} (command line): {said}"


def _searched(folder: str) -> str:
    """Writes a folder as an entry of Hydra's search path, quoted for its parser."""
    return _quoted(f"file://{Path(folder).absolute()}")


def with_quotes(line: str) -> str:
    """An override, quoted for Hydra where it would not be read as it is meant.

    A path that exists, as in a sweep's `data.resize=64/`, a name that is a number or has quotes in it, and a published
    checkpoint with its file, `checkpoint=NAME=FILE`.
    """
    key, _, value = line.partition("=")
    try:
        (override,) = OverridesParser.create().parse_overrides([line])
        is_meant = override.key_or_group != "name" or not isinstance(override.value(), int | float)
    except HydraException:
        named = key in _CHECKPOINT_KEYS and value.startswith(tuple(f"{source}/" for source in SOURCES))
        is_meant = not value or not (key == "name" or named or Path(value).exists())
    return line if is_meant else f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", r"\'") + "'"


def _unreadable(line: str) -> Iterator[str]:
    try:
        OverridesParser.create().parse_overrides([line])
    except HydraException:
        key, equals, value = line.partition("=")
        if not equals:
            yield f"{line} (command line): expected KEY=VALUE"
            return
        yield (
            f"{line} (command line): can't be parsed; text with quotes, braces, brackets, commas, = or spaces needs "
            f'quotes within quotes: "{key}={_quoted(value)}"'
        )


def _folder_problems(cfg: DictConfig) -> Iterator[str]:
    """Yields why the folder of the run to resume can't be found; Hydra would wrap the reason in three tracebacks."""
    try:
        OmegaConf.select(cfg, "hydra.run.dir")
    except InterpolationResolutionError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__context__
        if cause is not None:
            yield str(cause)


def _choices(override: Override) -> list[str]:
    """Lists the choices made or swept over in a group; none for a glob pattern, which matches existing files only."""
    value = override.value()
    if isinstance(value, Glob):
        return []
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [str(choice) for choice in (value if isinstance(value, list) else [value])]


def _one_choice(override: Override) -> list[str]:
    """Gives an override as one line; of a sweep over a group the first choice stands for all."""
    if override.is_sweep_override():
        return [f"{override.get_key_element()}={choice}" for choice in _choices(override)[:1]]
    return [str(override.input_line)]


def _choice_problems(override: Override) -> Iterator[str]:
    group, where = override.key_or_group, f"{override.key_or_group} (command line, {override.input_line})"
    if group not in (known_groups := groups()):
        yield f"{where}: no such group{nearest(group, known_groups)}; there are {', '.join(known_groups)}"
        return
    known = options(group)
    for choice in _choices(override):
        if choice not in known:
            yield f"{where}: no such choice{nearest(choice, known)}; there are {', '.join(known)}"
        elif group == "experiment":
            yield from _recipe_problems(choice)


def _recipe_problems(recipe: str) -> Iterator[str]:
    """Yields mistakes that Hydra answers with a traceback: invalid YAML, an unknown choice in the `defaults` list."""
    file = find_file("experiment", recipe)
    where = name_file(file)
    try:
        content = loaded(file)
    except YAMLError as error:
        yield f"{where}: not valid YAML: {' '.join(str(error).split())}"
        return
    for entry in content.get("defaults") or ():
        for key, choice in cast(dict[str, Any], entry).items() if isinstance(entry, dict) else ():
            group = key.removeprefix("override ").strip()
            if key.startswith("override ") and not group.startswith("/"):
                yield f"{where}, defaults, {key}: write override /{group}"
            elif group.lstrip("/") in groups() and isinstance(choice, str):
                known = options(group.lstrip("/"))
                if choice not in known:
                    yield f"{where}, defaults, {key}: {choice}: no such choice{nearest(choice, known)}"


def given(argv: list[str]) -> dict[str, Override]:
    """Parses the overrides, by key or group; empty where they can't be parsed, which `explain_command_line`
    reports."""
    try:
        lines = [with_quotes(line) for line in get_args_parser().parse_args(argv).overrides]
        overrides = OverridesParser.create().parse_overrides(lines)
    except HydraException:
        return {}
    return {override.key_or_group: override for override in overrides}
