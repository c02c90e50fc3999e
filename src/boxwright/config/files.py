"""What stands where in conf/: choices, keys, the nearest spelling of a wrong one, where a value came from.

A folder of the user's own (`--config-dir`) is searched behind conf/, as Hydra does.
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
    """Searches a folder of the user's own from now on, beside conf/; None: conf/ alone."""
    _users[:] = [] if folder is None else [Path(folder)]


def folders() -> list[Path]:
    """conf/ and the user's own folder; where both have a file, conf/ wins."""
    return [CONF, *_users]


def find_file(group: str, choice: str) -> Path:
    """The file of a choice; that in conf/, which does not exist, where there is none."""
    files = [folder / group / f"{choice}.yaml" for folder in folders()]
    return next((file for file in files if file.exists()), files[0])


def name_file(file: Path) -> str:
    """The name of a file for messages: from conf/ on, or as the user has given its folder."""
    return str(file.relative_to(CONF.parent) if file.is_relative_to(CONF) else file)


def groups() -> list[str]:
    """All that a command line can choose a file of, so without Hydra's own."""
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
    """To be put behind a message."""
    found = get_close_matches(word, list(words), n=1)
    return f"; nearest is {found[0]}" if found else ""


def unknown(key: str, origin: str, known: dict[str, Any]) -> str:
    """The message on a key that a config has and `known` has not."""
    if key == "experiment":
        return f"{key} ({origin}): a recipe must begin with the line `# @package _global_`"
    if moved := _moved(key, at(known, "model._target_")):
        return f"{key} ({origin}): {moved}"
    if owners := _owners(key):
        return f"{key} ({origin}): not with the choice that was made; it is a setting of {', '.join(owners)}"
    parent, _, name = key.rpartition(".")
    siblings = [f"{parent}.{sibling}" for sibling in at(known, parent) or ()] if parent else []
    elsewhere = [other for other in keys(known) if other.rpartition(".")[2] == name]
    near = nearest(key, siblings) or nearest(key, elsewhere) or nearest(key, keys(known))
    return f"{key} ({origin}): no such setting{near or (elsewhere and f'; nearest is {elsewhere[0]}') or ''}"


def _moved(key: str, model: object) -> str:
    """That a key of an earlier version is elsewhere today, of the chosen model or else of others."""
    if now := moved_to(model, key):
        return f"is now {now}"
    elsewhere = dict.fromkeys(now for other in MOVED if (now := moved_to(other, key)))
    return " or ".join(f"is now {now} of {', '.join(_owners(now))}" for now in elsewhere)


def _owners(key: str) -> list[str]:
    """Choices of the key's group that have it."""
    group, rest = _split(key)
    return [f"{group}={choice}" for choice in options(group) if _has(group, choice, rest)] if group else []


def _has(group: str, choice: str, key: str) -> bool:
    """Whether a choice's file, or a file that it shares with others, has a key."""
    content = loaded(find_file(group, choice))
    shared = [entry for entry in content.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"]
    return contains(content, key) or any(contains(loaded(find_file(group, name)), key) for name in shared)


def _split(key: str) -> tuple[str, str]:
    """`model.backbone.depth` into the group model/backbone and the rest; no group for a key of the root."""
    parts = key.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        if _has_group("/".join(parts[:depth])):
            return "/".join(parts[:depth]), ".".join(parts[depth:])
    return "", key


def origin(key: str) -> str:
    """The override, the recipe, or the group's file that gave a key of the composed config its value."""
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
    """What the comment behind a key in its file says of it."""
    file = _file(key)
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith(f"{key.rpartition('.')[2]}:") and "#" in line:
            return line.partition("#")[2].strip()
    return ""


def _file(key: str) -> Path:
    hydra = HydraConfig.get()
    group, _ = _split(key)
    return find_file(group, str(hydra.runtime.choices.get(group))) if group else CONF / f"{hydra.job.config_name}.yaml"


def reference() -> DictConfig:
    """What the same choices of groups compose to without recipe and overrides."""
    hydra = HydraConfig.get()
    lines = (f"{group}={choice}" for group, choice in choices().items() if group != "experiment")
    return _composed(hydra.job.config_name, *lines)


@cache  # the check and the log ask for the same one, and composing takes a tenth of a second
def _composed(name: str, *lines: str) -> DictConfig:
    cfg = compose(name, list(lines))
    OmegaConf.set_readonly(cfg, True)
    return cfg


def choices() -> dict[str, str]:
    """The file that was chosen of each group."""
    chosen: dict[str, str | None] = plain(HydraConfig.get().runtime.choices)
    return {group: choice for group, choice in chosen.items() if choice is not None and not group.startswith("hydra/")}


def plain(cfg: Any) -> dict[str, Any]:
    """As dicts and lists; interpolations as they are written."""
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
    """Dotted, of mappings and of what they hold."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys(cast(dict[str, Any], value), f"{prefix}{name}.")


def followers(cfg: DictConfig, key: str) -> list[str]:
    """Settings of a model that are interpolations of another one, in a config that is not resolved."""
    return [name for name, value in flat(cfg).items() if key.startswith("model.") and value == f"${{{key}}}"]


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
