"""The data set that a checkpoint is scored on: its own, but for what the command line says."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from boxwright.config.command_line import given
from boxwright.config.compatible import has_whole_images
from boxwright.config.errors import ConfigError
from boxwright.config.files import find_file, loaded, options

_OF_ANY_KIND = ("resize", "rule", "eval_batch_size")
"""Settings that a checkpoint keeps on a data set of another kind too."""
_OF_THE_MACHINE = ("root", "cache_dir", "num_workers")
_OF_TRAINING = (
    "train_split", "seed", "num_classes", "batch_size", "multi_scale", "flip", "vertical_flip", "augmentations",
    "empty_images", "min_box", "use_difficult",
)  # fmt: skip
"""Settings that no score depends on, or not without another one: not worth a word."""


def refuse_incomplete(cfg: DictConfig) -> None:
    """Says, before anything heavy is imported, what is missing to score something."""
    if (cfg.checkpoint is None) == (cfg.predictions is None):
        raise ConfigError("give either checkpoint=FILE.ckpt or predictions=FILE.json")
    if cfg.predictions is not None and cfg.get("data") is None:
        raise ConfigError("predictions=FILE.json needs a data set: data=coco data.root=FOLDER")
    key = "checkpoint" if cfg.predictions is None else "predictions"
    if not Path(cfg[key]).is_file():
        example = "RUN/checkpoints/best.ckpt" if key == "checkpoint" else "FOLDER/predictions.json"
        hint = f" is a folder; give a file, such as {example}"
        raise ConfigError(
            f"{key}={cfg[key]}{hint if Path(cfg[key]).is_dir() else f': no such file, seen from {Path.cwd()}'}"
        )


def completed(argv: list[str]) -> list[str]:
    """Where `data.KEY=...` is given without `data=`, the checkpoint's data set is meant: its kind, and its place unless
    that is given, are added."""
    overrides = given(argv)
    checkpoint = overrides.get("checkpoint")
    is_whole = "data" in overrides or not any(key.startswith("data.") for key in overrides)
    if is_whole or checkpoint is None or checkpoint.is_sweep_override():
        return argv
    # They take seconds, and only what is given in this way has to wait for them before it is checked.
    from boxwright.checkpoints.reading import read_checkpoint
    from reports.commands import override

    stored = read_checkpoint(str(checkpoint.value()))["boxwright"]["config"]["data"]
    kinds = [name for name in options("data") if loaded(find_file("data", name)).get("_target_") == stored["_target_"]]
    if not kinds:
        raise ConfigError(
            f"checkpoint={checkpoint.value()}: its data set, {stored['_target_']}, has no file in conf/data; give "
            f"data= with one of {', '.join(options('data'))}"
        )
    is_placed = "data.root" in overrides or "root" not in stored
    place = [] if is_placed else shlex.split(override("data.root", Path(stored["root"])))
    return [*argv, f"data={kinds[0]}", *place]


def data_config(cfg: DictConfig, stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data set to score on, and what of it is the checkpoint's and would else be different.

    Of a data set of the same kind everything that the command line doesn't give is the checkpoint's but where it
    lies and how it is read ahead; of another kind only how images are sized and batched.
    """
    if cfg.get("data") is None:
        return {**stored, "augmentations": None}, {}
    data = cast(dict[str, Any], OmegaConf.to_container(cfg.data, resolve=True))
    if (whole := has_whole_images(stored["_target_"])) != has_whole_images(data["_target_"]):
        raise ConfigError(
            f"{cfg.checkpoint} is a {'classifier' if whole else 'detector'}'s, to be scored on a data set with "
            f"{'classes of whole images: data=imagefolder' if whole else 'boxes, which an image folder has not'}"
        )
    keys = data if data["_target_"] == stored["_target_"] else _OF_ANY_KIND
    told = {*_OF_THE_MACHINE, *_told(cfg.split)}
    kept = {key: stored[key] for key in keys if key in stored and key not in told}
    silent = {*_OF_TRAINING, "val_split" if cfg.split == "test" else "test_split"}
    changed = {key: value for key, value in kept.items() if value != data[key] and key not in silent}
    return {**data, **kept, "augmentations": None}, changed


def _told(split: str) -> set[str]:
    """Data settings on the command line, and those that follow from them."""
    given = {line.partition("=")[0].lstrip("+") for line in HydraConfig.get().overrides.task}
    told = {key.removeprefix("data.") for key in given if key.startswith("data.")}
    if "classes" in told:
        told.add("num_classes")
    if "seed" in given:
        told.add("seed")
    if "val_split" in told or (split == "test" and "test_split" in told):
        told.add("val_fraction")  # which would score a part of the training split instead
    return told
