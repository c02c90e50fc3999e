"""Looks things up in conf/: choices, keys, the nearest spelling of a wrong one, where a value was set.

Folders of the user's own are searched too, in Hydra's order; see `places`.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from boxwright.config import defaults
from boxwright.config.earlier import MOVED, moved_to

CONF = Path(__file__).parents[3] / "conf"

_DEPTH = 3
"""Of groups below a folder: a user's own may hold anything."""

_searched: list[Path] = []
_script: list[str] = []


def use_folders(script: str, searched: Iterable[Path]) -> None:
    """Searches these folders from now on, in this order; `script` names the primary config of conf/."""
    places = list(searched)
    _script[:], _searched[:] = [script], places if places != [CONF] else []


def folders() -> list[Path]:
    """Lists conf/ and the user's own folders in the order in which Hydra searches them."""
    return _searched or [CONF]


def find_file(group: str, choice: str) -> Path:
    """Finds the file of a choice; where there is none, the path that it would have in conf/."""
    name = f"{choice.removesuffix('.yaml')}.yaml"
    files = [folder / group / name for folder in folders()]
    return next((file for file in files if file.is_file()), CONF / group / name)


def is_shipped(file: Path) -> bool:
    """Whether a file is one of conf/."""
    return file.is_relative_to(CONF)


def hidden_file(group: str, choice: str) -> Path | None:
    """Finds a file of the user's that is never read, since conf/ has one of the same name and other content."""
    files = [file for folder in folders() if (file := folder / group / f"{choice}.yaml").is_file()]
    if len(files) < 2 or not is_shipped(files[0]):
        return None
    first = files[0].read_bytes()
    return next((file for file in files[1:] if file.read_bytes() != first), None)


def name_file(file: Path) -> str:
    """Names a file for messages: from conf/ on, or as the user has given its folder."""
    return str(file.relative_to(CONF.parent) if is_shipped(file) else file)


def groups() -> list[str]:
    """Lists the groups of which a command line can choose a file, without Hydra's own."""
    every = {
        str(group.relative_to(folder))
        for folder in folders()
        for depth in range(1, _DEPTH + 1)
        for group in folder.glob("/".join("*" * depth) + "/")
        if next(group.glob("*.yaml"), None) is not None
    }
    return sorted(group for group in every if group.split("/")[0] != "hydra")


def is_group(key: str) -> bool:
    return "/" in key or has_group(key)


def has_group(key: str) -> bool:
    """Whether a folder of files to choose from exists."""
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
    """Whether a choice's file, or one that it builds on, has a key."""
    content = loaded(find_file(group, choice))
    shared = [entry for entry in content.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"]
    return contains(content, key) or any(_has(group, name, key) for name in shared)


def _split(key: str) -> tuple[str, str]:
    """Splits `model.backbone.depth` into group model/backbone and the rest; a key of the root has no group."""
    parts = key.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        if has_group("/".join(parts[:depth])):
            return "/".join(parts[:depth]), ".".join(parts[depth:])
    return "", key


def origin(key: str) -> str:
    """Names the override, the recipe, or the group's file that gave a key of the composed config its value."""
    hydra = HydraConfig.get()
    for line in reversed(plain(hydra.overrides)["task"]):
        overridden = line.partition("=")[0].lstrip("+")
        inside = key.startswith(f"{overridden}.") and not is_group(overridden)
        is_value = key == overridden and not is_group(overridden)
        if is_value or inside or overridden.startswith(f"{key}."):
            return f"command line, {line}"
    setter = find_setter(defaults.entries(), key)
    return name_file(_file(key) if setter is None else find_file("", setter.path))


def find_setter(entries: Iterable[defaults.Entry], key: str) -> defaults.Entry | None:
    """Finds the file, among those of a composed config, that has given a key its value."""
    for entry in entries:
        inside = entry.inside(key)
        if inside is not None and (not inside or contains(loaded(find_file("", entry.path)), inside)):
            return entry
    return None


def misplaced(key: str) -> str:
    """Writes the message for a key that is unknown because its recipe lies below its group; empty for any other."""
    setter = find_setter(defaults.entries(), key)
    if setter is None or not setter.path.startswith("experiment/") or not setter.package:
        return ""
    if f".{setter.package}." not in f".{setter.path.replace('/', '.')}.":
        return ""
    return f"{key} ({origin(key)}): a recipe must begin with the line `# @package _global_`"


def remark(key: str, file: Path | None = None) -> str:
    """Reads the comment behind a key in its file, or in another one."""
    file = file or _file(key)
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith(f"{key.rpartition('.')[2]}:") and "#" in line:
            return line.partition("#")[2].strip()
    return ""


def _file(key: str) -> Path:
    group, rest = _split(key)
    if not group:
        return _primary()
    chosen = choices().get(group, "None").strip("[]").split(",")
    return find_file(group, next((choice for choice in chosen if _has(group, choice, rest)), chosen[0]))


def _primary() -> Path:
    """The primary config of conf/ that the script has, or that the user's own stands in for."""
    file = find_file("", str(HydraConfig.get().job.config_name))
    return CONF / f"{_script[0]}.yaml" if _script and not is_shipped(file) else file


def reference() -> DictConfig:
    """Composes the config of the same choices of groups, without recipe, overrides, and a primary config of the
    user's."""
    primary = _primary()
    known = _groups_of(primary)
    chosen = {group: choice for group, choice in choices().items() if group.split("/")[0] in known}
    chosen.pop("experiment", None)
    return defaults.with_choices(primary, chosen)


def _groups_of(primary: Path) -> set[str]:
    """Lists the groups that a primary config of conf/ chooses files of, by itself or by another that it starts from."""
    known: set[str] = set()
    entries: list[Any] = loaded(primary).get("defaults", [])
    for entry in entries:
        if isinstance(entry, dict):
            known |= cast(dict[str, Any], entry).keys()
        elif entry != "_self_":
            known |= _groups_of(CONF / f"{entry}.yaml")
    return known


def choices() -> dict[str, str]:
    """Gives the choice of each group; `[csv,wandb]`, of which Hydra keeps no record, where there are several."""
    chosen: dict[str, str | None] = plain(HydraConfig.get().runtime.choices)
    chosen |= {group: f"[{','.join(several)}]" for group, several in defaults.chosen_lists().items()}
    return {group: choice for group, choice in chosen.items() if choice is not None and not group.startswith("hydra/")}


def plain(cfg: Any) -> dict[str, Any]:
    """Converts a config to dicts and lists; interpolations stay as they are written."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def loaded(file: Path) -> dict[str, Any]:
    """Reads the settings of a file; none where it can't be read, which `recipes` reports of those that are chosen."""
    with suppress(OSError, UnicodeError, YAMLError):
        content = OmegaConf.load(file)
        return plain(content) if OmegaConf.is_dict(content) else {}
    return {}


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


def left_open(path: str) -> list[str]:
    """Lists the keys that a file leaves to the command line by `???`, which replaces no other value."""
    return [key for key, value in flat(OmegaConf.create(loaded(find_file("", path)))).items() if value == "???"]


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
