"""The folder that is uploaded: card, checkpoint and config, made from a checkpoint and read back once."""

import logging
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from boxwright.checkpoints.reading import read_checkpoint
from boxwright.config.errors import ConfigError, few
from boxwright.push.card import Asked, make_card, scores
from boxwright.push.contents import personal, without_private_parts
from boxwright.zoo.address import FILE
from evaluation.files import copy_whole

log = logging.getLogger(__name__)

CARD, CONFIG = "README.md", "config.yaml"
FILES = (CARD, FILE, CONFIG)


class Package(NamedTuple):
    """The files to upload, in a folder of their own."""

    folder: Path
    repo: str
    card: str
    notes: list[str]
    """What to tell of it, once nothing can fail."""

    def tell(self) -> None:
        for note in self.notes:
            log.info("%s", note)


@contextmanager
def packed(cfg: DictConfig) -> Generator[Package]:
    """Makes the files in a temporary folder; ConfigError where a setting has the name of this user or machine."""
    checkpoint = read_checkpoint(cfg.checkpoint)
    name = cfg.repo.partition("/")[2]
    contents, left_out = without_private_parts(checkpoint, name)
    if asked_about := personal(contents, tuple(cfg.publish)):
        raise ConfigError(_ask(asked_about, cfg))
    scored = scores(checkpoint)
    card = make_card(contents, scored, Asked(cfg.repo, cfg.license, cfg.dataset))
    notes = [f"left out, or without its place: {few(left_out, 40)}"] if left_out else []
    if scored is None:
        notes.append("no scores: the file does not say that its last validation was of these weights; best.ckpt does")
    elif cfg.dataset is None and "\nmodel-index:" not in card:
        notes.append("the scores have no name of a data set, without which the Hub lists none: give dataset=NAME")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(contents, Path(folder, FILE))
        read_checkpoint(Path(folder, FILE))  # as everybody else will
        Path(folder, CARD).write_text(card, encoding="utf-8")
        Path(folder, CONFIG).write_text(_as_yaml(contents["boxwright"]["config"]), encoding="utf-8")
        yield Package(Path(folder), cfg.repo, card, notes)


def _ask(found: list[tuple[str, str, str]], cfg: DictConfig) -> str:
    lines = [f"{key}={value!r} has {name!r}, the name of this user or machine" for key, value, name in found]
    keys = ",".join(dict.fromkeys([*cfg.publish, *(key for key, _, _ in found)]))
    return f"{'; '.join(lines)}. To publish it as it is, give 'publish=[{keys}]'"


def _as_yaml(config: dict[str, Any]) -> str:
    """The config with optimizer and schedule once, though a model's node repeats them."""
    model: dict[str, Any] = config["model"]
    own = {key: value for key, value in model.items() if key not in config or value != config[key]}
    return OmegaConf.to_yaml(OmegaConf.create(cast(Any, {**config, "model": own})))


def keep(package: Package) -> None:
    """Copies the files to the output folder, in place of uploading them."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    for name in FILES:
        copy_whole(package.folder / name, folder / name)
    package.tell()
    log.info("nothing was uploaded: %s has what would be, %s", folder, ", ".join(FILES))
