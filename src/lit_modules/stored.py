"""What a checkpoint says of the objects that it was trained with, and those objects made again.

A run of train.py stores its config. Without one the objects are described by what they were made with, in the same
form: `_target_` names a class or function, `_partial_` says that it is called later.
"""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast, get_type_hints

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detectors.arguments import KeepsArguments
from lit_modules import optimizers, schedules
from lit_modules.machine import environment

FORMAT = 2
"""Version of `boxwright` in a checkpoint: raised when an older version of its reader would misread a newer one.

1 (version 0.1.0) has no nodes for loss and decoder in `config`; it is translated when it is read.
"""
OURS = ("detectors", "lit_modules", "torch.optim")
_KINDS = (nn.Module, pl.LightningDataModule, Optimizer, LRScheduler)
_LATER = {"optimizer": optimizers.not_stored, "schedule": schedules.not_stored}
"""What stands for an optimizer or schedule that only training needs."""
_SIZING = ("rule", "resize", "eval_batch_size")


def part_of_a_run(target: object, packages: Iterable[str]) -> Any | None:
    """The class or function that a `_target_` names, if it lies in one of the packages and makes a network, loss,
    decoder, data module, optimizer or schedule, by the class that is named or that the function says it returns."""
    packages = tuple(f"{package}." for package in packages)
    if not isinstance(target, str) or not target.startswith(packages):
        return None
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    made = found if isinstance(found, type) else get_type_hints(found).get("return") if callable(found) else None
    if not isinstance(made, type):
        return None
    return found if issubclass(made, _KINDS) or _is_loss_or_decoder(cast("type[Any]", made), packages) else None


def _is_loss_or_decoder(made: type[Any], packages: tuple[str, ...]) -> bool:
    """Whether a class with `__call__` is defined in `detectors` or in a package of the user's."""
    places = tuple(package for package in packages if package not in ("lit_modules.", "datamodules.", "torch.optim."))
    return f"{made.__module__}.".startswith(places) and any("__call__" in vars(base) for base in made.__mro__)


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with pretrained weights off wherever they stand, which a checkpoint replaces anyway."""
    plain = {key: None if key == "weights" else value for key, value in config.items()}
    return {k: without_weights(cast(Mapping[str, Any], v)) if isinstance(v, Mapping) else v for k, v in plain.items()}


# What is stored


class _UnknownError(ValueError):
    """A value that plain data can't describe."""


def describe(module: KeepsArguments, data: object, trainer: pl.Trainer, channels_last: bool) -> dict[str, Any]:
    """Config and versions of a training without a config, as `TrainingModule.run` has them.

    `not_stored` has a reason for each part that can't be described, from which no detector can be made again.
    """
    reasons: dict[str, str] = {}
    model: dict[str, Any] = {"_target_": _path(type(module))}
    for name, value in module.arguments.items():
        try:
            model[name] = _described(value)
        except _UnknownError as error:
            reasons[f"model.{name}"] = str(error)
    for name in _LATER.keys() & module.arguments.keys():
        stored = cast("dict[str, Any]", model.get(name) or {})
        if part_of_a_run(stored.get("_target_"), OURS) is None:
            reasons.pop(f"model.{name}", None)
            model[name] = _described(_LATER[name])
    try:
        _nameable(type(module))
    except _UnknownError as error:
        reasons["model"] = str(error)
    config: dict[str, Any] = {"name": type(module).__name__, "model": model, "channels_last": channels_last}
    config["trainer"] = {
        "precision": _mixed(str(trainer.precision)),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": None if trainer.gradient_clip_val is None else float(trainer.gradient_clip_val),
    }
    if is_dataclass(data) and all(hasattr(data, name) for name in _SIZING):
        config["data"] = _settings(data)
    else:
        reasons["data"] = "it was trained on loaders that don't say how pictures are resized"
    return {"format": FORMAT, "config": config, "versions": _versions(), "not_stored": reasons}


def _mixed(precision: str) -> str:
    return precision if precision in ("bf16-mixed", "16-mixed") else "32-true"


@cache
def _versions() -> dict[str, str]:
    return environment()


def _path(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _nameable(kind: Any) -> str:
    """The `_target_` of a class or function, which another program must be able to import."""
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        where = "in the script itself" if kind.__module__ == "__main__" else "inside a function"
        raise _UnknownError(f"{kind.__qualname__} is defined {where}, where no other program can import it")
    return _path(kind)


def _described(value: Any) -> Any:
    """Plain data of a constructor's argument."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case list() | tuple():
            return [_described(item) for item in cast("list[Any]", value)]
        case Mapping():
            return {str(key): _described(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        case partial():
            if value.args:
                raise _UnknownError("a partial with positional arguments; give them by name")
            return {"_target_": _nameable(value.func), "_partial_": True, **_described(value.keywords)}
        case KeepsArguments():
            return {"_target_": _nameable(type(value)), **_described(value.arguments)}
        case _ if is_dataclass(value) and not isinstance(value, type):
            values = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
            return {"_target_": _nameable(type(value)), **_described(values)}
        case _ if inspect.isfunction(value) or isinstance(value, type):
            return {"_target_": _nameable(value), "_partial_": True}
        case _:
            raise _UnknownError(f"a {type(value).__name__} is no plain value, dataclass or part of this project")


def _settings(data: Any) -> dict[str, Any]:
    """The constructor's arguments of a data module, by the nearest of its classes that can be imported."""
    kind = next(kind for kind in type(data).__mro__ if kind.__module__ != "__main__" and "<" not in kind.__qualname__)
    settings: dict[str, Any] = {"_target_": _path(kind)}
    for field in fields(kind):
        try:
            settings |= {field.name: _described(getattr(data, field.name))} if field.init else {}
        except _UnknownError:  # augmentations, perhaps, which nothing but training needs
            continue
    return settings


# What is made again


def arguments_of(kind: type[Any], path: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's constructor as a checkpoint stores them, but for those given.

    Runs no code but this project's. ValueError where the file is none of this project's, holds another module, or
    lacks an argument that isn't given.
    """
    stored = _contents(path).get("boxwright", {})
    if stored.get("format") != FORMAT:
        raise ValueError(
            f"{path} was not written by this version of the project; load_detector(path).module reads older ones"
        )
    model = stored["config"]["model"]
    name = str(model["_target_"]).rpartition(".")[2]
    if name not in [base.__name__ for base in kind.__mro__]:
        raise ValueError(f"{path} holds {name}, not {kind.__name__}; call {name}.load_from_checkpoint")
    missing = {key.removeprefix("model."): why for key, why in stored.get("not_stored", {}).items() if "." in key}
    made: dict[str, Any] = {}
    for key, node in without_weights(model).items():
        if key not in ("_target_", *given):
            try:
                made[key] = rebuilt(node)
            except _UnknownError as error:
                missing[key] = str(error)
    if lacking := {key: why for key, why in missing.items() if key not in given}:
        names = ", ".join(f"{key}=..." for key in lacking)
        reasons = "; ".join(f"{key}: {why}" for key, why in lacking.items())
        raise ValueError(f"{path} can't tell how to make all of its {name} ({reasons}); pass {names}")
    return made


def _contents(path: Any) -> dict[str, Any]:
    """Reads a checkpoint without running its code; ValueError without torch's advice to trust the file."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} does not exist, seen from {Path.cwd()}; give a file that a Trainer has saved"
        ) from error
    except Exception as error:  # a damaged file may fail anywhere in the reader
        what = (
            "holds other objects than tensors and plain values" if "GLOBAL" in str(error) else "is no whole checkpoint"
        )
        raise ValueError(f"{path} {what}; give another file that a Trainer has saved") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} holds a {type(contents).__name__}; expected a checkpoint that a Trainer has saved")
    return cast("dict[str, Any]", contents)


def rebuilt(node: Any) -> Any:
    """The objects that a description names, of this project and of torch.optim alone."""
    if isinstance(node, list):
        return [rebuilt(item) for item in cast("list[Any]", node)]
    if not isinstance(node, Mapping):
        return node
    node = cast("Mapping[str, Any]", node)
    values = {key: rebuilt(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return values
    made = part_of_a_run(node["_target_"], OURS)
    if made is None:
        raise _UnknownError(f"{node['_target_']} is not part of this project")
    return partial(made, **values) if node.get("_partial_") else made(**values)
