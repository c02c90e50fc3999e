"""Helpers of the tests that build modules from conf/, as `train.py` does."""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from tiers import slow_but

from boxwright.config.check import check
from boxwright.config.files import CONF
from boxwright.config.resolvers import register_resolvers
from boxwright.runs.folder import resolved
from boxwright.runs.scaling import scaled
from datamodules.batch import Batch, ImageInfo
from lit_modules.detection_module import DetectionModule

RECIPES = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
A_FEW = slow_but("faster_rcnn_vgg16_voc07", "fcos_imprv_r50_1x", "pretrain_r50", "small_dataset_retinanet", of=RECIPES)
"""All recipes, of which one of each model is fast."""
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml") if not file.stem.startswith("_"))
BACKBONES = sorted(file.stem for file in (CONF / "model" / "backbone").glob("*.yaml"))
BUILDABLE = [name for name in BACKBONES if name != "timm" or find_spec("timm") is not None]
"""Backbones whose packages are installed."""


@contextmanager
def _in_hydra() -> Iterator[None]:
    register_resolvers()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        HydraConfig.instance().cfg = None


def composed(*overrides: str) -> DictConfig:
    """The config of `python train.py OVERRIDES`, resolved and scaled to its batch size; `data.root` may be missing."""
    return copy.deepcopy(_composed(*overrides))


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    with _in_hydra():
        cfg = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        if OmegaConf.is_missing(cfg.data, "root"):
            cfg.data.root = "somewhere"
        if OmegaConf.is_missing(cfg, "init_from"):
            cfg.init_from = "some.ckpt"
        return scaled(resolved(cfg), quiet=True)


def beside_training(script: str, *overrides: str) -> tuple[DictConfig, DictConfig]:
    """The configs of `python train.py OVERRIDES` and of another script with the same overrides.

    Checks that the other script has a folder of its own and legal settings.
    """
    configs: list[DictConfig] = []
    with _in_hydra():
        for name in ("train", script):
            cfg = compose(name, list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            folder: str = cfg.hydra.run.dir
            with open_dict(cfg):
                del cfg["hydra"]
            configs.append(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
        assert folder.startswith(f"runs/{script.removesuffix('_data')}/")
        check(cfg)
    return configs[0], configs[1]


def built(cfg: DictConfig, device: str = "cpu", seed: int = 0) -> DetectionModule:
    """The module of a config with random weights; on `meta` it takes no memory and little time."""
    cfg.model.backbone.weights = None
    torch.manual_seed(seed)
    with torch.device(device):
        return instantiate(cfg.model)


def random_batch(
    num_images: int, num_classes: int, size: int = 64, num_boxes: int = 3, seed: int = 0, height: int | None = None
) -> Batch:
    """A batch of noise with boxes of 12 to 48 pixels; `num_boxes=0` gives images without objects."""
    generator = torch.Generator().manual_seed(seed)
    shape = (height or size, size)
    images = torch.randint(256, (num_images, 3, *shape), generator=generator, dtype=torch.uint8)
    corner = torch.randint(0, 17, (num_images, num_boxes, 2), generator=generator)
    extent = torch.randint(12, 49, (num_images, num_boxes, 2), generator=generator)
    boxes = torch.cat((corner, corner + extent), dim=-1).float()
    labels = torch.randint(num_classes, (num_images, num_boxes), generator=generator)
    if not num_boxes:  # padded as the loader does
        boxes, labels = torch.zeros(num_images, 1, 4), torch.full((num_images, 1), -1)
    infos = [ImageInfo(i, shape, (1.0, 1.0)) for i in range(num_images)]
    return Batch(images, torch.tensor([shape] * num_images), boxes, labels, infos)
