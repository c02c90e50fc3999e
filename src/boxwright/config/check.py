"""Checks a config before anything heavy is imported; this file imports nothing heavy itself.

Left to Hydra, a misspelt key in a recipe's YAML or behind `+` goes unnoticed, a value of another type fails
deep in torch, and a metric that does not exist fails after the first validation.
"""

from collections.abc import Iterator
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from boxwright.config.compatible import class_problems, match_problems, monitor_problems, start_problems
from boxwright.config.defaults import entries
from boxwright.config.errors import ConfigError, listed
from boxwright.config.expect import KINDS as EXPECTED
from boxwright.config.expect import expect_problems
from boxwright.config.files import (
    find_file,
    left_open,
    misplaced,
    nearest,
    origin,
    plain,
    reference,
    remark,
    unknown,
)
from boxwright.config.limits import LIMITS, unlimited
from boxwright.config.signatures import accepts, describe, is_ours, parameters, words
from boxwright.config.trusted import explain_untrusted, is_trusted, trust
from boxwright.zoo.names import name_problem

Precision = Literal["32-true", "bf16-mixed", "16-mixed", None]

KINDS: dict[str, Any] = {
    **EXPECTED,
    "trainer.devices": int | str | list[int],
    "trainer.precision": Precision,
    "trainer.max_time": str | None,
    "trainer.val_check_interval": int | None,
    "trainer.gradient_clip_val": float | None,
    "trainer.deterministic": bool | Literal["warn"],
    "resume": str | None,
    "init_from": str | None,
    "init_classes": dict[str, str | None] | None,
    "checkpoint": str | None,
    "predictions": str | None,
    "split": Literal["val", "test"],
    "output": str | None,
    "sample": int | None,
    "parts": list[Literal["data", "step", "inference"]],
    "source": str,
    "trusted_packages": list[str],
    "score_threshold": float | Literal["best_f1", None],
    "batch_size": int | None,
    "repo": str,
    "license": str,
    "dataset": str | None,
    "publish": list[str],
    "devices": int | str | list[int],
    "precision": Precision,
}
"""Types of settings that neither the default's type nor a signature of this project gives."""

_CHECKPOINTS = ("checkpoint", "init_from")

FREE = {"data.augmentations": "albumentations."}
"""Mappings of the user's own named nodes, and what the `_target_` of each must begin with."""


# The composed config, inside Hydra's main


def check(cfg: DictConfig) -> None:
    """Raises one ConfigError with every mistake of a composed config.

    It is compared with what the same choices of groups compose to without recipe and overrides, and with the
    annotations of the constructors that it is passed to.
    """
    trust(cfg.get("trusted_packages", ()))
    default = reference()
    if untrusted := list(_untrusted(default)):  # whose signatures are not read
        raise ConfigError(listed(untrusted))
    problems = [*_Check(cfg, default).mapping("", plain(cfg), plain(default)), *_left_open(cfg)]
    problems += [problem for key in _CHECKPOINTS if (problem := name_problem(key, _text(cfg.get(key))))]
    problems += (
        [
            *match_problems(cfg),
            *class_problems(cfg),
            *start_problems(cfg),
            *monitor_problems(cfg),
            *unlimited(cfg),
            *expect_problems(cfg),
        ]
        if not problems
        else []
    )
    if problems:
        raise ConfigError(listed(problems))


def _untrusted(reference: DictConfig) -> Iterator[str]:
    """Yields a message for each class whose name in a checkpoint would keep it from being read."""

    def walk(node: Any, key: str) -> Iterator[str]:
        for name, value in cast(dict[str, Any], node).items() if isinstance(node, dict) else ():
            path = f"{key}.{name}"
            if name == "_target_" and not is_trusted(str(value)):
                yield f"{path}={value} ({origin(path)}): {explain_untrusted(str(value))}"
            elif path not in FREE:
                yield from walk(value, path)

    for part in ("model", "data"):
        yield from walk(plain(reference).get(part), part)


def _left_open(cfg: DictConfig) -> Iterator[str]:
    """Yields a message for each value that a recipe leaves to the command line, which has not given it."""
    only_data = "read_images" in cfg  # as of inspect_data.py, which trains nothing
    for entry in entries():
        if entry.path.startswith("experiment/"):
            for key in left_open(entry.path):
                if OmegaConf.select(cfg, key) is None and (key.startswith("data.") or not only_data):
                    yield f"{key} is missing; give {key}=... ({remark(key, find_file('', entry.path))})"


class _Check:
    """Walks a config beside its reference; yields a message for each mistake."""

    def __init__(self, cfg: DictConfig, reference: DictConfig) -> None:
        self.cfg, self.reference, self.known = cfg, reference, plain(reference)

    def mapping(self, key: str, node: dict[str, Any], default: dict[str, Any]) -> Iterator[str]:
        target: str | None = default.get("_target_")
        try:
            kinds = parameters(target) if target else None
        except LookupError:
            package, where = str(target).partition(".")[0], "src/"
            if not is_ours(str(target)):
                where = (
                    f"the places of PYTHONPATH and of installed packages; PYTHONPATH=FOLDER adds one that has {package}"
                )
            yield f"{self._described(f'{key}._target_')}: there is no such class or function in {where}"
            return
        for name, value in node.items():
            path = f"{key}.{name}" if key else name
            if name not in default:
                yield misplaced(path) or unknown(path, origin(path), self.known)
            elif kinds is not None and not name.startswith("_") and name not in kinds:
                yield f"{self._described(path)}: {target} has no such parameter{nearest(name, kinds)}"
            elif path in FREE:
                yield from self.free(path, value)
            elif isinstance(default[name], dict):
                if isinstance(value, dict):
                    yield from self.mapping(path, cast(dict[str, Any], value), default[name])
                else:
                    yield f"{self._described(path)}: expected a mapping with {', '.join(default[name])}"
            elif name == "_target_":
                if value != target:
                    yield f"{self._described(path)}: expected {target}; another class gets its own file in conf/"
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
        if expected := _expected(path, value, kind or _kind_of(_resolved(self.reference, path))):
            yield f"{self._described(path)}: expected {expected}"

    def free(self, path: str, node: Any) -> Iterator[str]:
        if node is not None and not isinstance(node, dict):
            yield f"{self._described(path)}: expected a mapping of named nodes, or null"
            return
        for name, child in cast(dict[str, Any], node or {}).items():
            target = cast(dict[str, Any], child).get("_target_") if isinstance(child, dict) else None
            if not str(target).startswith(FREE[path]):
                yield f"{self._described(f'{path}.{name}')}: expected a mapping with a _target_ in {FREE[path]}*"

    def _described(self, path: str) -> str:
        value = OmegaConf.select(self.cfg, path, throw_on_resolution_failure=False)
        return f"{path}={value!r} ({origin(path)})"


def refuse_value(stored: DictConfig, key: str, value: Any) -> None:
    """ConfigError where a setting of a stored config, which may not compose today, gets a value that is not legal."""
    parent, _, name = key.rpartition(".")
    target = OmegaConf.select(stored, f"{parent}._target_") if parent else None
    kinds = (parameters(target) if target else None) or {}
    kind = kinds.get(name, Any) if kinds else KINDS.get(key, _kind_of(_plain(OmegaConf.select(stored, key))))
    if not isinstance(value, dict | DictConfig) and (expected := _expected(key, _plain(value), kind)):
        raise ConfigError(f"{key}={value!r} ({origin(key)}): expected {expected}")


def _expected(path: str, value: Any, kind: Any) -> str:
    """What is expected in place of a value; empty where it is legal."""
    if not accepts(kind, value):
        text = f": \"{path}='{value}'\"" if isinstance(value, int | float) and accepts(kind, "x") else ""
        return f"{describe(kind)}{text}{nearest(str(value), words(kind))}"
    is_legal, expected = LIMITS.get(path, (None, ""))
    return "" if is_legal is None or is_legal(value) else expected


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value != "???" else None


def _resolved(cfg: DictConfig, path: str) -> Any:
    return _plain(OmegaConf.select(cfg, path))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _kind_of(default: Any) -> Any:
    return Any if default is None else type(cast(object, default))
