"""Reads a checkpoint safely and rebuilds its module; one file is enough.

`boxwright` in a checkpoint is a plain dict: `config` (the run's, resolved), `class_names`, `category_ids`,
`exif` (whether orientations were applied), `metrics` and `thresholds` (of the last validation), `versions`, `format`,
`started_from` (what `init_from` has read, of the Hub with the commit).
"""

import io
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from hydra.errors import InstantiationException
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from boxwright.checkpoints.building import build_module, expected_state
from boxwright.checkpoints.remembered import recalled, remember
from boxwright.checkpoints.trust import refuse_foreign, refuse_overgrown
from boxwright.config.earlier import NODES, translated
from boxwright.config.errors import ConfigError
from boxwright.config.trusted import UntrustedError
from boxwright.runs.newest import or_newest_checkpoint
from boxwright.zoo.address import address_of, is_address
from boxwright.zoo.entry import Entry
from boxwright.zoo.names import name_problem, published
from evaluation.files import write_whole
from lit_modules.stored import FORMAT, without_weights
from lit_modules.training_module import TrainingModule

_NEEDED = {
    "model": ("_target_",),
    "data": ("_target_", "rule", "resize", "eval_batch_size"),
    "trainer": ("precision",),
}
"""Keys that every checkpoint's config must have, beside `channels_last`."""
_TO_RESUME = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
_BEFORE = "Remove it, and resume continues from the checkpoint before it, or from the start"


class CheckpointError(ConfigError):
    """A file can't be used as a checkpoint; names the file, the reason and what to do."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file and renames it, so that a checkpoint is whole or not there; reads tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(path, buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU: whole, finite, and matching the module that its config describes.

    In place of a path it takes the name of a published checkpoint, `torchvision/fcos_resnet50_fpn`, a name with its
    file, `NAME=FILE` (docs/zoo.md lists them), or an address on the Hub, `hf://USER/REPO[@REVISION][/FILE]`. Runs no
    code of the file, uses no class but those that `boxwright.checkpoints.trust` accepts, and takes no more memory than
    the file has bytes. CheckpointError, a ValueError, if it isn't such a file.
    """
    if (kept := recalled(path)) is not None:
        return kept
    if (named := published(path)) is not None:
        return _read_published(*named)
    if is_address(path):
        return _read_from_hub(path)
    if problem := name_problem("checkpoint", path):
        raise CheckpointError(problem)
    return _read_file(Path(path))


def _read_file(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder{or_newest_checkpoint('checkpoint', path)}")
    if not path.is_file():
        newest = or_newest_checkpoint("checkpoint", path)
        raise CheckpointError(f"checkpoint {path} does not exist (from {Path.cwd()}){newest}")
    try:
        _refuse_damaged(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in the reader
        raise CheckpointError(
            f"{path} can't be read as a checkpoint ({path.stat().st_size} bytes): {_reason(error)}; use another "
            "checkpoint of the run"
        ) from error
    if not isinstance(contents, dict) or "state_dict" not in contents or "boxwright" not in contents:
        raise CheckpointError(
            f"{path} is not a checkpoint of this project: it lacks `state_dict` or `boxwright`. For weights of "
            "a backbone alone give model.backbone.weights=FILE"
        )
    _refuse_incomplete(path, cast(dict[str, Any], contents))
    try:
        _check(cast(dict[str, Any], contents))
    except UntrustedError as error:
        raise CheckpointError(f"{path} can't be used: {error}") from error
    except Exception as error:  # as may a constructor, given the values of a damaged or hostile config
        raise CheckpointError(
            f"{path} can't be used: {_reason(error)}. It was damaged, changed, or written by another version of this "
            "project; use another checkpoint"
        ) from error
    cast(dict[str, Any], contents)["boxwright"].pop(_SOURCE, None)  # none but this file's reader may say it
    return cast(dict[str, Any], contents)


def _read_from_hub(given: str | Path) -> dict[str, Any]:
    from boxwright.zoo.hub import local_copy

    try:
        copy = local_copy(address_of(given))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    try:
        contents = _read_file(copy.file)
    except CheckpointError as error:
        raise CheckpointError(f"{given}: {error}") from error
    contents["boxwright"][_SOURCE] = str(copy.address)
    return contents


_SOURCE = "read_from"


def source_of(contents: Mapping[str, Any], given: str) -> str:
    """What a checkpoint was read from: of the Hub the address of the commit, else the path or name that was given."""
    return contents["boxwright"].get(_SOURCE, given)


def _read_published(entry: Entry, file: Path | None) -> dict[str, Any]:
    from boxwright.zoo.contents import read_published

    try:
        contents = read_published(entry, file)
        _check(contents)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:
        raise CheckpointError(f"{file or entry.name} can't be used as {entry.name}: {_reason(error)}") from error
    return contents


def _refuse_damaged(path: Path) -> None:
    """Raises ValueError for changed bytes, which torch overlooks, and for compression, which it unpacks to any size."""
    with ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed, as no checkpoint is")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"its part {damaged} was changed since it was written")


def _reason(error: Exception) -> str:
    """Writes the error in one line, without torch's advice to trust the file."""
    text = str(error)
    if isinstance(error, BadZipFile):
        return "it is cut short, or not a checkpoint"
    if isinstance(error, UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", text)
        what = named[1] if named else "objects"
        return f"it contains {what}, not only tensors and plain values, and reading that could run any code"
    if isinstance(error, KeyError):
        return f"it lacks {text}"
    if isinstance(error, InstantiationException):
        return " ".join(text.split())[:500]
    return text.splitlines()[0] if text else type(error).__name__


def _check(contents: dict[str, Any]) -> None:
    """Raises ValueError unless a checkpoint is complete and consistent."""
    stored = _mapping(contents, "boxwright")
    if (number := stored.get("format", 1)) not in (1, FORMAT):
        raise ValueError(f"it has format {number!r}, and this version reads formats 1 to {FORMAT}")
    refuse_overgrown(_mapping(stored, "config"))
    if number == 1:
        stored |= {"config": translated(stored["config"]), "format": FORMAT}
    config = _mapping(stored, "config")
    absent = [f"{part}.{key}" for part, keys in _NEEDED.items() for key in keys if key not in _mapping(config, part)]
    if absent or not isinstance(config.get("channels_last"), bool):
        raise ValueError(f"its config lacks {', '.join(absent) or 'channels_last'}")
    refuse_foreign(without_augmentations(config["data"]), "data")
    names, numbers = stored["class_names"], stored["category_ids"]
    if not _are(str, names) or not _are(int, numbers) or len(names) != len(numbers):
        raise ValueError(
            f"its class_names {reprlib.repr(names)} and category_ids {reprlib.repr(numbers)} don't go together"
        )
    if len(names) != config["model"].get("num_classes", len(names)):
        raise ValueError(f"it has {len(names)} class_names, but model.num_classes={config['model']['num_classes']}")
    state = _mapping(contents, "state_dict")
    if strays := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{len(strays)} entries of its state_dict are not tensors: {_some(strays)}")
    expected = expected_state(config["model"], 2 * len(state) + 100)
    for name in NODES.get(config["model"]["_target_"], ()):
        if "_target_" not in _mapping(config["model"], name):
            raise ValueError(f"its model.{name} names no class")
    _refuse_misfit(state, expected)


def _refuse_incomplete(path: Path, contents: dict[str, Any]) -> None:
    """CheckpointError for a file, of a training without a config, that could not store all that it needs."""
    stored = contents["boxwright"]
    reasons = cast(dict[str, Any], stored).get("not_stored") if isinstance(stored, dict) else None
    if reasons and isinstance(reasons, dict):
        listed = "; ".join(f"{key}: {why}" for key, why in cast(dict[str, Any], reasons).items())
        raise CheckpointError(
            f"{path} does not hold all that a detector is made of ({listed}). In the program that trained it, "
            f"load_from_checkpoint of its module reads it, for trainer.predict"
        )


def _mapping(node: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(node.get(key), dict):
        raise ValueError(f"its {key} is not a mapping")
    return node[key]


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in cast("list[Any]", values))


def _refuse_misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the state has exactly the expected tensors, with their shapes, all finite."""
    if absent := sorted(expected.keys() - state.keys()):
        raise ValueError(f"{len(absent)} of {len(expected)} tensors are missing: {_some(absent)}")
    if unknown := sorted(state.keys() - expected.keys(), key=str):
        raise ValueError(f"{len(unknown)} tensors have no place in its network: {_some(unknown)}")
    wrong = [
        f"{name} is {_described(state[name])}, expected {_described(tensor)}"
        for name, tensor in expected.items()
        if _described(state[name]) != _described(tensor)
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(expected)} tensors do not fit: {_some(wrong)}")
    infinite = [name for name, tensor in state.items() if not tensor.float().isfinite().all()]
    if infinite:
        raise ValueError(f"{len(infinite)} of {len(expected)} tensors are not finite: {_some(infinite)}")


def _described(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return str(tensor.layout)
    kind = "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    whole = tensor.is_meta or tensor.nbytes <= tensor.untyped_storage().nbytes()  # else a few numbers pose as many
    return f"{kind} {tuple(tensor.shape)}" + ("" if whole else " without its numbers")


def _some(names: list[Any], most: int = 3) -> str:
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def refuse_unresumable(path: Path, module: TrainingModule) -> str | None:
    """Raises CheckpointError unless a run with this module can continue from a checkpoint; returns what its run started
    from, with `init_from`."""
    try:
        contents = read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_BEFORE}") from error
    try:
        if absent := [key for key in _TO_RESUME if key not in contents]:
            raise ValueError(f"it lacks {', '.join(absent)}")
        for part in ("state_dict", "current_model_state"):
            _refuse_misfit(contents.get(part, contents["state_dict"]), module.state_dict())
        remember(path, contents)  # Lightning reads it next
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that this run can continue from: {error}. {_BEFORE}"
        ) from error
    return contents["boxwright"].get("started_from")


def load_module(checkpoint: Mapping[str, Any]) -> TrainingModule:
    """Builds a checkpoint's module with its weights (the averaged ones where the run averaged), in eval mode."""
    module = build_module(without_weights(checkpoint["boxwright"]["config"]["model"]))
    module.load_state_dict(checkpoint["state_dict"])
    module.lay_out(checkpoint["boxwright"]["config"]["channels_last"])
    module.run = dict(checkpoint["boxwright"])
    module.class_names = tuple(checkpoint["boxwright"]["class_names"])
    return module.eval()


def without_augmentations(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data's config without augmentations, which evaluation does not need: they are another project's."""
    return {**config, "augmentations": None}
