"""Pickles of arrays, as detectron2 and Caffe2 publish weights: read without running anything that they name.

A pickle may call any function that it names. Here the few names that arrays need stand for functions of this file,
which make plain tensors of the bytes in the pickle; every other name is refused.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

MOST = 100_000
"""Values and containers in a file; a few bytes can repeat one list a million times."""
_DEPTH = 8
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")


class _Kind:
    """Stands for a numpy dtype: numbers alone, no objects and no records."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name, self.order = str(name), "<"
        if self.name not in _NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {self.name!r}, not of numbers")

    def __setstate__(self, state: object) -> None:
        order = cast("tuple[object, ...]", state)[1] if isinstance(state, tuple) and len(cast(Any, state)) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an array of an unknown kind of numbers")
        self.order = str(order)


class _Array:
    """Stands for a numpy array until its bytes come."""

    tensor: Tensor | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(cast(Any, state)) != 5:
            raise pickle.UnpicklingError("it holds an array of an unknown form")
        _, shape, kind, by_columns, data = cast("tuple[Any, ...]", state)
        self.tensor = _tensor(data, kind, shape, "F" if by_columns else "C")


class _Name:
    """Stands for a class that is named only."""


def _tensor(data: object, kind: object, shape: object, order: str) -> Tensor:
    sides = cast("tuple[Any, ...]", shape) if isinstance(shape, tuple) else (-1,)
    if not isinstance(kind, _Kind) or not all(type(side) is int and side >= 0 for side in sides):
        raise pickle.UnpicklingError("it holds an array of an unknown form")
    if isinstance(data, str):  # bytes of Python 2, which were read as text
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError(f"it holds an array of {type(data).__name__}, not of numbers")
    numbers = np.frombuffer(bytes(data), np.dtype(kind.name).newbyteorder(cast(Any, kind.order)))
    count = 1
    for side in sides:
        count *= side
    if len(numbers) != count:
        raise pickle.UnpicklingError(f"it holds {len(numbers)} numbers for an array of shape {sides}")
    array = numbers.reshape(sides, order=cast(Any, order)).astype(np.dtype(kind.name), order="C")
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]


def _reconstruct(*_: object) -> _Array:
    return _Array()  # whatever size it is told: the bytes come later


def _from_buffer(data: object, kind: object, shape: object, order: object = "C", *_: object) -> Tensor:
    return _tensor(data, kind, shape, "F" if order == "F" else "C")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something else than bytes")
    return text.encode("latin1")


def _empty(*given: object) -> bytes:
    if given:
        raise pickle.UnpicklingError("it makes bytes of something else")
    return b""  # as Python 3 writes none of them for Python 2


def _ordered(*items: object) -> dict[Any, Any]:
    return dict(*cast(Any, items))


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
    ("collections", "OrderedDict"): _ordered,
    **{(f"{package}.multiarray", "_reconstruct"): _reconstruct for package in ("numpy.core", "numpy._core")},
    **{(f"{package}.numeric", "_frombuffer"): _from_buffer for package in ("numpy.core", "numpy._core")},
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (found := _KNOWN.get((module_name, global_name))) is None:
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}, not only arrays and plain containers, and reading that could "
                "run any code"
            )
        return found


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays, as tensors in plain dicts, lists and tuples; texts of Python 2 are latin-1.

    ValueError for anything else: another class, an array of objects, too many values, a damaged file.
    """
    content = path.read_bytes()
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        return _plain(found, [0], 0)
    except Exception as error:  # a damaged file may fail anywhere
        reason = re.sub(r"\s+", " ", str(error))[:300] or type(error).__name__
        raise ValueError(f"it can't be read as a pickle of arrays: {reason}") from error


def _plain(value: Any, seen: list[int], depth: int) -> Any:
    seen[0] += 1
    if seen[0] > MOST or depth > _DEPTH:
        raise pickle.UnpicklingError(f"it has over {MOST} values, or containers within {_DEPTH} others")
    match value:
        case None | bool() | int() | float() | str() | bytes() | Tensor():
            return value
        case _Array(tensor=Tensor() as tensor):
            return tensor
        case dict():
            items = cast("dict[Any, Any]", value).items()
            return {_plain(key, seen, depth + 1): _plain(item, seen, depth + 1) for key, item in items}
        case list() | tuple():
            return [_plain(item, seen, depth + 1) for item in cast("list[Any]", value)]
        case _:
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, not only arrays and plain containers")
