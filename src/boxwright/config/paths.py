"""Refuses paths in a config that do not exist, before the imports take their seconds."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from boxwright.config.errors import ConfigError
from boxwright.config.files import nearest, origin
from boxwright.config.signatures import class_constant
from boxwright.zoo.address import is_address
from boxwright.zoo.names import is_named, trunk


def refuse_missing_paths(cfg: DictConfig) -> None:
    """Raises ConfigError for a path that does not exist and would be opened only after the imports."""
    makes_root = class_constant(str(OmegaConf.select(cfg, "data._target_")), "makes_root", False)
    replaced = OmegaConf.select(cfg, "init_from") is not None
    for key, opened in (("data.root", not makes_root), ("init_from", True), ("model.backbone.weights", not replaced)):
        value: str | None = OmegaConf.select(cfg, key)
        named = is_named(value) if key == "init_from" else is_address(value) or trunk(value) is not None
        known = value in (None, "imagenet", "pretrained") or named
        if opened and not known and not Path(str(value)).expanduser().exists():
            path = Path(str(value)).expanduser().resolve()
            missing = next(part for part in (*path.parents[::-1], path) if not part.exists())
            there = missing.parent.iterdir() if missing.parent.is_dir() else ()
            near = nearest(missing.name, [file.name for file in there])
            raise ConfigError(f"{key}={value} ({origin(key)}): {missing} does not exist{near}")
