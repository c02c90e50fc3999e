"""Marks the slow cases of a parametrized test: `make test` skips them, `make test-all` runs them."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def slow_but(*fast: str, of: Iterable[Any] | Mapping[str, Any]) -> list[Any]:
    """All cases of a parametrization by name (of a mapping, its values); all except `fast` are marked slow."""
    named = dict(of) if isinstance(of, Mapping) else {case: case for case in of}
    unknown = set(fast) - named.keys()
    assert not unknown, f"no such cases: {unknown}"
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), id=name, marks=() if name in fast else pytest.mark.slow
        )
        for name, case in named.items()
    ]
