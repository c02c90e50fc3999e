"""Completes a command line by what a checkpoint stores, before Hydra reads it.

All else that is given on it can then be checked against the keys of the checkpoint's own choices. Imports nothing heavy
unless a checkpoint has to be read.
"""

import importlib
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Override

from boxwright.config.command_line import given
from boxwright.config.errors import ConfigError
from boxwright.config.files import at, find_file, loaded, options
from boxwright.config.trusted import trust
from boxwright.zoo.names import NO_DATA, published, refuse_unknown, trunk

Completion = Callable[[list[str]], list[str]]
"""Takes the arguments of a command line, and returns them with what the checkpoint adds."""

_CHOSEN = ("model", "model/backbone", "data", "experiment")
"""Groups whose choice is fixed by the checkpoint."""
_COMPLETED = ("model", "model/backbone", "data", "optimizer", "schedule")


def complete(completion: Completion) -> None:
    """Completes `sys.argv`; ends with status 2 where the checkpoint can't be read."""
    trusted = given(sys.argv[1:]).get("trusted_packages")
    if trusted is not None and isinstance(trusted.value(), list):
        trust(str(package) for package in cast("list[Any]", trusted.value()))
    try:
        sys.argv[1:] = completion(sys.argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def data_set(argv: list[str]) -> list[str]:
    """Adds the checkpoint's data set, its kind and its place, where `data.KEY=...` is given without `data=`."""
    overrides = given(argv)
    checkpoint = _checkpoint(overrides)
    is_whole = "data" in overrides or not any(key.startswith("data.") for key in overrides)
    if is_whole or checkpoint is None:
        return argv
    stored = _stored(checkpoint)
    files = _files(checkpoint, stored, ["data"], "give data= with one of {options}")
    return [*argv, *files, *_root(checkpoint, stored, overrides)]


def run(argv: list[str]) -> list[str]:
    """Adds, with `checkpoint=FILE`, the files of conf/ that its run has chosen, and the place of its data."""
    overrides = given(argv)
    checkpoint = _checkpoint(overrides)
    if checkpoint is None:
        return argv
    for group in _CHOSEN:
        if group in overrides:
            raise ConfigError(
                f"{overrides[group].input_line}: checkpoint={checkpoint} brings its own model and data; leave it "
                "out, or give init_from in place of checkpoint to put its weights into the model of this command"
            )
    groups = [group for group in _COMPLETED if group not in overrides]
    stored = as_of_a_run(_stored(checkpoint))
    for group in groups:
        if str(at(stored, f"{group}._target_")).endswith(".not_stored"):
            raise ConfigError(
                f"checkpoint={checkpoint} could not store the {group} of the program that wrote it; give {group}= with "
                f"one of {', '.join(options(group))}"
            )
    files = _files(checkpoint, stored, groups, "give init_from and its settings")
    return [*argv, *files, *_root(checkpoint, stored, overrides)]


def as_of_a_run(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint, of a Trainer of the user's own too: there optimizer and schedule are the model's
    alone, and rate and iterations were not scaled."""
    if "optimizer" in stored:
        return dict(stored)
    model = stored["model"]
    own = {key: model[key] for key in ("optimizer", "schedule") if key in model}
    return {**stored, **own, "scale_schedule": False}


def start(argv: list[str]) -> list[str]:
    """Adds, with `init_from=NAME` of a published checkpoint, the settings that its weights need; so with
    `model.backbone.weights=NAME` of a published trunk.

    They go before those of a recipe; what the command line gives stays. Spare columns of a softmax are of use to the
    published classes alone, and are not taken over.
    """
    overrides = given(argv)
    name = _value(overrides.get("init_from"))
    if name is None:
        named_trunk = trunk(_value(overrides.get("model.backbone.weights")))
        needed = () if named_trunk is None else named_trunk.network
        return [*argv, *(line for line in needed if line.partition("=")[0] not in overrides)]
    refuse_unknown("init_from", name)
    if (named := published(name)) is None:
        return argv
    needed = [line for line in named[0].network if line.partition("=")[0] not in (*overrides, "model.spare_columns")]
    for line in named[0].network[:1]:  # the model
        group, _, choice = line.partition("=")
        if group in overrides and overrides[group].value() != choice:
            raise ConfigError(
                f"{overrides[group].input_line}: init_from={name} holds the weights of {line}; leave one of the two out"
            )
    return [*argv, *needed]


def _checkpoint(overrides: dict[str, Override]) -> str | None:
    checkpoint = _value(overrides.get("checkpoint"))
    refuse_unknown("checkpoint", checkpoint)
    return checkpoint


def _value(override: Override | None) -> str | None:
    if override is None or override.is_sweep_override() or override.value() is None:
        return None
    return str(override.value())


def _stored(checkpoint: str) -> dict[str, Any]:
    # Imported only here: it takes seconds, and most command lines need no checkpoint.
    from boxwright.checkpoints.reading import read_checkpoint
    from boxwright.checkpoints.remembered import remember

    contents = read_checkpoint(checkpoint)
    remember(checkpoint, contents)  # the script itself reads it next
    return contents["boxwright"]["config"]


def _files(checkpoint: str, stored: dict[str, Any], groups: Iterable[str], remedy: str) -> list[str]:
    """Finds the choice of each group that has the `_target_` in the checkpoint's config."""
    lines: list[str] = []
    for group in groups:
        target: object = at(stored, f"{group.replace('/', '.')}._target_")
        names = [name for name in options(group) if is_same(loaded(find_file(group, name)).get("_target_"), target)]
        if not names:
            raise ConfigError(
                f"checkpoint={checkpoint}: its {group}, {target}, has no file in conf/{group}; "
                + remedy.format(options=", ".join(options(group)))
            )
        lines.append(f"{group}={names[0]}")
    return lines


def is_same(ours: str | None, stored: object) -> bool:
    """Whether a `_target_` of conf/, which may be a name in its package, is the one that a checkpoint stores, which may
    be where it is defined."""
    if ours is None or ours == stored:
        return ours == stored
    module, _, name = ours.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):  # of a choice that is not the checkpoint's
        return False
    return stored == f"{found.__module__}.{found.__qualname__}"


def _root(checkpoint: str, stored: dict[str, Any], overrides: dict[str, Override]) -> list[str]:
    root = stored["data"].get("root")
    if "data.root" in overrides or root is None:
        return []
    if root == NO_DATA:
        raise ConfigError(f"checkpoint={checkpoint} brings no data; give data.root=FOLDER")
    from reports.commands import override

    return shlex.split(override("data.root", Path(root)))
