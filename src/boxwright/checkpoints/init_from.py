"""Starts a run from another run's weights: `init_from`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from boxwright.checkpoints.building import build_module, expected_state
from boxwright.checkpoints.class_names import Match, match_classes
from boxwright.checkpoints.reading import read_checkpoint, source_of
from boxwright.config.errors import ConfigError, few
from boxwright.runs.newest import or_newest_checkpoint
from boxwright.zoo.names import is_named, refuse_unknown
from detectors.class_rows import ClassRows, HasClassRows, with_rows_of
from lit_modules.stored import without_weights
from lit_modules.training_module import TrainingModule

log = logging.getLogger(__name__)

Rows = tuple[ClassRows, ClassRows] | None
"""Where the classes lie in a tensor, here and there; None where the network does not tell."""


def start_from(
    module: TrainingModule,
    path: str,
    class_names: Sequence[str],
    init_classes: Mapping[str, str | None] | None = None,
) -> str:
    """Loads a checkpoint's weights (the averaged ones where its run averaged); optimizer and schedule begin anew.

    Rows of the head's classes are taken by name, `class_names` being those of the module, in the order of their labels;
    `init_classes` says of some of them from which of the checkpoint's they start, or None. Classes that the checkpoint
    lacks keep the module's own, new weights, and the log lists them. The pixel mean and deviation that the backbone was
    trained with come along. ConfigError where anything else differs: an `init_from` that silently loads half a network
    is worse than none. Returns what was read: `path`, or of the Hub the address of the commit.
    """
    checkpoint = _read(path)
    stored = checkpoint["boxwright"]
    if init_classes and not _class_rows(module.network):
        raise ConfigError(
            f"init_classes={dict(init_classes)}: {type(module).__name__} does not tell of rows for classes "
            "(class_rows in docs/adding_a_detector.md); leave it out"
        )
    match = match_classes(class_names, stored["class_names"], init_classes)
    ours, theirs = module.state_dict(), checkpoint["state_dict"]
    heads = _heads(module, stored["config"]["model"], theirs)
    heads = {name: rows for name, rows in heads.items() if _fits(rows, ours.get(name), theirs.get(name), match)}
    misfits = sorted(theirs.keys() ^ ours.keys())
    misfits += [
        f"{name} ({tuple(tensor.shape)} there, {tuple(ours[name].shape)} here)"
        for name, tensor in theirs.items()
        if name in ours and name not in heads and tensor.shape != ours[name].shape
    ]
    if misfits:
        kind, own = stored["config"]["model"]["_target_"].split(".")[-1], type(module).__name__
        relation = "with other settings than this run's" if kind == own else "and this run trains a"
        raise ConfigError(
            f"init_from={path}: it contains a {kind} {relation} {own}: {len(misfits)} tensors do not fit, such as "
            f"{misfits[0]}. Give the model settings of its config.yaml, or take its backbone alone with "
            "model.backbone.weights=FILE"
        )
    taken = dict(theirs)
    for name, rows in heads.items():
        if rows is not None:
            taken[name] = with_rows_of(ours[name], theirs[name], rows, match.source)
        elif not match.is_same:
            taken[name] = ours[name]
    module.load_state_dict(taken)
    step = f" (step {checkpoint['global_step']})" if "global_step" in checkpoint else ""
    source = source_of(checkpoint, path)
    log.info("starts from the weights of %s%s", source, step)
    layers = sorted({name.removeprefix("network.").rpartition(".")[0] for name in heads})
    for line in _told(module, match, layers):
        log.info("%s", line)
    return source


def _read(path: str) -> dict[str, Any]:
    refuse_unknown("init_from", path)
    if not is_named(path) and not Path(path).is_file():
        raise ConfigError(
            f"init_from={path}: {Path(path).resolve()} is no file{or_newest_checkpoint('init_from', Path(path))}, or a "
            "published one by its name (docs/zoo.md), or hf://USER/REPO"
        )
    return read_checkpoint(path)


def _heads(module: TrainingModule, model: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Rows]:
    """The tensors that have rows for classes, by name."""
    with torch.device("meta"):
        other = build_module(without_weights(model)).network
    ours, theirs = _class_rows(module.network), _class_rows(other)
    if ours is None or theirs is None:
        return dict.fromkeys(_counting(model, state))
    return {
        name: (ours[layer], theirs[layer])
        for layer in ours.keys() & theirs.keys()
        for name in (f"network.{layer}.weight", f"network.{layer}.bias")
        if name in state
    }


def _class_rows(network: nn.Module) -> Mapping[str, ClassRows] | None:
    return cast(HasClassRows, network).class_rows() if hasattr(network, "class_rows") else None


def _counting(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> set[str]:
    """Tensors of a network that does not tell where its classes lie: those that grow with the number of classes."""
    number = model.get("num_classes")
    if not isinstance(number, int):
        return set()
    try:
        larger = expected_state({**model, "num_classes": number + 1})
    except Exception:  # it has the number of classes that it can have
        return set()
    return {name for name, tensor in larger.items() if name in state and tensor.shape != state[name].shape}


def _fits(rows: Rows, ours: Tensor | None, theirs: Tensor | None, match: Match) -> bool:
    """Whether two tensors differ in the number of classes at most."""
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return False
    if rows is None:
        return True
    new, old = rows
    alike = (new.outer, new.before, new.inner) == (old.outer, old.before, old.inner)
    known = not match.ours or len(ours) == new.number(len(match.ours))
    return alike and known and len(theirs) == old.number(len(match.theirs))


def _told(module: TrainingModule, match: Match, layers: Sequence[str]) -> Iterator[str]:
    """Says what became of the classes."""
    own = _class_rows(module.network)
    if match.is_same or own == {}:
        return
    if own is None:
        how = f"drawn anew as a whole: {', '.join(layers)}" if layers else "are taken by their places"
        yield (
            f"the classes are others than the checkpoint's ({few(match.theirs)}), and {type(module.network).__name__} "
            f"does not tell which rows are whose (class_rows in docs/adding_a_detector.md); its layers of classes {how}"
        )
    elif not match.ours:
        yield f"the names of this run's classes are not known; all are drawn anew, in {', '.join(layers)}"
    else:
        yield from match.lines()
