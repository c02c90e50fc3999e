"""Refuses paths in a config that do not exist, before the imports take their seconds."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from boxwright.config.errors import ConfigError
from boxwright.config.files import nearest, origin
from boxwright.config.signatures import class_constant
from boxwright.runs.newest import or_newest_checkpoint
from boxwright.zoo.address import is_address
from boxwright.zoo.names import is_named, trunk
from reports.commands import override, shown


def refuse_missing_paths(cfg: DictConfig) -> None:
    """Raises ConfigError for a path that does not exist and would be opened only after the imports."""
    makes_root = class_constant(str(OmegaConf.select(cfg, "data._target_")), "makes_root", False)
    replaced = OmegaConf.select(cfg, "init_from") is not None
    for key, opened in (("data.root", not makes_root), ("init_from", True), ("model.backbone.weights", not replaced)):
        value: str | None = OmegaConf.select(cfg, key)
        named = is_named(value) if key == "init_from" else is_address(value) or trunk(value) is not None
        known = value in (None, "imagenet", "pretrained") or named
        if opened and not known and (problem := _problem(key, Path(str(value)).expanduser())):
            raise ConfigError(f"{key}={value} ({origin(key)}): {problem}")


def _problem(key: str, given: Path) -> str:
    """Says what is wrong with a path and what to type; empty if nothing is."""
    if key == "data.root" and given.is_file():
        return f"{given.resolve()} is a file, where the folder of a data set is expected; {_folder(given)}"
    if given.exists():
        return ""
    path = given.resolve()
    missing = next(part for part in (*path.parents[::-1], path) if not part.exists())
    there = [file.name for file in missing.parent.iterdir()] if missing.parent.is_dir() else []
    near = nearest(missing.name, there)
    fixed = missing.parent / near.removeprefix("; nearest is ") / path.relative_to(missing)
    if near and fixed.exists():
        return f"{missing} does not exist{near}: give {_line(key, fixed)}"
    return f"{missing} does not exist{near}{_remedy(key, given)}"


def _folder(given: Path) -> str:
    if given.suffix == ".json":
        return f"give {_line('data.root', given.parent)} data.annotations={given.name}"
    return f"unpack it, or give {_line('data.root', given.parent)}"


def _line(key: str, path: Path) -> str:
    return override(key, shown(path.resolve()))


def _remedy(key: str, given: Path) -> str:
    match key:
        case "init_from":
            return (
                f"{or_newest_checkpoint(key, given)}, or a published one by its name (docs/zoo.md), or hf://USER/REPO"
            )
        case "data.root":
            return "; give data.root=FOLDER, that of a data set (docs/data.md)"
        case _:
            return f"; give {key}=FILE, or {key}=null for random weights"
