"""A run is a folder: opened, resumed and finished here. Imports nothing heavy.

config.yaml      the run's config, resolved
overrides.json   the overrides of its command lines, and the file chosen of each group
log.txt          what was printed
metrics.csv      the curves
report.html      the run on one page
pictures/        validation images with their boxes
checkpoints/     step_N.ckpt, and best.ckpt and last.ckpt pointing at two of them
finished.json    the results; its absence makes the run one that can be resumed
failed.json      why it failed
.lock            which process is at work in it
"""

import json
import logging
import shutil
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

from boxwright.config.check import check
from boxwright.config.compatible import refuse_uneven_batch
from boxwright.config.earlier import renamed_line, translated
from boxwright.config.errors import ConfigError, with_key
from boxwright.config.files import plain
from boxwright.config.paths import refuse_missing_paths
from boxwright.config.trusted import trust
from boxwright.runs.claim import FILE as LOCK
from boxwright.runs.claim import Claim
from boxwright.runs.log import is_rank_zero
from boxwright.runs.newest import has_begun
from boxwright.runs.resume import finished_results, same_config, with_overrides
from evaluation.files import write_text
from lit_modules.died import explain

log = logging.getLogger(__name__)


@dataclass
class Run:
    """An opened run folder."""

    folder: Path
    config: DictConfig
    """The config, resolved."""
    checkpoint: Path | None
    """The checkpoint to continue from."""
    results: dict[str, Any] | None
    """The results, if the run is finished already."""
    is_new: bool = False
    """The folder was empty before this start, and the run is not a job of a sweep, whose failures are listed."""
    claim: Claim | None = None
    """Of rank 0, while the run is at work."""

    def finish(self, results: dict[str, Any]) -> None:
        if is_rank_zero():
            write_text(self.folder / "finished.json", json.dumps(results, indent=1))

    def release(self) -> None:
        """Lets other processes have the folder."""
        if self.claim is not None:
            self.claim.release()

    def __enter__(self) -> None:
        """Keeps an error within the block as the reason of the run's failure; a new run that fails before it trains
        leaves no folder. The folder is released at the end."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and self.is_new and not has_begun(self.folder):
            self.release()  # before, since some network drives can't remove what is open
            _remove(self.folder)
        elif isinstance(error, Exception):
            keep_failure(self.folder, failure_reason(error))
        self.release()


def failure_reason(error: BaseException) -> str:
    """Writes the reason of a failure as it is kept with the run; an error for users is shown without its class."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    if died := explain(cause):
        return died
    return with_key(error) if isinstance(cause, ValueError) and str(cause) else f"{type(cause).__name__}: {cause}"


def keep_failure(folder: Path, reason: str) -> str:
    """Stores why a run failed, and returns it; the first reason counts, since errors of other ranks follow from it."""
    file = folder / "failed.json"
    if file.exists():
        return str(json.loads(file.read_text())["reason"])
    with suppress(OSError):  # the disk may be what failed
        write_text(file, json.dumps({"reason": reason}, indent=1))
    return reason


def open_run(cfg: DictConfig) -> Run:
    """Checks the config, or takes the stored one where the folder contains a run to continue.

    Every rank comes to the same answer by itself, since not all launchers let rank 0 go first.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    is_new = is_rank_zero() and hydra.mode == RunMode.RUN and is_untouched(folder)
    if not is_rank_zero():
        _wait_for(folder / "config.yaml")
    if cfg.resume is None:
        try:
            check(cfg)
            refuse_uneven_batch(cfg)
            if last_checkpoint(folder) is None:
                refuse_missing_paths(cfg)
        except ConfigError:
            leave_no_trace(folder)
            raise
    is_over = cfg.resume is None and (folder / "finished.json").exists()
    claim = Claim(folder) if is_rank_zero() and not is_over else None
    try:
        run = _opened(cfg, hydra, folder)
    except BaseException:
        if claim is not None:
            claim.release()
        raise
    run.is_new, run.claim = is_new, claim
    return run


def _opened(cfg: DictConfig, hydra: Any, folder: Path) -> Run:
    file = folder / "config.yaml"
    if cfg.resume is not None:
        config = with_overrides(load_config(file), cfg, list(hydra.overrides.task))
        trust(config.get("trusted_packages", ()))  # which runs of an earlier version lack
    else:
        config = resolved(cfg)
        if file.exists():
            config = same_config(load_config(file), config, folder)
    checkpoint = last_checkpoint(folder)
    results = finished_results(folder / "finished.json", config, cfg.resume)
    if results is None and is_rank_zero():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, OmegaConf.to_yaml(config))
        _remember_command(folder, config, hydra, resumed=cfg.resume is not None)
        for ended in ("finished.json", "failed.json"):
            (folder / ended).unlink(missing_ok=True)
    if results is not None and is_rank_zero() and hydra.mode == RunMode.RUN:  # a sweep prints it in its own way
        log.info("the run in %s is finished already: %s", folder, json.dumps(results))
    return Run(folder, config, checkpoint, results)


def _remember_command(folder: Path, config: DictConfig, hydra: Any, resumed: bool) -> None:
    """Stores the overrides of every command that started or resumed the run, and the first one's choices of files."""
    file = folder / "overrides.json"
    stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"overrides": [], "choices": {}}
    stored["overrides"] = [renamed_line(config.model._target_, line) for line in stored["overrides"]]
    given: list[str] = [line for line in plain(hydra.overrides)["task"] if not line.startswith("resume=")]
    if not resumed:
        choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
        stored["choices"] = choices
    stored["overrides"] = [line for line in stored["overrides"] if line not in given] + given
    write_text(file, json.dumps(stored, indent=1))


def given_overrides(folder: Path) -> dict[str, Any]:
    """Reads the values that the command lines of a run have set, by key; later ones replace earlier ones."""
    file = folder / "overrides.json"
    lines: list[str] = json.loads(file.read_text())["overrides"] if file.exists() else []
    return {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(lines)}


def resolved(cfg: DictConfig) -> DictConfig:
    """Resolves every interpolation of a config; drops `resume`, which is not part of a run."""
    whole = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    return OmegaConf.create({key: value for key, value in whole.items() if key != "resume"})


def load_config(file: Path) -> DictConfig:
    """Loads the config of a run, in today's keys where an earlier version wrote it."""
    config = cast(DictConfig, OmegaConf.load(file))
    return OmegaConf.create(translated(plain(config))) if OmegaConf.is_dict(config) else config


def leave_no_trace(folder: Path) -> None:
    """Removes the folder that Hydra made for a run that is refused."""
    if is_rank_zero() and is_untouched(folder):
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    remove_empty(folder.parent)


def remove_empty(folder: Path) -> None:
    """Removes a folder, and those above it up to runs/, as far as they are empty."""
    runs = Path("runs").absolute()
    with suppress(OSError):  # something lies in it
        for above in (folder.absolute(), *folder.absolute().parents):
            if not above.is_relative_to(runs):
                break
            above.rmdir()


def is_untouched(folder: Path) -> bool:
    """Whether a folder is as Hydra makes it: empty, but for an empty log; and a lock, as of one killed right then."""
    found = (file for file in folder.iterdir() if file.name != LOCK)
    return all(file.name == "log.txt" and file.stat().st_size == 0 for file in found)


def last_checkpoint(folder: Path) -> Path | None:
    files = sorted((folder / "checkpoints").glob("step_*.ckpt"))
    return files[-1] if files else None


def step_of(checkpoint: Path) -> int:
    """Reads the optimizer step after which a checkpoint was written from its name."""
    return int(checkpoint.stem.removeprefix("step_"))


def _wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.1)
    raise ConfigError(f"rank 0 did not write {file} within a minute; see its output for the reason")
