"""A nested config as flat names, for dashboards that know no nesting."""

from collections.abc import Mapping
from typing import Any, cast


def flattened(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings by their dotted names, as on the command line; what is no number or truth value is a text."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            nested = flattened(cast(Mapping[str, Any], value))
            flat |= {f"{key}.{name}": setting for name, setting in nested.items()}
        else:
            flat[str(key)] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
