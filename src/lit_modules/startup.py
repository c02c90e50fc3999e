"""What a run says before it starts, and the few choices that depend on the machine."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

import copy
import json
import logging
import platform
import subprocess
import warnings
from importlib.metadata import version
from pathlib import Path
from textwrap import TextWrapper

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from lit_modules import conf_files, runs
from lit_modules.settings import ConfigError
from lit_modules.steps import TrainingModule

log = logging.getLogger(__name__)

_WIDTH = 110


def choose_precision(asked: str | None, accelerator: str) -> str:
    """bf16-mixed where the hardware multiplies in bf16 natively, else 32-true; what was asked for if legal.

    `bf16-true` and `16-true` would round the boxes themselves.
    """
    if asked is not None:
        if str(asked) not in ("32-true", "bf16-mixed", "16-mixed"):
            raise ConfigError(f"trainer.precision={asked}: expected 32-true, bf16-mixed, 16-mixed, or null to choose")
        return str(asked)
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    native = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return "bf16-mixed" if native and accelerator in ("auto", "cpu") else "32-true"


def prepare(run: runs.Run) -> DictConfig:
    """Choose the precision, store it with the run, seed the weights, and fit rates and iterations to the batch."""
    quieten()
    trainer = run.config.trainer
    trainer.precision = choose_precision(trainer.precision, trainer.accelerator)
    if runs.is_rank_zero():
        runs.write(run.folder / "config.yaml", OmegaConf.to_yaml(run.config))
    pl.seed_everything(run.config.seed, verbose=False)
    return runs.scaled(run.config)


def quieten() -> None:
    """Hide what other libraries say about themselves; ranks other than 0 say nothing but warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*is deprecated.*",
        ".*smaller than the logging.*",
        ".*in eval mode at the start.*",
        ".*recommended to use `self.log.*sync_dist.*",  # every rank logs the same number already
    ):
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = _without_source
    if not runs.is_rank_zero():
        logging.getLogger().setLevel(logging.WARNING)


def _without_source(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"


def announce(composed: DictConfig, run: runs.Run, module: TrainingModule, trainer: pl.Trainer) -> None:
    """Log environment, config and the network's size: what one wants to know of a run years later."""
    if not trainer.is_global_zero:
        return
    cfg = run.config
    log.info("run folder %s", trainer.default_root_dir)
    if composed.resume is None:  # else the run's own, from which differences were told
        log.info("config (all of it is in config.yaml):\n%s", chosen(composed))
        log.info("config:\n%s", whole(cfg), extra=runs.FILE_ONLY)
    log.info("environment: %s", "  ".join(f"{name} {value}" for name, value in environment().items()))
    log.info("devices: %d x %s, precision %s", trainer.world_size, device_name(trainer), trainer.precision)
    parameters = sum(p.numel() for p in module.network.parameters())
    trained = sum(p.numel() for p in module.network.parameters() if p.requires_grad)
    size = image_size(cfg.data.resize, cfg.data.rule)
    log.info(
        "network: %.2f M parameters, %.2f M of them trained, %.1f GFLOPs for an image of %d x %d",
        parameters / 1e6, trained / 1e6, gflops(module, size), *size,
    )  # fmt: skip
    if run.checkpoint is not None:
        log.info("resumes from %s", run.checkpoint)
    log.info("batch: %d images a step, rate %g, %d steps", cfg.data.batch_size, module.lr, trainer.max_steps)
    schedule = runs.scaled(cfg, quiet=True).schedule
    if schedule.get("warmup") is not None and 0 < trainer.max_steps <= schedule.warmup_steps:
        log.warning(
            "the warm-up takes %d steps, the whole run %d: the rate never reaches %g; lower schedule.warmup_steps",
            schedule.warmup_steps, trainer.max_steps, module.lr,
        )  # fmt: skip


def chosen(cfg: DictConfig) -> str:
    """The files chosen of groups, then each setting that is another than there."""
    default, values, files = runs.flat(conf_files.reference()), runs.flat(runs.resolved(cfg)), conf_files.choices()
    groups = [f"{group}={files[group]}" for group in sorted(files) if files[group] != "default"]
    changed = [line for line in conf_files.plain(HydraConfig.get().overrides)["task"] if line.startswith("~")]
    for key, written in runs.flat(cfg).items():
        if key not in default or default[key] != written:
            value = values.get(key, written)
            changed.append(f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}")
    paragraph = TextWrapper(_WIDTH, "  ", "  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(paragraph.fill("  ".join(items)) for items in (groups, changed) if items)


def whole(cfg: DictConfig) -> str:
    """As YAML, where what is there twice once refers to the other."""
    plain = runs.plain(cfg)
    plain["model"] |= {key: f"${{{key}}}" for key in ("optimizer", "schedule") if plain["model"].get(key) == plain[key]}
    return OmegaConf.to_yaml(OmegaConf.create(plain)).rstrip()


def environment() -> dict[str, str]:
    """Versions, and the commit of this code, marked where files differ from it."""
    names: dict[str, str] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "lightning": version("pytorch-lightning"),
        "numpy": np.__version__,
    }
    if torch.version.cuda and torch.cuda.is_available():
        names["cuda"] = torch.version.cuda
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], stderr=subprocess.DEVNULL, text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], stderr=subprocess.DEVNULL, text=True)
        names["commit"] = commit.strip() + (" (changed)" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        names["commit"] = "unknown"
    return names


def device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def image_size(resize: int, rule: str) -> tuple[int, int]:
    """A typical canvas: the square, or a photo of 3 : 4, up to a multiple of 32."""
    height, width = (resize, resize * 4 / 3) if rule == "short_side" else (resize, resize)
    return int(np.ceil(height / 32) * 32), int(np.ceil(width / 32) * 32)


def gflops(module: TrainingModule, size: tuple[int, int]) -> float:
    """10^9 floating-point operations (two for a multiply-add) of one image, counted without computing it."""
    network = copy.deepcopy(module.network).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, 3, *size, dtype=torch.uint8, device="meta"), torch.tensor([size], device="meta"))
        module.behind_network(network)
    return counter.get_total_flops() / 1e9
