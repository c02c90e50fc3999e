"""A run is a folder: how it is named, opened, resumed and finished. Imports nothing heavy.

config.yaml      the run's config, resolved
log.txt          what was printed
metrics.csv      the curves
checkpoints/     step_N.ckpt, and best.ckpt and last.ckpt pointing at two of them
finished.json    the results; its absence makes the run one that can be resumed
"""

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lit_modules import settings
from lit_modules.settings import ConfigError

log = logging.getLogger(__name__)

_STREAM_FREE = {"data.root", "data.num_workers", "data.cache_dir", "data.on_error", "data.eval_batch_size"}
"""Data settings that leave the stream of training batches as it is."""
_STREAM = {"seed", "trainer.accumulate_grad_batches"}


class Console(logging.StreamHandler[Any]):
    """Writes to what `sys.stdout` is at the moment, so that lines stay above a progress bar."""

    def __init__(self, stream: Any = None) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would fix the stream

    @property
    def stream(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stdout


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

    def finish(self, results: dict[str, Any]) -> None:
        if is_rank_zero():
            write(self.folder / "finished.json", json.dumps(results, indent=1))


def register_resolvers() -> None:
    """What the files in conf/ use: names of runs and folders, and the settings' own."""
    settings.register_resolvers()
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver(
        "evaluation_folder", lambda output, now: output or f"runs/evaluate/{now}", replace=True
    )


def run_name(model: str, data: str) -> str:
    """`fcos-coco` from the two `_target_`s."""
    return f"{model.split('.')[1]}-{data.split('.')[1]}"


def run_folder(name: str, resume: str | None, now: str) -> str:
    """The folder of a new run, or of the one to resume.

    Under a scheduler that starts every rank by itself the job's number replaces the time, so that the ranks
    agree, and a requeued job finds its folder.
    """
    if resume is None:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return f"runs/{name}/{now if job == 'none' else f'job-{job}'}"
    if resume == "last":
        runs = sorted(Path("runs", name).glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
        unfinished = [file.parent for file in runs if not (file.parent / "finished.json").exists()]
        if not unfinished:
            raise ConfigError(
                f"resume=last: no unfinished run in {Path('runs', name).resolve()} ({len(runs)} finished); start one "
                "without resume, or give resume=FOLDER, or name=NAME of the run"
            )
        return str(unfinished[-1])
    if not Path(resume, "config.yaml").exists():
        raise ConfigError(f"resume={resume}: {Path(resume).resolve()} is not a run's folder: it has no config.yaml")
    return resume


def open_run(cfg: DictConfig) -> Run:
    """Check the config, or take the stored one when the folder has a run to go on with."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    file = folder / "config.yaml"
    if not is_rank_zero():
        return _as_rank_zero_opened_it(file)
    if cfg.resume is not None:
        config = _with_overrides(OmegaConf.load(file), cfg, list(hydra.overrides.task))
    else:
        try:
            settings.check(cfg)
        except ConfigError:
            leave_no_trace(folder)
            raise
        config = resolved(cfg)
        if file.exists():
            _refuse_another_config(OmegaConf.load(file), config, folder)
    assert isinstance(config, DictConfig)
    checkpoint = last_checkpoint(folder)
    results = None
    if (folder / "finished.json").exists():
        results = json.loads((folder / "finished.json").read_text())
        if config.trainer.max_steps > 0 and results["step"] < scaled(config, quiet=True).trainer.max_steps:
            results = None
        elif cfg.resume is not None:
            raise ConfigError(
                f"resume={cfg.resume}: the run in {folder} is finished ({results['step']} steps); to train on, give "
                "a larger trainer.max_steps"
            )
    if results is None:
        folder.mkdir(parents=True, exist_ok=True)
        write(file, OmegaConf.to_yaml(config))
        (folder / "finished.json").unlink(missing_ok=True)
    return Run(folder, config, checkpoint, results)


def resolved(cfg: DictConfig) -> DictConfig:
    """The config with every interpolation replaced; without `resume`, which is no part of a run."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("resume", None)
    return OmegaConf.create(plain)


def leave_no_trace(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that is refused, if nothing but an empty log lies in it."""
    if [path.name for path in folder.iterdir()] == ["log.txt"] and (folder / "log.txt").stat().st_size == 0:
        (folder / "log.txt").unlink()
        folder.rmdir()


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
    new = OmegaConf.create(OmegaConf.to_container(cfg))
    told: list[str] = []

    def change(key: str, value: Any) -> None:
        told.append(f"{key} {OmegaConf.select(new, key)} -> {value}")
        OmegaConf.update(new, key, value)

    change("model.lr", cfg.model.lr * factor)
    for key in ("trainer.max_steps", "trainer.val_check_interval", "schedule.warmup_steps"):
        value = OmegaConf.select(cfg, key)
        if value is not None and value > 0:
            change(key, max(1, round(value / factor)))
    for where in ("schedule", "model.schedule"):
        milestones = OmegaConf.select(cfg, f"{where}.milestones")
        if milestones is not None:
            change(f"{where}.milestones", [m if isinstance(m, float) else round(m / factor) for m in milestones])
    if OmegaConf.select(cfg, "model.schedule.warmup_steps") is not None:
        new.model.schedule.warmup_steps = new.schedule.warmup_steps
    if not quiet:
        log.info(
            "%d images a step, stated for 16: %s (scale_schedule=false keeps them)",
            cfg.data.batch_size,
            "; ".join(told),
        )
    return new


def write(file: Path, text: str) -> None:
    """Replace a small file in one step."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, file)


def _as_rank_zero_opened_it(file: Path) -> Run:
    for _ in range(600):
        if file.exists():
            config = OmegaConf.load(file)
            assert isinstance(config, DictConfig)
            return Run(file.parent, config, last_checkpoint(file.parent), None)
        time.sleep(0.1)
    raise ConfigError(f"rank 0 did not write {file} within a minute; see its output for the reason")


def _with_overrides(stored: Any, cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The stored config with what the command line changes; what would change the data stream is refused."""
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key in ("resume", "name", "experiment"):
            continue
        before = OmegaConf.select(stored, key)
        value = override.value()
        if isinstance(before, DictConfig):  # a group's choice, given again with the original command
            chosen = OmegaConf.select(cfg, key)
            if before.get("_target_") != chosen.get("_target_"):
                raise ConfigError(
                    f"{key}={value}: the run to resume has {before.get('_target_')}; leave it out, or start a new run"
                )
            continue
        if key not in flat(stored):
            raise ConfigError(f"{key}: the stored config of the run to resume has no such key")
        chosen = OmegaConf.select(cfg, key)
        if before == chosen:
            continue
        if key in _STREAM or (key.startswith("data.") and key not in _STREAM_FREE):
            raise ConfigError(
                f"{key}: {before} in the run to resume, {chosen} on the command line. It changes the data stream, "
                "so that the run could not go on exactly; leave it out, or start a new run"
            )
        log.info("resumed with a difference: %s %s -> %s", key, before, chosen)
        OmegaConf.update(stored, key, chosen)
        if key.startswith(("optimizer.", "schedule.")):
            OmegaConf.update(stored, f"model.{key}", chosen)
    return stored


def _refuse_another_config(stored: Any, config: DictConfig, folder: Path) -> None:
    old, new = flat(stored), flat(config)
    differences = [f"{k}: {old.get(k)} there, {new.get(k)} now" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differences:
        raise ConfigError(
            f"{folder} holds a run of another config ({'; '.join(differences[:5])}); give another name=NAME, or remove it"
        )


def flat(cfg: Any) -> dict[str, Any]:
    """Leaves of a config by dotted key."""
    plain = OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg
    leaves: dict[str, Any] = {}

    def walk(node: Any, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, value in node.items():
                walk(value, f"{key}.{name}" if key else str(name))
        else:
            leaves[key] = node

    walk(plain, "")
    return leaves
