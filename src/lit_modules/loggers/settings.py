"""Flattens a nested config, for dashboards without nesting."""

from collections.abc import Mapping
from typing import Any, cast


def flattened(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Gives settings by dotted names, as on the command line; all but numbers and booleans become strings."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            nested = flattened(cast(Mapping[str, Any], value))
            flat |= {f"{key}.{name}": setting for name, setting in nested.items()}
        else:
            flat[str(key)] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
