"""The command line of inspect_data.py; imports nothing heavy."""

from omegaconf import DictConfig

from boxwright.config.compatible import has_whole_images
from boxwright.config.errors import ConfigError

UNUSED = (
    "name", "logger", "test", "expect", "callbacks", "trainer", "optimizer", "schedule", "init_from", "init_classes",
    "compile",
)  # fmt: skip
"""Settings of a run that an inspection does not depend on."""


def refuse_uninspectable(cfg: DictConfig) -> None:
    """Raises ConfigError where there would be nothing to inspect."""
    if cfg.sample is not None and cfg.sample < 1:
        raise ConfigError(f"sample={cfg.sample}: expected a number of images, or null for all")
    if has_whole_images(cfg.data._target_):
        raise ConfigError("data=imagefolder has a class for each image, and no boxes to inspect")
