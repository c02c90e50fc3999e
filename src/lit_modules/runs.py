"""A run is a folder: how it is named, opened, resumed and finished. Imports nothing heavy.

config.yaml      the run's config, resolved
overrides.json   what the command line said of it, and the file that it chose of each group
log.txt          what was printed
metrics.csv      the curves
report.html      the run on one page
pictures/        validation images with their boxes
checkpoints/     step_N.ckpt, and best.ckpt and last.ckpt pointing at two of them
finished.json    the results; its absence makes the run one that can be resumed
failed.json      why it ended before, unless it was told to
"""

import json
import logging
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from evaluation.files import write_whole
from lit_modules import settings
from lit_modules.conf_files import is_group, nearest, origin, plain, reference
from lit_modules.run_folders import has_begun, job_folder, output_folder, run_folder, run_name
from lit_modules.settings import ConfigError

log = logging.getLogger(__name__)

_STREAM_FREE = {"data.root", "data.num_workers", "data.cache_dir", "data.on_error", "data.eval_batch_size"}
"""Data settings that leave the stream of training batches as it is."""
_STREAM = {"seed", "trainer.accumulate_grad_batches", "trainer.limit_train_batches"}
_IN_CHECKPOINT = ("model.lr", "optimizer.", "schedule.patience", "schedule.factor", "schedule.threshold")
"""What a checkpoint restores over anything that a config says."""


class Console(logging.StreamHandler[Any]):
    """Writes to what `sys.stdout` is at the moment, so that lines stay above a progress bar."""

    def __init__(self, stream: Any = None) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would fix the stream
        self.addFilter(lambda record: not hasattr(record, "file_only"))

    @property
    def stream(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stdout


FILE_ONLY = {"file_only": True}
"""`extra` of a record that is for log.txt alone."""


class LogFile(logging.FileHandler):
    """A file in UTF-8; where nothing can be written to it, that is said once, and not for each line in a traceback."""

    def __init__(self, filename: str, delay: bool = False) -> None:
        super().__init__(filename, encoding="utf-8", delay=delay, errors="backslashreplace")
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            print(f"{self.baseFilename} can't be written ({error.strerror}); the rest goes on", file=sys.stderr)
        self._failed = True


@dataclass
class Run:
    """An opened run folder."""

    folder: Path
    config: DictConfig
    """Resolved."""
    checkpoint: Path | None
    """Where to go on from."""
    results: dict[str, Any] | None
    """Of a run that is finished already."""
    is_new: bool = False
    """Nothing of it was there before this start, and it is no job of a sweep, whose failures are listed."""

    def finish(self, results: dict[str, Any]) -> None:
        if is_rank_zero():
            write(self.folder / "finished.json", json.dumps(results, indent=1))

    def __enter__(self) -> None:
        """Within, an error is kept as the reason of the run's failure; a new run that fails before it trains leaves
        no folder."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and self.is_new and not has_begun(self.folder):
            _remove(self.folder)
        elif isinstance(error, Exception):
            keep_failure(self.folder, reason(error))


def register_resolvers() -> None:
    """What the files in conf/ use: names of runs and folders, and the settings' own."""
    settings.register_resolvers()
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("output_folder", output_folder, replace=True)


def reason(error: BaseException) -> str:
    """Of a failure, for who looks at the run later; what an error says that is meant for users needs no class."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return str(cause) if isinstance(cause, ValueError) and str(cause) else f"{type(cause).__name__}: {cause}"


def keep_failure(folder: Path, reason: str) -> str:
    """Keep why a run failed, and return it; the first reason counts, since what other ranks meet follows from it."""
    file = folder / "failed.json"
    if file.exists():
        return str(json.loads(file.read_text())["reason"])
    with suppress(OSError):  # the disk may be what failed
        write(file, json.dumps({"reason": reason}, indent=1))
    return reason


def open_run(cfg: DictConfig) -> Run:
    """Check the config, or take the stored one when the folder has a run to go on with.

    Every rank comes to the same answer by itself, since not all launchers let rank 0 go first.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    file = folder / "config.yaml"
    is_new = is_rank_zero() and hydra.mode == RunMode.RUN and is_untouched(folder)
    if not is_rank_zero():
        _wait_for(file)
    if cfg.resume is not None:
        config = _with_overrides(load(file), cfg, list(hydra.overrides.task))
    else:
        try:
            settings.check(cfg)
            refuse_uneven_batch(cfg)
            if last_checkpoint(folder) is None:
                refuse_missing_paths(cfg)
        except ConfigError:
            leave_no_trace(folder)
            raise
        config = resolved(cfg)
        if file.exists():
            config = _same_config(load(file), config, folder)
    checkpoint = last_checkpoint(folder)
    results = _results(folder / "finished.json", config, cfg.resume)
    if results is None and is_rank_zero():
        folder.mkdir(parents=True, exist_ok=True)
        write(file, OmegaConf.to_yaml(config))
        _remember_command(folder / "overrides.json", hydra, resumed=cfg.resume is not None)
        for ended in ("finished.json", "failed.json"):
            (folder / ended).unlink(missing_ok=True)
    if results is not None and is_rank_zero() and hydra.mode == RunMode.RUN:  # a sweep says it in its own way
        log.info("the run in %s is finished already: %s", folder, json.dumps(results))
    return Run(folder, config, checkpoint, results, is_new)


def _remember_command(file: Path, hydra: Any, resumed: bool) -> None:
    """The overrides of every command that the run was started or resumed with, and the first one's choices of files."""
    stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"overrides": [], "choices": {}}
    given: list[str] = [line for line in plain(hydra.overrides)["task"] if not line.startswith("resume=")]
    if not resumed:
        choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
        stored["choices"] = choices
    stored["overrides"] = list(dict.fromkeys(stored["overrides"] + given))
    write(file, json.dumps(stored, indent=1))


def _results(file: Path, config: DictConfig, resume: str | None) -> dict[str, Any] | None:
    """Of a finished run; None if there is something left to train, which only `resume` may ask for."""
    if not file.exists():
        return None
    results: dict[str, Any] = json.loads(file.read_text())
    if resume is None:
        return results
    limits = scaled(config, quiet=True).trainer
    longer = results["step"] < limits.max_steps if limits.max_steps > 0 else results["epoch"] < limits.max_epochs
    if longer:
        return None
    raise ConfigError(
        f"resume={resume}: the run in {file.parent} is finished ({results['step']} steps); to train on, give "
        f"a larger {'trainer.max_steps' if limits.max_steps > 0 else 'trainer.max_epochs'}"
    )


def resolved(cfg: DictConfig) -> DictConfig:
    """The config with every interpolation replaced; without `resume`, which is no part of a run."""
    whole = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    return OmegaConf.create({key: value for key, value in whole.items() if key != "resume"})


def load(file: Path) -> DictConfig:
    return cast(DictConfig, OmegaConf.load(file))


def refuse_uneven_batch(cfg: DictConfig) -> None:
    """Said here where the number of devices is known, two seconds before the sampler would say it."""
    devices = cfg.trainer.devices
    if not isinstance(devices, int) or devices < 1:
        return
    parts = devices * cfg.trainer.num_nodes * cfg.trainer.accumulate_grad_batches
    size = cfg.data.batch_size
    if size % parts:
        nearest = " or ".join(str(n) for n in (size // parts * parts, -(-size // parts) * parts) if n)
        raise ConfigError(
            f"data.batch_size={size}, the images of one optimizer step, must divide by trainer.devices x "
            f"trainer.num_nodes x trainer.accumulate_grad_batches = {parts}; the nearest that does: {nearest}"
        )


def refuse_missing_paths(cfg: DictConfig) -> None:
    """Said here, before the imports take their seconds, of what would be opened only after them."""
    drawn = str(OmegaConf.select(cfg, "data._target_")).startswith("datamodules.shapes.")  # which makes its folder
    replaced = OmegaConf.select(cfg, "init_from") is not None
    for key, opened in (("data.root", not drawn), ("init_from", True), ("model.backbone.weights", not replaced)):
        value: str | None = OmegaConf.select(cfg, key)
        if opened and value not in (None, "imagenet") and not Path(value).expanduser().exists():
            path = Path(value).expanduser().resolve()
            missing = next(part for part in (*path.parents[::-1], path) if not part.exists())
            there = missing.parent.iterdir() if missing.parent.is_dir() else ()
            near = nearest(missing.name, [file.name for file in there])
            raise ConfigError(f"{key}={value} ({origin(key)}): {missing} does not exist{near}")


def leave_no_trace(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that is refused."""
    if is_rank_zero() and is_untouched(folder):
        _remove(folder)


def _remove(folder: Path) -> None:
    """With the folder of its name, if that is empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.parent.name == "runs":
        with suppress(OSError):
            folder.parent.rmdir()


def is_untouched(folder: Path) -> bool:
    """Whether nothing but an empty log lies in it, as Hydra makes it."""
    file = folder / "log.txt"
    return list(folder.iterdir()) == [file] and file.stat().st_size == 0


def last_checkpoint(folder: Path) -> Path | None:
    files = sorted((folder / "checkpoints").glob("step_*.ckpt"))
    return files[-1] if files else None


def is_rank_zero() -> bool:
    """Before any process group exists: by the variables that launchers set."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return all(rank == "0" for rank in ranks)


def scaled(cfg: DictConfig, quiet: bool = False) -> DictConfig:
    """The config with rate and iterations fitted to `data.batch_size`; they are stated for 16 images a step.

    The linear rule of Goyal et al. (arXiv 1706.02677): rate x b/16, iterations x 16/b, so that each image is
    seen as often.
    """
    factor = cfg.data.batch_size / 16
    if not cfg.scale_schedule or factor == 1:
        return cfg
    new = OmegaConf.create(plain(cfg))
    told: list[str] = []

    def change(key: str, value: Any) -> None:
        told.append(f"{key} {OmegaConf.select(new, key)} -> {value}")
        OmegaConf.update(new, key, value)

    change("model.lr", cfg.model.lr * factor)
    counts = ("trainer.max_steps", "trainer.val_check_interval", "schedule.warmup_steps", "callbacks.back_to_best.at")
    for key in counts:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, int) and value > 0:  # a float is a fraction of the run
            change(key, max(1, round(value / factor)))
    for where in ("schedule", "model.schedule"):
        milestones = OmegaConf.select(cfg, f"{where}.milestones")
        if milestones is not None:
            change(f"{where}.milestones", [_scaled_milestone(m, factor) for m in milestones])
    if OmegaConf.select(cfg, "model.schedule.warmup_steps") is not None:
        new.model.schedule.warmup_steps = new.schedule.warmup_steps
    if not quiet:
        log.info(
            "%d images a step, stated for 16: %s (scale_schedule=false keeps them)",
            cfg.data.batch_size,
            "; ".join(told),
        )
    return new


def _scaled_milestone(milestone: float, factor: float) -> float:
    is_fraction = isinstance(milestone, float) and milestone <= 1  # of the run, as `schedules.multistep` reads it
    return milestone if is_fraction else round(milestone / factor)


def write(file: Path, text: str) -> None:
    """Replace a small file in one step."""
    write_whole(file, text.encode())


def _wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.1)
    raise ConfigError(f"rank 0 did not write {file} within a minute; see its output for the reason")


def _with_overrides(stored: DictConfig, cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The stored config with what the command line changes; what could not take effect exactly is refused."""
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group.replace("/", ".")
        if key in ("resume", "name", "experiment"):
            continue
        before, chosen = OmegaConf.select(stored, key), OmegaConf.select(cfg, key)
        if is_group(override.key_or_group):  # given again with the original command
            before, chosen = (None if node is None else node.get("_target_") for node in (before, chosen))
            if before != chosen:
                raise ConfigError(
                    f"{override.input_line}: the run to resume has {before}; leave it out, or start a new run"
                )
            continue
        if key == "init_from" and before != chosen:
            raise ConfigError(
                f"{override.input_line}: the run to resume goes on from its own last checkpoint; leave it out, "
                "or leave resume out to start a new run"
            )
        if before is None and key not in flat(stored) and not (key in flat(cfg) and key in flat(reference())):
            raise ConfigError(f"{key}: the stored config of the run to resume has no such key")
        if before == chosen:
            continue
        if key in _STREAM or (key.startswith("data.") and key not in _STREAM_FREE):
            raise ConfigError(
                f"{key}: {before} in the run to resume, {chosen} on the command line. It changes the data stream, "
                "so that the run could not go on exactly; leave it out, or start a new run"
            )
        if key.startswith(_IN_CHECKPOINT):
            raise ConfigError(
                f"{key}: {before} in the run to resume, {chosen} on the command line. The optimizer's and the "
                "schedule's state in the checkpoint hold it, so that it would not change; leave it out, or start a "
                "new run"
            )
        if is_rank_zero():
            log.info("resumed with a difference: %s %s -> %s", key, before, chosen)
        OmegaConf.update(stored, key, chosen, force_add=True)  # a key that an earlier version did not have
        if key.startswith(("optimizer.", "schedule.")):
            OmegaConf.update(stored, f"model.{key}", chosen)
    return stored


def _same_config(stored: DictConfig, config: DictConfig, folder: Path) -> DictConfig:
    """The stored config, in which the precision is chosen already; any other difference is refused.

    A key that the run's version did not have makes none, where it has its default.
    """
    old, new = flat(stored), flat(config)
    if new["trainer.precision"] is None:
        new["trainer.precision"] = old["trainer.precision"]
    if later := new.keys() - old.keys():
        default = flat(reference())
        same = {key for key in later & default.keys() if new[key] == default[key]}
        new = {key: value for key, value in new.items() if key not in same}
    differences = [f"{k}: {old.get(k)} there, {new.get(k)} now" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differences:
        raise ConfigError(
            f"{folder} holds a run of another config ({'; '.join(differences[:5])}); give another name=NAME, or "
            "remove it"
        )
    return stored


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Leaves of a config by dotted key."""
    leaves: dict[str, Any] = {}

    def walk(node: Any, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, value in cast(dict[str, Any], node).items():
                walk(value, f"{key}.{name}" if key else name)
        else:
            leaves[key] = node

    walk(plain(cfg), "")
    return leaves
