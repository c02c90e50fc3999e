"""A config is checked before anything heavy is imported; this file imports nothing heavy itself.

Left to Hydra, a misspelt key in a recipe's YAML or behind `+` goes unnoticed, a value of another type fails
deep in torch, and a metric that does not exist fails after the first validation.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from evaluation.files import FULL
from lit_modules.conf_files import (
    CONF,
    contains,
    is_group,
    loaded,
    nearest,
    options,
    origin,
    plain,
    reference,
    remark,
    unknown,
)
from lit_modules.scored import match_problems, monitor_problems, scored
from lit_modules.signatures import accepts, describe, parameters, words

Precision = Literal["32-true", "bf16-mixed", "16-mixed", None]

KINDS: dict[str, Any] = {
    "trainer.devices": int | str | list[int],
    "trainer.precision": Precision,
    "trainer.max_time": str | None,
    "trainer.val_check_interval": int | None,
    "trainer.gradient_clip_val": float | None,
    "trainer.deterministic": bool | Literal["warn"],
    "resume": str | None,
    "init_from": str | None,
    "checkpoint": str | None,
    "predictions": str | None,
    "split": Literal["val", "test"],
    "output": str | None,
    "sample": int | None,
    "parts": list[Literal["data", "step", "inference"]],
    "source": str,
    "score_threshold": float | Literal["best_f1", None],
    "batch_size": int | None,
    "devices": int | str | list[int],
    "precision": Precision,
}
"""What neither the default's type nor a signature of this project tells."""

FREE = {"data.augmentations": "albumentations."}
"""Mappings of the user's own named nodes, and what the `_target_` of each must begin with."""

P = ParamSpec("P")
R = TypeVar("R")


class ConfigError(ValueError):
    """Mistakes in the config: of each the key, where it came from, what was expected, what is nearest."""


def register_resolvers() -> None:
    """`${num_classes:CLASSES,DEFAULT}`: the length of a list of classes, or the default where it is null;
    `${main_metric:DATA}`: of a validation of that data set, the number by which checkpoints are compared."""
    OmegaConf.register_new_resolver("num_classes", _num_classes, replace=True)
    OmegaConf.register_new_resolver("main_metric", _main_metric, replace=True)
    # albumentations looks for a newer release over the network whenever it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _num_classes(classes: Any, default: int) -> int:
    return default if classes is None else len(classes)


def _main_metric(data: str) -> str:
    return f"val/{scored(data)[0]}"


def clear_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Prints a ConfigError without traceback and ends with status 2; in a sweep only its job fails.

    The same for a value that a constructor refuses, which Hydra would wrap; with status 1 for a full disk, and for
    what is wrong with the data.
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
        except ValueError as error:
            # By name, since importing the class would take a second that a wrong config need not wait.
            is_users = "DataError" in (kind.__name__ for kind in type(error).__mro__)
            if not is_users or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            if not getattr(error, "told", False):  # by the run's log
                print(error, file=sys.stderr)
            sys.exit(1)

    return guarded


def _listed(problems: list[str]) -> str:
    return "\n".join(["The config is not right:", *(f"  - {problem}" for problem in problems)])


# The command line, before Hydra's main


def explain_command_line(config_name: str) -> None:
    """Ends with status 2 where the command line names a key or a choice that does not exist."""
    register_resolvers()
    sys.argv[1:] = [with_quotes(line) for line in sys.argv[1:]]
    if problems := command_line_problems(config_name, sys.argv[1:]):
        print(_listed(problems), file=sys.stderr)
        sys.exit(2)


def command_line_problems(config_name: str, argv: list[str]) -> list[str]:
    """Unknown keys and choices among the overrides, and a run that cannot be resumed.

    Hydra finds them too, but knows no nearest spelling, and advises to force the key in with `+`; of a line that it
    can't read it names neither the line nor the remedy. Whatever else is wrong is left to it.
    """
    arguments = get_args_parser().parse_args(argv)
    if arguments.config_path or arguments.config_name or arguments.config_dir or arguments.help:
        return []
    try:
        overrides = OverridesParser.create().parse_overrides(arguments.overrides)
    except HydraException:
        return [problem for line in arguments.overrides for problem in _unreadable(line)]
    overrides = [override for override in overrides if not (override.is_delete() or override.is_hydra_override())]
    choices = [override for override in overrides if is_group(override.key_or_group)]
    problems = [problem for override in choices for problem in _choice_problems(override)]
    if problems or len(choices) == len(overrides):
        return problems
    given = [(o.key_or_group, o.input_line) for o in overrides if o not in choices]
    free = tuple(f"{key}." for key in FREE)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            known = plain(compose(config_name, [line for o in choices for line in _one_choice(o)]))
            for key, line in given:
                if not contains(known, key) and not key.startswith(free):
                    problems.append(unknown(key, f"command line, {line}", known))
            if not problems and "resume" in dict(given):
                problems += _folder_problems(compose(config_name, arguments.overrides, return_hydra_config=True))
    except (HydraException, OmegaConfBaseException):
        return []
    finally:
        GlobalHydra.instance().clear()
    return problems


def with_quotes(line: str) -> str:
    """`KEY=PATH`, quoted for Hydra where it can't read it and the path exists, as in a sweep's `data.resize=64/`."""
    key, _, value = line.partition("=")
    try:
        OverridesParser.create().parse_overrides([line])
    except HydraException:
        if value and Path(value).exists():
            return f"{key}='{value}'" if "'" not in value else line
    return line


def _unreadable(line: str) -> Iterator[str]:
    try:
        OverridesParser.create().parse_overrides([line])
    except HydraException:
        key, equals, value = line.partition("=")
        if not equals:
            yield f"{line} (command line): expected KEY=VALUE"
            return
        quoted = f"\"{key}='{value}'\"" if "'" not in value else "KEY=VALUE"
        yield (
            f"{line} (command line): can't be read; text with braces, brackets, commas, = or spaces needs quotes "
            f"within quotes: {quoted}"
        )


def _folder_problems(cfg: DictConfig) -> Iterator[str]:
    """Why the folder of the run to resume cannot be told; Hydra would wrap it in three tracebacks."""
    try:
        OmegaConf.select(cfg, "hydra.run.dir")
    except InterpolationResolutionError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__context__
        if cause is not None:
            yield str(cause)


def _choices(override: Override) -> list[str]:
    """Of a group, those made or swept over; none for a pattern, which cannot miss."""
    value = override.value()
    if isinstance(value, Glob):
        return []
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [str(choice) for choice in (value if isinstance(value, list) else [value])]


def _one_choice(override: Override) -> list[str]:
    """Of a sweep over a group, the first choice stands for all."""
    if override.is_sweep_override():
        return [f"{override.get_key_element()}={choice}" for choice in _choices(override)[:1]]
    return [str(override.input_line)]


def _choice_problems(override: Override) -> Iterator[str]:
    group, where = override.key_or_group, f"{override.key_or_group} (command line, {override.input_line})"
    if not (CONF / group).is_dir():
        groups = sorted(str(folder.relative_to(CONF)) for folder in CONF.rglob("*/"))
        yield f"{where}: no such group{nearest(group, groups)}; there are {', '.join(groups)}"
        return
    known = options(group)
    for choice in _choices(override):
        if choice not in known:
            yield f"{where}: no such choice{nearest(choice, known)}; there are {', '.join(known)}"
        elif group == "experiment":
            yield from _recipe_problems(choice)


def _recipe_problems(recipe: str) -> Iterator[str]:
    """What Hydra would answer with a traceback: a file that is no YAML, a choice in its `defaults` that isn't one."""
    where = f"conf/experiment/{recipe}.yaml"
    try:
        content = loaded(CONF / "experiment" / f"{recipe}.yaml")
    except YAMLError as error:
        yield f"{where}: not valid YAML: {' '.join(str(error).split())}"
        return
    for entry in content.get("defaults") or ():
        for key, choice in cast(dict[str, Any], entry).items() if isinstance(entry, dict) else ():
            group = key.removeprefix("override ").strip()
            if key.startswith("override ") and not group.startswith("/"):
                yield f"{where}, defaults, {key}: write override /{group}"
            elif (CONF / group.lstrip("/")).is_dir() and isinstance(choice, str):
                known = options(group.lstrip("/"))
                if choice not in known:
                    yield f"{where}, defaults, {key}: {choice}: no such choice{nearest(choice, known)}"


# The composed config, inside Hydra's main


def check(cfg: DictConfig) -> None:
    """Raises one ConfigError with every mistake of a composed config.

    It is measured by what the same choices of groups compose to without recipe and overrides, and by the
    annotations of the constructors that it feeds.
    """
    register_resolvers()
    default = reference()
    problems = list(_Check(cfg, default).mapping("", plain(cfg), plain(default)))
    problems += [*match_problems(cfg), *monitor_problems(cfg)] if not problems else []
    if problems:
        raise ConfigError(_listed(problems))


class _Check:
    """Walks a config beside its reference; yields a message for each mistake."""

    def __init__(self, cfg: DictConfig, reference: DictConfig) -> None:
        self.cfg, self.reference, self.known = cfg, reference, plain(reference)

    def mapping(self, key: str, node: dict[str, Any], default: dict[str, Any]) -> Iterator[str]:
        target: str | None = default.get("_target_")
        try:
            kinds = parameters(target) if target else None
        except LookupError:
            yield f"{self.said(f'{key}._target_')}: there is no such class or function in src/"
            return
        for name, value in node.items():
            path = f"{key}.{name}" if key else name
            if name not in default:
                yield unknown(path, origin(path), self.known)
            elif kinds is not None and not name.startswith("_") and name not in kinds:
                yield f"{self.said(path)}: {target} has no such parameter{nearest(name, kinds)}"
            elif path in FREE:
                yield from self.free(path, value)
            elif isinstance(default[name], dict):
                if isinstance(value, dict):
                    yield from self.mapping(path, cast(dict[str, Any], value), default[name])
                else:
                    yield f"{self.said(path)}: expected a mapping with {', '.join(default[name])}"
            elif name == "_target_":
                if value != target:
                    yield f"{self.said(path)}: expected {target}; another class gets its own file in conf/"
            else:
                kind = kinds.get(name, Any) if kinds else KINDS.get(path)
                yield from self.value(path, value, default[name], kind)

    def value(self, path: str, raw: Any, default: Any, kind: Any) -> Iterator[str]:
        if raw == "???":
            yield f"{path} is missing; give {path}=... ({remark(path)})"
            return
        if isinstance(raw, str) and "${" in raw and raw == default:
            return
        try:
            value = _resolved(self.cfg, path)
        except OmegaConfBaseException as error:
            yield f"{path}={raw} ({origin(path)}): {str(error).splitlines()[0]}"
            return
        kind = kind or _kind_of(_resolved(self.reference, path))
        if not accepts(kind, value):
            yield f"{self.said(path)}: expected {describe(kind)}{nearest(str(value), words(kind))}"

    def free(self, path: str, node: Any) -> Iterator[str]:
        if node is not None and not isinstance(node, dict):
            yield f"{self.said(path)}: expected a mapping of named nodes, or null"
            return
        for name, child in cast(dict[str, Any], node or {}).items():
            target = cast(dict[str, Any], child).get("_target_") if isinstance(child, dict) else None
            if not str(target).startswith(FREE[path]):
                yield f"{self.said(f'{path}.{name}')}: expected a mapping with a _target_ in {FREE[path]}*"

    def said(self, path: str) -> str:
        value = OmegaConf.select(self.cfg, path, throw_on_resolution_failure=False)
        return f"{path}={value!r} ({origin(path)})"


def _resolved(cfg: DictConfig, path: str) -> Any:
    value = OmegaConf.select(cfg, path)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _kind_of(default: Any) -> Any:
    return Any if default is None else type(cast(object, default))
