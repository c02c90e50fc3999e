"""The config of a run that is resumed: what the command line may change, and what it may not."""

import json
import logging
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from boxwright.config.check import refuse_value
from boxwright.config.errors import ConfigError
from boxwright.config.files import flat, followers, is_group, reference
from boxwright.runs.log import is_rank_zero
from boxwright.runs.scaling import scaled

log = logging.getLogger(__name__)

_STREAM_FREE = {"data.root", "data.num_workers", "data.cache_dir", "data.on_error", "data.eval_batch_size"}
"""Data settings that leave the stream of training batches as it is."""
_STREAM = {"seed", "trainer.accumulate_grad_batches", "trainer.limit_train_batches"}
_IN_CHECKPOINT = ("model.lr", "optimizer.", "schedule.patience", "schedule.factor", "schedule.threshold")
"""Settings that a checkpoint restores, whatever the config has."""


def finished_results(file: Path, config: DictConfig, resume: str | None) -> dict[str, Any] | None:
    """Reads the results of a finished run; None if it is unfinished, or `resume` asks for more steps than it has."""
    if not file.exists():
        return None
    results: dict[str, Any] = json.loads(file.read_text())
    if resume is None:
        return results
    limits = scaled(config, quiet=True).trainer
    longer = results["step"] < limits.max_steps if limits.max_steps > 0 else results["epoch"] < limits.max_epochs
    if longer:
        return None
    key, done = ("max_steps", results["step"]) if limits.max_steps > 0 else ("max_epochs", results["epoch"])
    stated = OmegaConf.select(config, f"trainer.{key}")  # which may be for another batch size
    raise ConfigError(
        f"resume={resume}: the run in {file.parent} is finished ({results['step']} steps); to train on, give a larger "
        f"trainer.{key}, such as trainer.{key}={2 * max(stated, done)}"
    )


def with_overrides(stored: DictConfig, cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Applies the command line to the stored config; refuses changes that could not take effect exactly."""
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group.replace("/", ".")
        if key in ("resume", "name", "experiment"):
            continue
        if override.is_delete() and key not in flat(stored) and OmegaConf.select(stored, key) is None:
            continue  # left out by the original command already
        before, chosen = OmegaConf.select(stored, key), OmegaConf.select(cfg, key)
        if is_group(override.key_or_group):  # given again with the original command
            before, chosen = (None if node is None else node.get("_target_") for node in (before, chosen))
            if before != chosen:
                raise ConfigError(
                    f"{override.input_line}: the run to resume has {before}; leave it out, or start a new run"
                )
            continue
        if key.partition(".")[0] in ("init_from", "init_classes") and before != chosen:
            raise ConfigError(
                f"{override.input_line}: a resumed run continues from its own last checkpoint; leave it out, "
                "or leave resume out to start a new run"
            )
        if before is None and key not in flat(stored) and not (key in flat(cfg) and key in flat(reference())):
            raise ConfigError(f"{key}: the stored config of the run to resume has no such key; leave it out")
        if before == chosen:
            continue
        if key in _STREAM or (key.startswith("data.") and key not in _STREAM_FREE):
            raise ConfigError(
                f"{key}: {before} in the run to resume, {chosen} on the command line. It changes the data stream, "
                "so that the run could not continue exactly; leave it out, or start a new run"
            )
        if key.startswith(_IN_CHECKPOINT):
            raise ConfigError(
                f"{key}: {before} in the run to resume, {chosen} on the command line. The optimizer's and the "
                "schedule's state in the checkpoint would replace it, so that it would not change; leave it out, or "
                "start a new run"
            )
        if not override.is_delete():
            refuse_value(stored, key, chosen)
        if is_rank_zero():
            log.info("resumed with a difference: %s %s -> %s", key, before, chosen)
        if override.is_delete():
            parent, _, name = key.rpartition(".")
            with open_dict(stored):
                OmegaConf.select(stored, parent).pop(name)
            continue
        for node in _nodes_above(key):  # one that an earlier version did not have comes as a whole
            if OmegaConf.select(stored, node) is None and OmegaConf.is_config(OmegaConf.select(cfg, node)):
                OmegaConf.update(stored, node, OmegaConf.select(cfg, node), force_add=True)
        for changed in (key, *followers(cfg, key)):
            OmegaConf.update(stored, changed, chosen, force_add=True)  # a key that an earlier version did not have
        if key.startswith(("optimizer.", "schedule.")):
            OmegaConf.update(stored, f"model.{key}", chosen)
    return stored


def _nodes_above(key: str) -> list[str]:
    """The nodes that a key lies in: a and a.b of a.b.c."""
    parts = key.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def same_config(stored: DictConfig, config: DictConfig, folder: Path) -> DictConfig:
    """Returns the stored config, in which the precision is chosen already; refuses any other difference.

    A key that the run's version did not have is no difference where it has its default.
    """
    old, new = flat(stored), flat(config)
    if new["trainer.precision"] is None:
        new["trainer.precision"] = old["trainer.precision"]
    if later := new.keys() - old.keys():
        default = flat(reference())
        copied = {
            f"model.{key}": value for key, value in default.items() if key.startswith(("optimizer.", "schedule."))
        }
        default = {**copied, **default}
        same = {key for key in later & default.keys() if new[key] == default[key]}
        new = {key: value for key, value in new.items() if key not in same}
    differences = [f"{k}: {old.get(k)} there, {new.get(k)} now" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differences:
        raise ConfigError(
            f"{folder} contains a run with another config ({'; '.join(differences[:5])}); give another name=NAME, or "
            "remove it"
        )
    return stored
