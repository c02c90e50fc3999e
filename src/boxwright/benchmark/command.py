"""The command line of benchmark.py: train.py's, or a checkpoint's run. Imports nothing heavy."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from boxwright.config.compatible import refuse_uneven_batch
from boxwright.config.errors import ConfigError
from boxwright.config.files import followers, is_group, origin
from boxwright.config.from_checkpoint import as_of_a_run, is_same
from boxwright.runs.folder import resolved

_LENGTH = (
    "max_time", "val_check_interval", "limit_train_batches", "limit_val_batches", "limit_test_batches",
    "log_every_n_steps", "enable_progress_bar",
)  # fmt: skip
UNUSED_OF_TRAINER = tuple(f"trainer.{name}" for name in _LENGTH)
"""Settings of a run that no part of a measurement depends on."""


def refuse_unmeasurable(cfg: DictConfig) -> None:
    """Raises one ConfigError with all that prevents a measurement, before anything heavy is imported."""
    if problems := list(_problems(cfg)):
        raise ConfigError("\n".join(problems))
    refuse_uneven_batch(cfg)


def _problems(cfg: DictConfig) -> Iterator[str]:
    if cfg.resume is not None:
        yield f"resume={cfg.resume}: a benchmark trains nothing; give checkpoint=RUN/checkpoints/last.ckpt in its place"
    yield from several_devices(cfg)
    if not cfg.parts or len(set(cfg.parts)) < len(cfg.parts):
        yield f"parts={list(cfg.parts)} ({origin('parts')}): expected one or more of data, step, inference, each once"
    for key, least in (("rounds", 1), ("warmup", 0)):
        if cfg[key] < least:
            yield f"{key}={cfg[key]} ({origin(key)}): expected {least} or more"
    if cfg.seconds <= 0:
        yield f"seconds={cfg.seconds} ({origin('seconds')}): expected more than 0"
    if cfg.checkpoint is not None and cfg.init_from is not None:
        yield f"checkpoint={cfg.checkpoint} and init_from={cfg.init_from}: both give the weights; leave one out"


def several_devices(cfg: DictConfig, found: int | None = None) -> Iterator[str]:
    """Yields a message for any number of devices but one, as asked for or as `found` where the machine decides; it
    names one device's share of a step."""
    asked = cfg.trainer.devices
    number: int | None = len(asked) if OmegaConf.is_list(asked) else asked if isinstance(asked, int) else None
    devices = found if found is not None else None if number is None else number * cfg.trainer.num_nodes
    if devices in (None, 1):
        return
    share = ""
    if devices > 1 and cfg.data.batch_size % devices == 0:
        share = f" data.batch_size={cfg.data.batch_size // devices}, the images of a step that one of {devices} gets"
    yield (
        f"trainer.devices={cfg.trainer.devices}, trainer.num_nodes={cfg.trainer.num_nodes}: a benchmark measures one "
        f"device; give trainer.devices=1 trainer.num_nodes=1{share}"
    )


def of_checkpoint(cfg: DictConfig, stored: Mapping[str, Any]) -> DictConfig:
    """Applies the command line to the config of a checkpoint's run."""
    command = resolved(cfg)
    whole = as_of_a_run(stored)
    config = cast(DictConfig, OmegaConf.merge(command, OmegaConf.create(whole)))
    if "optimizer" not in stored:  # what the program left out has the default of the function, not of the file
        config.optimizer = whole.get("optimizer", config.optimizer)
        config.schedule = whole.get("schedule", config.schedule)
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        _take(config, command, override)
        for key in followers(cfg, override.key_or_group):
            OmegaConf.update(config, key, OmegaConf.select(command, key))
    for part in ("optimizer", "schedule"):
        if part in config.model:  # else a module of the user's makes its own
            config.model[part] = config[part]
    config.init_from = None
    return config


def _take(config: DictConfig, command: DictConfig, override: Override) -> None:
    key = override.key_or_group.replace("/", ".")
    if override.is_delete():
        parent, _, name = key.rpartition(".")
        cast(DictConfig, OmegaConf.select(config, parent) if parent else config).pop(name, None)
        return
    value = OmegaConf.select(command, key)
    if is_group(override.key_or_group):
        before = OmegaConf.select(config, key)
        if before is not None and value is not None and is_same(value.get("_target_"), before.get("_target_")):
            return  # its own
    OmegaConf.update(config, key, value, merge=False, force_add=True)
