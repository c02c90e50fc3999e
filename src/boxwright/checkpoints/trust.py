"""Refuses a checkpoint's config that is too large or names foreign code: the file may come from a stranger."""

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from reprlib import Repr
from typing import Any, cast

from boxwright.config.files import nearest
from boxwright.config.signatures import accepts, describe, is_ours, parameters
from boxwright.config.trusted import OURS, UntrustedError, explain_untrusted, is_trusted, users_packages
from lit_modules.stored import part_of_a_run


def refuse_overgrown(node: Any, most: int = 100_000) -> None:
    """Raises ValueError for a config of over `most` values: a small pickle can repeat one list a million times."""
    nodes, count = [node], 0
    while nodes:
        node = nodes.pop()
        count += 1
        if count > most:
            raise ValueError(f"its config has over {most} values")
        if isinstance(node, Mapping):
            nodes += cast(Mapping[Any, Any], node).values()
        elif isinstance(node, list | tuple):
            nodes += cast("list[Any]", node)


def refuse_foreign(node: Any, key: str) -> None:
    """Raises ValueError where a config names a class that it must not, or doesn't match the signature of one.

    A prefix alone would let `lit_modules.loggers.wandb.os.system` pass, and `lit_modules.skipped.write_text` is no
    better. An interpolation could bring in more: `${oc.create:...}` makes a config out of a text.
    """
    if isinstance(node, str) and "${" in node:
        raise ValueError(f"{key} is {_shown(node)}: a checkpoint's config has no interpolations")
    if isinstance(node, Mapping):
        node = cast(Mapping[Any, Any], node)
        for name, value in node.items():
            refuse_foreign(value, f"{key}.{name}")
        if "_target_" in node:
            _check_call(node, key)
    elif isinstance(node, list | tuple):
        for i, value in enumerate(cast("list[Any]", node)):
            refuse_foreign(value, f"{key}[{i}]")


def refuse_foreign_run(config: Mapping[str, Any]) -> None:
    """Raises ValueError where a config names other classes than a run's own for what only training is made of: its
    Trainer, its average of the weights, its augmentations.

    `read_checkpoint` lets them pass, as nothing that evaluates or starts from a checkpoint makes them.
    """
    callbacks: Mapping[str, Any] = config.get("callbacks") or {}
    data: Mapping[str, Any] = config["data"]
    parts: dict[str, Any] = {
        "trainer": config.get("trainer"),
        "callbacks.averaging": callbacks.get("averaging"),
        "data.augmentations": data.get("augmentations"),
    }
    for key, target in (call for name, node in parts.items() for call in _calls(node, name)):
        if _RUN.get(key) != target and not (key.startswith("data.augmentations.") and _is_transform(target)):
            raise ValueError(
                f"{key}._target_ is {_shown(target)}: a checkpoint may only name transforms of albumentations there, "
                f"and {', '.join(_RUN.values())} in their own places"
            )


_RUN = {"trainer": "pytorch_lightning.Trainer", "callbacks.averaging": "lit_modules.callbacks.averaging.Averaging"}


def _calls(node: Any, key: str) -> Iterator[tuple[str, object]]:
    """Yields the place and the `_target_` of each class that is named in a node; ValueError for an interpolation."""
    if isinstance(node, str) and "${" in node:
        raise ValueError(f"{key} is {_shown(node)}: a checkpoint's config has no interpolations")
    if isinstance(node, Mapping):
        node = cast(Mapping[Any, Any], node)
        if "_target_" in node:
            yield key, node["_target_"]
        for name, value in node.items():
            yield from _calls(value, f"{key}.{name}")
    elif isinstance(node, list | tuple):
        for i, value in enumerate(cast("list[Any]", node)):
            yield from _calls(value, f"{key}[{i}]")


def _is_transform(target: object) -> bool:
    if not isinstance(target, str) or not target.startswith("albumentations."):
        return False
    import albumentations  # pyright: ignore[reportMissingTypeStubs]

    module, _, name = target.rpartition(".")
    try:
        found: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and issubclass(found, albumentations.BasicTransform | albumentations.BaseCompose)


def _check_call(node: Mapping[Any, Any], key: str) -> None:
    target = node["_target_"]
    if part_of_a_run(target, (*OURS, *users_packages())) is None:
        said = (
            f"{key}._target_ is {_shown(target)}: a checkpoint may only name networks, losses, decoders, data modules, "
            f"optimizers and schedules in {', '.join((*OURS, *users_packages()))}"
        )
        if _may_be_the_users(target):
            in_python = f"load_detector(FILE, trusted=[{target.partition('.')[0]!r}]) in Python"
            raise UntrustedError(f"{said}; {explain_untrusted(target)}, or {in_python}")
        raise ValueError(said)
    kinds = parameters(target)
    if kinds is None:  # torch's own
        return
    for name, value in node.items():
        if name not in ("_target_", "_partial_", *kinds):
            raise ValueError(f"{key}.{name}: {target} has no such parameter{nearest(str(name), kinds)}")
        if name in kinds and not accepts(kinds[name], value):
            raise ValueError(f"{key}.{name} is {_shown(value)}: expected {describe(kinds[name])}")


def _may_be_the_users(target: object) -> bool:
    """Whether a `_target_` may lie in a package of the user's, which they can choose to trust: Python's own modules and
    the other packages of this project nobody has to."""
    if not isinstance(target, str) or not re.fullmatch(r"[\w.]{1,80}", target) or is_trusted(target):
        return False
    return target.partition(".")[0] not in sys.stdlib_module_names and not is_ours(target)


def _shown(value: object) -> str:
    short = Repr()
    short.maxstring = 80
    return short.repr(value)
