"""What of a checkpoint is published: all that a reader of it needs, nothing of the machine that it was trained on."""

import copy
import getpass
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from boxwright.config.signatures import class_constant
from boxwright.zoo.address import is_address
from boxwright.zoo.names import NO_DATA, published, trunk
from lit_modules.callbacks.averaging import Averaging

KEPT = ("state_dict", "boxwright", "epoch", "global_step", "pytorch-lightning_version")
"""Entries of the file: no state of optimizer, schedule, callbacks and loops, and none of a second set of weights."""
KEPT_OF_OURS = (
    "format", "config", "class_names", "category_ids", "exif", "metrics", "thresholds", "versions", "started_from",
)  # fmt: skip
KEPT_OF_CONFIG = (
    "name", "model", "data", "optimizer", "schedule", "trainer", "callbacks", "init_from", "seed", "scale_schedule",
    "channels_last", "compile", "test",
)  # fmt: skip
"""Without loggers (projects, accounts, addresses of servers) and other callbacks than the average of the weights."""
_PATH = re.compile(
    r"(?:^|(?<=[\s=:,;'\"(\[]))(?:file:/*)?(?:[A-Za-z]:[\\/]|~[\w.-]*[\\/]|\\\\|/(?!/))[^\s,;'\"()\[\]]*"
)
"""An absolute path, of any system, within a text."""
_SAYS_NOTHING = ("root", "user", "users", "admin", "ubuntu", "localhost")
"""Names of users and machines that everybody has."""


class Published(NamedTuple):
    """The contents to publish, and what was changed or left out of them."""

    contents: dict[str, Any]
    left_out: list[str]


def without_private_parts(checkpoint: Mapping[str, Any], name: str) -> Published:
    """Returns a checkpoint's contents without what belongs to the run or its machine; the run is called `name`.

    Absolute paths become the names of their files, the place of the data becomes NO_DATA.
    """
    stored = cast("dict[str, Any]", checkpoint["boxwright"])
    kept = {key: copy.deepcopy(stored[key]) for key in KEPT_OF_OURS if key in stored}
    config = {key: kept["config"][key] for key in KEPT_OF_CONFIG if key in kept["config"]}
    left_out = [key for key in checkpoint if key not in KEPT]
    left_out += [f"config.{key}" for key in kept["config"] if key not in KEPT_OF_CONFIG]
    before = copy.deepcopy(config)
    config["name"] = name
    _keep_average_alone(config)
    _leave_places(config)
    kept["config"] = _without_paths(config)
    if started := _public(kept.pop("started_from", None) or before.get("init_from")):
        kept["started_from"] = started
    left_out += [f"config.{key}" for key in _changed(before, kept["config"])]
    contents = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    return Published({**contents, "boxwright": kept}, left_out)


def _keep_average_alone(config: dict[str, Any]) -> None:
    callbacks: dict[str, Any] = config.pop("callbacks", None) or {}
    average: dict[str, Any] = callbacks.get("averaging") or {}
    if average.get("_target_") == f"{Averaging.__module__}.{Averaging.__qualname__}":
        config["callbacks"] = {"averaging": average}


def _leave_places(config: dict[str, Any]) -> None:
    """Leaves out where data, caches and starting weights lay."""
    data = config["data"]
    root = str(data.get("root", ""))
    is_made = class_constant(str(data.get("_target_")), "makes_root", False)
    if "root" in data and not (is_made and not _PATH.search(root) and ".." not in root):
        data["root"] = NO_DATA
    if "cache_dir" in data:
        data["cache_dir"] = None
    if "init_from" in config:
        given = config["init_from"]
        config["init_from"] = None if given is None else _public(given) or _last(str(given))
    _name_weights(config["model"])


def _public(checkpoint: object) -> str | None:
    """The address of a checkpoint, or its name in `NAME` or `NAME=FILE`; None for a file."""
    name = str(checkpoint).partition("=")[0]
    return str(checkpoint) if is_address(checkpoint) else name if published(name) is not None else None


def _name_weights(node: dict[str, Any]) -> None:
    """Leaves of a file of pretrained weights, wherever it stands, its name."""
    for key, value in node.items():
        if isinstance(value, dict):
            _name_weights(cast("dict[str, Any]", value))
        elif key == "weights" and isinstance(value, str) and not (is_address(value) or trunk(value)):
            node[key] = _last(value)


def _without_paths(node: Any) -> Any:
    """Writes the last part alone of each absolute path in the texts of a config."""
    if isinstance(node, dict):
        return {key: _without_paths(value) for key, value in cast("dict[str, Any]", node).items()}
    if isinstance(node, list | tuple):
        return [_without_paths(value) for value in cast("list[Any]", node)]
    if not isinstance(node, str) or is_address(node):
        return node
    if _PATH.match(node) or ".." in re.split(r"[\\/]", node):  # the whole of it, since a folder's name may have spaces
        return _last(node)
    return _PATH.sub(lambda found: _last(found[0]), node)


def _last(path: str) -> str:
    return next((part for part in re.split(r"[\\/]", path)[::-1] if part.strip(".~")), "")


def _changed(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in cast("dict[str, Any]", before).items():
            yield from _changed(value, cast("dict[str, Any]", after).get(name), f"{key}.{name}" if key else name)
    elif before != after and not (isinstance(before, tuple) and list(cast("tuple[Any]", before)) == after):
        yield key


def personal(contents: Mapping[str, Any], allowed: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    """Lists the settings of published contents that have the name of this user or machine: (key, value, name).

    Names of classes, of the repository and what is public by its address are not asked about.
    """
    names = [name for name in _names() if len(name) > 2 and name.lower() not in _SAYS_NOTHING]
    config = contents["boxwright"]["config"]
    found: list[tuple[str, str, str]] = []
    for key, value in _texts(config, ""):
        skipped = key in ("name", *allowed) or key.startswith("data.classes") or key.endswith("_target_")
        for name in () if skipped or is_address(value) else names:
            if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", value, re.IGNORECASE):
                found.append((key, value, name))
    return found


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in cast("dict[str, Any]", node).items():
            yield from _texts(value, f"{key}.{name}" if key else name)
    elif isinstance(node, list):
        for i, value in enumerate(cast("list[Any]", node)):
            yield from _texts(value, f"{key}[{i}]")


def _names() -> set[str]:
    """The names of this user and of this machine, the latter also without its domain."""
    host = socket.gethostname()
    names = {host, host.partition(".")[0], Path.home().name}
    with suppress(KeyError, OSError):  # a user without a name, as in a container
        names.add(getpass.getuser())
    return names
