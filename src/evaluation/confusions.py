"""Confusion matrices that parts of a model count of themselves: what a sample is against what its logits say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Matrix(NamedTuple):
    """Which matrix is counted."""

    title: str
    """Of which part, and of which samples."""
    names: tuple[str, ...]
    """Of the rows (what is true) and of the columns (what was said); background is the last."""


@dataclass(frozen=True)
class Confusion:
    """A matrix with its counts."""

    matrix: Matrix
    counts: Int[np.ndarray, "n n"]


def pairs(true: Int[np.ndarray, " s"], said: Int[np.ndarray, " s"]) -> Int[np.ndarray, "p 3"]:
    """Row, column and number of each pair that occurs, without samples of row -1: small, however many classes."""
    counted = true >= 0
    found, number = np.unique(np.stack((true[counted], said[counted])), axis=1, return_counts=True)
    return np.concatenate((found.T, number[:, None]), axis=1).astype(np.int32)


def summed(matrix: Matrix, parts: Iterable[Int[np.ndarray, "_ 3"]]) -> Confusion:
    """Whole numbers, so that no order of the parts changes a digit."""
    counts = np.zeros((len(matrix.names), len(matrix.names)), np.int64)
    for part in parts:
        np.add.at(counts, (part[:, 0], part[:, 1]), part[:, 2])
    return Confusion(matrix, counts)
