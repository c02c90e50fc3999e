"""Confusion matrices that parts of a model count of themselves: true against predicted classes of samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Matrix(NamedTuple):
    """The title and the class names of a matrix."""

    title: str
    """The part of the model, and its samples."""
    names: tuple[str, ...]
    """Names of the rows (true) and of the columns (predicted); background is the last."""


@dataclass(frozen=True)
class Confusion:
    """A matrix with its counts."""

    matrix: Matrix
    counts: Int[np.ndarray, "n n"]


def pairs(true: Int[np.ndarray, " s"], predicted: Int[np.ndarray, " s"]) -> Int[np.ndarray, "p 3"]:
    """Counts row and column of each pair that occurs, without samples of row -1: small, however many classes."""
    counted = true >= 0
    found, number = np.unique(np.stack((true[counted], predicted[counted])), axis=1, return_counts=True)
    return np.concatenate((found.T, number[:, None]), axis=1).astype(np.int32)


def summed(matrix: Matrix, parts: Iterable[Int[np.ndarray, "_ 3"]]) -> Confusion:
    """Adds up whole numbers, so that no order of the parts changes a digit."""
    counts = np.zeros((len(matrix.names), len(matrix.names)), np.int64)
    for part in parts:
        np.add.at(counts, (part[:, 0], part[:, 1]), part[:, 2])
    return Confusion(matrix, counts)
