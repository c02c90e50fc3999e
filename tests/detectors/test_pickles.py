"""Pickles of arrays are read as tensors; whatever else a pickle names is refused, and nothing of it runs."""

import collections
import datetime
import fractions
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.weights.pickles import MOST, read_pickle

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">f4"),
    "integers": np.array([1, -2], np.int64),
    "scalar": np.array(3.5, np.float32),
    "none": np.zeros((0, 4), np.float32),
}


def written(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_by_name(tmp_path: Path, protocol: int) -> None:
    content = {"model": ARRAYS, "__author__": "someone", "ids": [1, (2.5, None, True)]}
    found = read_pickle(written(tmp_path / "a.pkl", content, protocol))
    assert found["__author__"] == "someone"
    assert found["ids"] == [1, [2.5, None, True]]
    for name, array in ARRAYS.items():
        assert found["model"][name].tolist() == array.tolist()
        assert found["model"][name].shape == array.shape


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its arrays hold text in place of bytes, and its names are text of latin-1."""
    data = np.array([1.5, -2.0], "<f4")
    opcodes = (
        b"\x80\x02}U\x04blobcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08" + data.tobytes() + b"tbs."
    )
    assert {"numpy.core.multiarray _reconstruct"} <= {str(arg) for op, arg, _ in pickletools.genops(opcodes)}
    (tmp_path / "old.pkl").write_bytes(opcodes)
    assert read_pickle(tmp_path / "old.pkl")["blob"].tolist() == data.tolist()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (datetime.date(2020, 1, 1), r"names datetime\.date"),
        (fractions.Fraction(1, 3), r"names fractions\.Fraction"),
        (
            {"a": np.float32(1.0)},
            r"names numpy\.?\w*\.?_?core\.multiarray\.scalar|names numpy\._core\.multiarray\.scalar",
        ),
        (collections.Counter("aa"), r"names collections\.Counter"),
        (Path("x"), r"names pathlib\.\w*\.?PosixPath|names pathlib"),
        (print, r"names (__builtin__|builtins)\.print"),
        (np.array([object(), None]), r"names (__builtin__|builtins|copyreg|copy_reg)|'O8'"),
        (np.array(["x"]), r"an array of 'U1'"),
        (np.zeros(2, [("a", "f4")]), r"an array of 'V4'"),
        ({1, 2}, r"names (__builtin__|builtins)\.set"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, content: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_pickle(written(tmp_path / "a.pkl", {"model": content}))


class Runs:
    """Would write a file if it were made again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_of_a_refused_file_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could run any code"):
        read_pickle(written(tmp_path / "a.pkl", {"model": Runs(tmp_path / "made")}))
    assert not (tmp_path / "made").exists()


class Claims:
    """An array that says that it is as large as it likes."""

    def __init__(self, shape: tuple[int, ...], data: bytes, at_once: bool = False) -> None:
        self.shape, self.data, self.at_once = shape, data, at_once

    def __reduce__(self) -> Any:
        made = np.zeros(0, np.float32).__reduce__()
        if self.at_once:
            return (made[0], (np.ndarray, self.shape, b"f"))
        return (made[0], made[1], (1, self.shape, np.dtype("f4"), False, self.data))


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (Claims((10**12,), b"\0" * 8), r"holds 2 numbers for an array of shape \(1000000000000,\)"),
        (Claims((-1,), b"\0" * 8), "an array of an unknown form"),
        (Claims((2,), b"\0" * 7), "pickle of arrays"),
        (Claims((10**12,), b"", at_once=True), "not only arrays"),
    ],
)
def test_an_array_takes_no_more_memory_than_its_bytes(tmp_path: Path, claim: Claims, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_pickle(written(tmp_path / "a.pkl", {"model": {"x": claim}}))


def test_repeated_and_nested_containers_end_in_an_error(tmp_path: Path) -> None:
    many: list[Any] = [0] * 1000
    with pytest.raises(ValueError, match=f"over {MOST} values"):
        read_pickle(written(tmp_path / "many.pkl", [many] * 1000))
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep]
    with pytest.raises(ValueError, match="containers within"):
        read_pickle(written(tmp_path / "deep.pkl", deep))
    cut = written(tmp_path / "cut.pkl", ARRAYS).read_bytes()[:-20]
    (tmp_path / "cut.pkl").write_bytes(cut)
    with pytest.raises(ValueError, match="can't be read as a pickle of arrays"):
        read_pickle(tmp_path / "cut.pkl")


def test_tensors_own_their_memory(tmp_path: Path) -> None:
    found = read_pickle(written(tmp_path / "a.pkl", ARRAYS))
    found["a"] += 1
    assert torch.equal(found["a"], torch.arange(1.0, 7).view(2, 3))
