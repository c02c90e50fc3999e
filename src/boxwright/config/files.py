"""Looks things up in conf/: choices, keys, the nearest spelling of a wrong one, where a value was set.

A folder of the user's own (`--config-dir`) is searched after conf/, as Hydra does.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from boxwright.config.earlier import MOVED, moved_to

CONF = Path(__file__).parents[3] / "conf"

_users: list[Path] = []


def use_folder(folder: str | None) -> None:
    """Searches a folder of the user's own from now on, after conf/; None: conf/ alone."""
    _users[:] = [] if folder is None else [Path(folder)]


def folders() -> list[Path]:
    """Lists conf/ and the user's own folder; where both have a file, conf/ wins."""
    return [CONF, *_users]


def find_file(group: str, choice: str) -> Path:
    """Finds the file of a choice; where there is none, the path that it would have in conf/."""
    files = [folder / group / f"{choice}.yaml" for folder in folders()]
    return next((file for file in files if file.exists()), files[0])


def name_file(file: Path) -> str:
    """Names a file for messages: from conf/ on, or as the user has given its folder."""
    return str(file.relative_to(CONF.parent) if file.is_relative_to(CONF) else file)


def groups() -> list[str]:
    """Lists the groups of which a command line can choose a file, without Hydra's own."""
    every = {str(group.relative_to(folder)) for folder in folders() for group in folder.rglob("*/")}
    return sorted(group for group in every if group.split("/")[0] != "hydra")


def is_group(key: str) -> bool:
    return "/" in key or _has_group(key)


def _has_group(key: str) -> bool:
    return any((folder / key).is_dir() for folder in folders())


def options(group: str) -> list[str]:
    files = [file for folder in folders() for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def nearest(word: str, words: Iterable[str]) -> str:
    """Names the nearest word, as the end of a message; empty where none is close."""
    found = get_close_matches(word, list(words), n=1)
    return f"; nearest is {found[0]}" if found else ""


def unknown(key: str, origin: str, known: dict[str, Any]) -> str:
    """Writes the message for a key that is in a config and not in `known`."""
    if key == "experiment":
        return f"{key} ({origin}): a recipe must begin with the line `# @package _global_`"
    if moved := _moved(key, at(known, "model._target_")):
        return f"{key} ({origin}): {moved}"
    if owners := _owners(key):
        return f"{key} ({origin}): the chosen file has no such setting; it belongs to {', '.join(owners)}"
    parent, _, name = key.rpartition(".")
    siblings = [f"{parent}.{sibling}" for sibling in at(known, parent) or ()] if parent else []
    elsewhere = [other for other in keys(known) if other.rpartition(".")[2] == name]
    near = nearest(key, siblings) or nearest(key, elsewhere) or nearest(key, keys(known))
    return f"{key} ({origin}): no such setting{near or (elsewhere and f'; nearest is {elsewhere[0]}') or ''}"


def _moved(key: str, model: object) -> str:
    """Names the new place of a key of an earlier version, of the chosen model or else of others; empty if none."""
    if now := moved_to(model, key):
        return f"is now {now}"
    elsewhere = dict.fromkeys(now for other in MOVED if (now := moved_to(other, key)))
    return " or ".join(f"is now {now} of {', '.join(_owners(now))}" for now in elsewhere)


def _owners(key: str) -> list[str]:
    """Lists the choices of the key's group that have it."""
    group, rest = _split(key)
    return [f"{group}={choice}" for choice in options(group) if _has(group, choice, rest)] if group else []


def _has(group: str, choice: str, key: str) -> bool:
    """Whether a choice's file, or a file that it shares with others, has a key."""
    content = loaded(find_file(group, choice))
    shared = [entry for entry in content.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"]
    return contains(content, key) or any(contains(loaded(find_file(group, name)), key) for name in shared)


def _split(key: str) -> tuple[str, str]:
    """Splits `model.backbone.depth` into group model/backbone and the rest; a key of the root has no group."""
    parts = key.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        if _has_group("/".join(parts[:depth])):
            return "/".join(parts[:depth]), ".".join(parts[depth:])
    return "", key


def origin(key: str) -> str:
    """Names the override, the recipe, or the group's file that gave a key of the composed config its value."""
    hydra = HydraConfig.get()
    for line in reversed(plain(hydra.overrides)["task"]):
        overridden = line.partition("=")[0].lstrip("+")
        inside = key.startswith(f"{overridden}.") and not is_group(overridden)
        if key == overridden or inside or overridden.startswith(f"{key}."):
            return f"command line, {line}"
    recipe = hydra.runtime.choices.get("experiment")
    while recipe is not None:
        file = find_file("experiment", recipe)
        content = loaded(file)
        if contains(content, key):
            return name_file(file)
        bases = [entry for entry in content.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"]
        recipe = bases[0] if bases else None
    return name_file(_file(key))


def remark(key: str) -> str:
    """Reads the comment behind a key in its file."""
    file = _file(key)
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith(f"{key.rpartition('.')[2]}:") and "#" in line:
            return line.partition("#")[2].strip()
    return ""


def _file(key: str) -> Path:
    group, rest = _split(key)
    if not group:
        return CONF / f"{HydraConfig.get().job.config_name}.yaml"
    chosen = choices().get(group, "None").strip("[]").split(",")
    return find_file(group, next((choice for choice in chosen if _has(group, choice, rest)), chosen[0]))


def reference() -> DictConfig:
    """Composes the config of the same choices of groups, without recipe and overrides."""
    hydra = HydraConfig.get()
    lines = (f"{group}={choice}" for group, choice in choices().items() if group != "experiment")
    return _composed(hydra.job.config_name, *lines)


@cache  # the check and the log ask for the same one, and composing takes a tenth of a second
def _composed(name: str, *lines: str) -> DictConfig:
    cfg = compose(name, list(lines))
    OmegaConf.set_readonly(cfg, True)
    return cfg


def choices() -> dict[str, str]:
    """Gives the choice of each group; `[csv,wandb]`, of which Hydra keeps no record, where there are several."""
    hydra = HydraConfig.get()
    chosen: dict[str, str | None] = plain(hydra.runtime.choices)
    for line in plain(hydra.overrides)["task"]:
        group, _, value = line.partition("=")
        if value.startswith("[") and _has_group(group):
            chosen[group] = value.replace(" ", "")
    return {group: choice for group, choice in chosen.items() if choice is not None and not group.startswith("hydra/")}


def plain(cfg: Any) -> dict[str, Any]:
    """Converts a config to dicts and lists; interpolations stay as they are written."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def loaded(file: Path) -> dict[str, Any]:
    return plain(OmegaConf.load(file)) if file.exists() else {}


def at(node: Any, key: str) -> Any:
    for name in key.split(".") if key else ():
        node = cast(dict[str, Any], node).get(name) if isinstance(node, dict) else None
    return node


def contains(node: dict[str, Any], key: str) -> bool:
    parent, _, name = key.rpartition(".")
    return isinstance(above := at(node, parent), dict) and name in above


def keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of mappings and of everything in them."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys(cast(dict[str, Any], value), f"{prefix}{name}.")


def followers(cfg: DictConfig, key: str) -> list[str]:
    """Lists the settings that are interpolations of a model's setting `key`, in a config that is not resolved."""
    return [name for name, value in flat(cfg).items() if key.startswith("model.") and value == f"${{{key}}}"]


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Maps the dotted key of each leaf of a config to its value."""
    leaves: dict[str, Any] = {}

    def walk(node: Any, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, value in cast(dict[str, Any], node).items():
                walk(value, f"{key}.{name}" if key else name)
        else:
            leaves[key] = node

    walk(plain(cfg), "")
    return leaves
