"""Chooses the data set that a checkpoint is scored on: its own, with the changes of the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from boxwright.config.compatible import has_whole_images
from boxwright.config.errors import ConfigError
from boxwright.runs.newest import or_newest_checkpoint
from boxwright.zoo.address import is_address
from boxwright.zoo.names import NO_DATA, published

_OF_ANY_KIND = ("resize", "rule", "max_side", "rounding", "interpolation", "eval_batch_size", "value_range")
"""Settings that a checkpoint keeps on a data set of another kind too."""
_OF_THE_MACHINE = ("root", "cache_dir", "num_workers")
_OF_TRAINING = (
    "train_split", "seed", "num_classes", "batch_size", "multi_scale", "flip", "vertical_flip", "augmentations",
    "empty_images", "repeat_threshold", "min_box", "min_visibility", "min_area", "use_difficult",
)  # fmt: skip
"""Settings that no score depends on, or only together with another one: not logged."""


def refuse_incomplete(cfg: DictConfig) -> None:
    """Raises ConfigError where a checkpoint, results file or data set is missing, before anything heavy is imported."""
    if bool(cfg.checkpoint) == bool(cfg.predictions):
        newest = or_newest_checkpoint("checkpoint")
        raise ConfigError(f"give either checkpoint=FILE.ckpt or predictions=FILE.json{newest}")
    if cfg.predictions and cfg.get("data") is None:
        raise ConfigError("predictions=FILE.json needs a data set: data=coco data.root=FOLDER")
    key = "predictions" if cfg.predictions else "checkpoint"
    if key == "checkpoint" and published(cfg.checkpoint) is not None:
        if cfg.get("data") is None:
            raise ConfigError(
                f"checkpoint={cfg.checkpoint} is a published one, which brings no data: give a data set to score it "
                "on, such as data=coco data.root=FOLDER"
            )
        return
    if key == "checkpoint" and is_address(cfg.checkpoint):
        return
    if not Path(cfg[key]).is_file():
        remedy = or_newest_checkpoint(key, Path(cfg[key]))
        if key == "predictions":
            remedy = "; give a results file, such as evaluate.py checkpoint=FILE.ckpt writes to its predictions.json"
        what = " is a folder" if Path(cfg[key]).is_dir() else f": no such file, seen from {Path.cwd()}"
        raise ConfigError(f"{key}={cfg[key]}{what}{remedy}")


def data_config(cfg: DictConfig, stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the data config to score with, and the settings in it that the checkpoint changed.

    For a data set of the same kind every setting that the command line doesn't give is the checkpoint's, except its
    place and how it is read ahead; for another kind only how images are scaled, resized and batched.
    """
    if cfg.get("data") is None:
        if stored.get("root") == NO_DATA:
            raise ConfigError(
                f"checkpoint={cfg.checkpoint} brings no data; give the place of those that it is to be scored on, "
                "data.root=FOLDER, or another data set: data=coco data.root=FOLDER"
            )
        return {**stored, "augmentations": None}, {}
    data = cast(dict[str, Any], OmegaConf.to_container(cfg.data, resolve=True))
    if (whole := has_whole_images(stored["_target_"])) != has_whole_images(data["_target_"]):
        raise ConfigError(
            f"{cfg.checkpoint} is the checkpoint of a {'classifier' if whole else 'detector'}; give a data set with "
            f"{'classes of whole images: data=imagefolder' if whole else 'boxes, which an image folder lacks'}"
        )
    keys = data if data["_target_"] == stored["_target_"] else _OF_ANY_KIND
    chosen = {*_OF_THE_MACHINE, *_given_keys(cfg)}
    kept = {key: stored[key] for key in keys if key in stored and key in data and key not in chosen}
    silent = {*_OF_TRAINING, "val_split" if cfg.split == "test" else "test_split"}
    changed = {key: value for key, value in kept.items() if value != data[key] and key not in silent}
    return {**data, **kept, "augmentations": None}, changed


def _given_keys(cfg: DictConfig) -> set[str]:
    """Names the data settings on the command line, and those that follow from them."""
    given = {line.partition("=")[0].lstrip("+") for line in HydraConfig.get().overrides.task}
    chosen = {key.removeprefix("data.") for key in given if key.startswith("data.")}
    if chosen & {"classes", "single_class"}:
        chosen.add("num_classes")
    if "seed" in given:
        chosen.add("seed")
    tests_on_it = cfg.split == "test" and "test_split" in chosen and cfg.data.test_split is not None
    if "val_split" in chosen or tests_on_it:
        chosen.add("val_fraction")  # which would score a part of the training split instead
    return chosen
