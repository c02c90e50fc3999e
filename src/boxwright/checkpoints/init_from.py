"""Starts a run from another run's weights: `init_from`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from boxwright.checkpoints.reading import read_checkpoint
from boxwright.config.errors import ConfigError
from boxwright.runs.newest import or_newest_checkpoint
from boxwright.zoo.names import published, refuse_unknown
from lit_modules.training_module import TrainingModule

log = logging.getLogger(__name__)


def start_from(module: TrainingModule, path: str, class_names: Sequence[str]) -> None:
    """Loads a checkpoint's weights (the averaged ones where its run averaged); optimizer and schedule begin anew.

    Where the number of classes differs, tensors whose first dimension counts classes keep their new values, and
    are listed. The pixel mean and deviation that the backbone was trained with come along. ConfigError where anything
    else differs: an `init_from` that silently loads half a network is worse than none.
    """
    refuse_unknown("init_from", path)
    if published(path) is None and not Path(path).is_file():
        raise ConfigError(
            f"init_from={path}: {Path(path).resolve()} is no file{or_newest_checkpoint('init_from', Path(path))}, or a "
            "published one by its name (docs/zoo.md)"
        )
    checkpoint = read_checkpoint(path)
    stored = checkpoint["boxwright"]
    ours = module.state_dict()
    theirs = _without_spare(checkpoint["state_dict"], stored["config"]["model"].get("spare_columns", 0), module)
    names = list(stored["class_names"])
    of_classes = [
        name
        for name, tensor in theirs.items()
        if len(names) != len(class_names)
        and name in ours
        and tensor.shape != ours[name].shape
        and tensor.shape[1:] == ours[name].shape[1:]
        and _count_classes(len(tensor), len(ours[name]), len(names), len(class_names))
    ]
    misfits = sorted(theirs.keys() ^ ours.keys())
    misfits += [
        f"{name} ({tuple(tensor.shape)} there, {tuple(ours[name].shape)} here)"
        for name, tensor in theirs.items()
        if name in ours and name not in of_classes and tensor.shape != ours[name].shape
    ]
    if misfits:
        kind, own = stored["config"]["model"]["_target_"].split(".")[-1], type(module).__name__
        relation = "with other settings than this run's" if kind == own else "and this run trains a"
        raise ConfigError(
            f"init_from={path}: it contains a {kind} {relation} {own}: {len(misfits)} tensors do not fit, such as "
            f"{misfits[0]}. Give the model settings of its config.yaml, or take its backbone alone with "
            "model.backbone.weights=FILE"
        )
    module.load_state_dict({name: ours[name] if name in of_classes else theirs[name] for name in ours})
    step = f" (step {checkpoint['global_step']})" if "global_step" in checkpoint else ""
    log.info("starts from the weights of %s%s", path, step)
    if of_classes:
        log.info(
            "skipped, since it has %d classes and this run %d: %s",
            len(names), len(class_names), ", ".join(name.removeprefix("network.") for name in of_classes),
        )  # fmt: skip
    elif names != list(class_names):
        log.warning(
            "the weights of init_from are for the classes %s, this run is for %s: each class starts from the weights "
            "of the one in its place", names, list(class_names),
        )  # fmt: skip


def _without_spare(state: Mapping[str, Tensor], spare: int, module: TrainingModule) -> dict[str, Tensor]:
    """Leaves out the spare columns of a Faster R-CNN's head where this run's has none or another number of them."""
    if not spare or getattr(module.network, "spare_columns", spare) == spare:
        return dict(state)
    columns = len(state["network.logits.weight"])
    kept = {name: len(value) // columns * (columns - spare) for name, value in state.items() if _is_of_columns(name)}
    return {name: value[: kept[name]] if name in kept else value for name, value in state.items()}


def _is_of_columns(name: str) -> bool:
    return name.startswith(("network.logits.", "network.deltas."))


def _count_classes(theirs: int, ours: int, their_classes: int, our_classes: int) -> bool:
    """Whether two dimensions are the same multiple of the classes, or of the classes and background."""
    return any(theirs * (our_classes + extra) == ours * (their_classes + extra) for extra in (0, 1))
