"""Checks the command line before Hydra reads it. Imports nothing heavy."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from boxwright.config.check import FREE
from boxwright.config.defaults import Entry, entries
from boxwright.config.errors import ConfigError, listed
from boxwright.config.files import (
    at,
    contains,
    find_file,
    find_setter,
    folders,
    groups,
    has_group,
    is_group,
    is_shipped,
    name_file,
    nearest,
    options,
    plain,
    unknown,
)
from boxwright.config.limits import LIMITS
from boxwright.config.places import is_changed, parsed, use_places
from boxwright.config.recipes import Chosen, hidden, lacking
from boxwright.zoo.catalogue import SOURCES

_CHECKPOINTS = "callbacks.checkpoints"
_CHECKPOINT_KEYS = ("checkpoint", "init_from")
_SHELLS = ("bash", "fish", "zsh")

# The command line, before Hydra's main


def explain_command_line(config_name: str) -> None:
    """Ends with status 2 where the command line names a key or a choice that does not exist."""
    lines: list[str] = parsed(sys.argv[1:]).overrides  # the last on it, see `in_order`
    sys.argv[1:] = [*sys.argv[1 : len(sys.argv) - len(lines)], *map(with_quotes, lines)]
    end_if(command_line_problems(config_name, sys.argv[1:]))


def end_if(problems: list[str]) -> None:
    """Ends with status 2 where there are problems."""
    if problems:
        print(listed(problems), file=sys.stderr)
        sys.exit(2)


def command_line_problems(config_name: str, argv: list[str]) -> list[str]:
    """Lists unknown keys and choices among the overrides, and why a run cannot be resumed.

    Hydra finds them too, but suggests no nearest spelling, and advises to force the key in with `+`; for a line that it
    can't parse it names neither the line nor the remedy. All other mistakes are left to Hydra.
    """
    arguments = parsed(argv)
    if arguments.shell_completion:
        return list(_completion_problems(arguments.overrides))
    if arguments.help or arguments.hydra_help:
        return []
    if problems := use_places(config_name, argv):
        return problems
    arguments.overrides = [with_quotes(line) for line in arguments.overrides]
    try:
        overrides = OverridesParser.create().parse_overrides(arguments.overrides)
    except HydraException:
        return [problem for line in arguments.overrides for problem in _unreadable(line)]
    searched = [str(o.input_line) for o in overrides if o.key_or_group == "hydra.searchpath"]
    overrides = [override for override in overrides if not override.is_hydra_override()]
    if kept := [problem for o in overrides for problem in (*_deletion_problems(o), *_name_problems(o))]:
        return kept
    primary, chosen = arguments.config_name or config_name, Chosen()
    problems = [] if is_shipped(find_file("", primary)) else list(chosen.problems(primary.removesuffix(".yaml"), ""))
    choices = [o for o in overrides if is_group(o.key_or_group) and not o.is_delete()]
    problems += [problem for override in choices for problem in _choice_problems(override, chosen)]
    if problems or (len(choices) == len(overrides) and not is_changed()):
        return problems
    return _composed_problems(config_name, primary, searched, overrides, chosen)


def _composed_problems(
    script: str, primary: str, searched: list[str], overrides: list[Override], chosen: Chosen
) -> list[str]:
    """Lists what is wrong with overrides that are no choices, given the choices among them."""
    choices = [o for o in overrides if is_group(o.key_or_group) and not o.is_delete()]
    given = [(o.key_or_group, str(o.input_line)) for o in overrides if o not in choices]
    lines = [*searched, *_first_of_each(choices)]
    free = tuple(f"{key}." for key in FREE)
    try:
        with initialize_config_dir(str(folders()[0].absolute()), version_base="1.3"):
            known = plain(compose(primary, lines))
            if missing := lacking(script, known):
                return [f"{name_file(find_file('', primary))}: {missing}"]
            problems = [
                unknown(key, f"command line, {line}", known)
                for key, line in given
                if not contains(known, key) and not key.startswith(free)
            ]
            if is_changed():
                problems += hidden(entry.path for entry in entries(primary, lines))
            if not problems and (is_changed() or {"resume", "name"} & dict(given).keys()):
                whole = compose(primary, [*searched, *_first_of_each(overrides)], return_hydra_config=True)
                problems += _folder_problems(whole, lambda: entries(primary, lines), dict(given))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return [said] if (said := chosen.explained(error)) else []
    finally:
        GlobalHydra.instance().clear()
    return problems


def only_prints(argv: list[str]) -> bool:
    """Whether a command line asks for the config or for help, not for a run."""
    given = parsed(argv)
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


def _name_problems(override: Override) -> Iterator[str]:
    """The config check refuses such names too, but only where a folder of that name has been made."""
    is_legal, expected = LIMITS["name"]
    if override.key_or_group != "name" or override.is_sweep_override() or override.is_delete():
        return
    name = override.value()
    if isinstance(name, str) and not is_legal(name):
        yield f"name={name!r} (command line, {override.input_line}): expected {expected}"


def with_quotes(line: str) -> str:
    """An override, quoted for Hydra where it would not be read as it is meant.

    A path that exists, as in a sweep's `data.resize=64/`, a name that is a number or has quotes in it, and a published
    checkpoint with its file, `checkpoint=NAME=FILE`, or an address with such signs.
    """
    key, _, value = line.partition("=")
    try:
        (override,) = OverridesParser.create().parse_overrides([line])
        is_meant = override.key_or_group != "name" or not isinstance(override.value(), int | float)
    except HydraException:
        named = key in _CHECKPOINT_KEYS and value.startswith(("hf:/", *(f"{source}/" for source in SOURCES)))
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


def _folder_problems(cfg: DictConfig, files: Callable[[], list[Entry]], given: dict[str, str]) -> Iterator[str]:
    """Yields why the folder of a run can't be found or named; Hydra would wrap the reason in three tracebacks."""
    try:
        OmegaConf.select(cfg, "hydra.run.dir")
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__context__
        config = plain(cfg)
        groups = [group for group in ("model", "data") if not isinstance(at(config, f"{group}._target_"), str)]
        if cause is not None:
            yield str(cause)
        elif not groups:
            yield f"name={config.get('name')} ({_origin('name', files, given)}): {str(error).splitlines()[0]}"
        for group in groups if cause is None else ():
            key = f"{group}._target_" if isinstance(config.get(group), dict) else group
            yield (
                f"{key}={at(config, key)!r} ({_origin(key, files, given)}): expected a mapping with a _target_, as the "
                f"files of {group}/ are, of which {group}=NAME chooses one"
            )


def _origin(key: str, files: Callable[[], list[Entry]], given: dict[str, str]) -> str:
    if key in given:
        return f"command line, {given[key]}"
    setter = find_setter(files(), key)
    return name_file(find_file("", setter.path)) if setter else "nowhere"


def _choices(override: Override) -> list[str]:
    """Lists the choices made or swept over in a group; none for a glob pattern, which matches existing files only."""
    value = override.value()
    if isinstance(value, Glob):
        return []
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [str(choice) for choice in (value if isinstance(value, list) else [value])]


def _first_of_each(choices: Iterable[Override]) -> Iterator[str]:
    """Yields each override as one line; of a sweep over a group the first choice stands for all."""
    for override in choices:
        if not override.is_sweep_override():
            yield str(override.input_line)
        elif swept := _choices(override):
            yield f"{override.get_key_element()}={swept[0]}"


def _choice_problems(override: Override, chosen: Chosen) -> Iterator[str]:
    group, where = override.key_or_group, f"{override.key_or_group} ({_command_line(override)})"
    if group.startswith("experiment/"):
        below = group.removeprefix("experiment/")
        yield f"{where}: recipes have one group: experiment={below}/{override.get_value_element_as_str()}"
        return
    if not has_group(group):
        known_groups = groups()
        yield f"{where}: no such group{nearest(group, known_groups)}; there are {', '.join(known_groups)}"
        return
    for choice in _choices(override):
        if find_file(group, choice).is_file() and not choice.endswith(".yaml"):
            yield from chosen.problems(f"{group}/{choice}", group)
        else:
            known = options(group)
            near = nearest(choice, known) or nearest(Path(choice).stem, known) or _misplaced(group, choice)
            yield f"{where}: no such choice{near}; there are {', '.join(known)}"


def _command_line(override: Override) -> str:
    return f"command line, {override.input_line}"


def _misplaced(group: str, choice: str) -> str:
    """Names a file that lies where its group's folder was given in place of the folder that has the groups."""
    for folder in folders():
        if folder.absolute().name == group and (folder / f"{choice}.yaml").is_file():
            return f"; {choice}.yaml lies in {folder} itself: give --config-dir={folder.parent}"
    return ""


def given(argv: list[str]) -> dict[str, Override]:
    """Parses the overrides, by key or group; empty where they can't be parsed, which `explain_command_line`
    reports."""
    try:
        lines = [with_quotes(line) for line in parsed(argv).overrides]
        overrides = OverridesParser.create().parse_overrides(lines)
    except HydraException:
        return {}
    return {override.key_or_group: override for override in overrides}
