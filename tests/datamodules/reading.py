"""What the tests of bad annotations do with a data module: read it, read it with skips, have it refused."""

import re
import warnings
from typing import Any

import pytest

from datamodules.base import DetectionDataModule
from evaluation.truth import Truth

REMEDY = "or set data.on_error=skip to skip it"


def refused(data: DetectionDataModule, says: str) -> str:
    """The message, with one line for each problem."""
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)) as error:
        data.setup()
    return str(error.value)


def skipped(data: DetectionDataModule, says: str) -> Truth:
    """The data without the one bad annotation, which was reported, listed and counted."""
    with pytest.warns(UserWarning, match="skipped: 1 problem in") as told:
        data.setup()
    (warning,) = {str(w.message) for w in told if ", skipped" in str(w.message)}
    (problem,) = data.problems
    assert re.search(says, problem)
    assert problem in warning
    assert list(data.problem_counts.values()) == [1]
    return data.truth("train")


def read(data: DetectionDataModule, filled: str = "") -> Truth:
    """The data of a file without problems; its warning names the values that were filled in."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        data.setup()
    assert {str(w.message).partition("filled in: ")[2] for w in told if "filled in" in str(w.message)} == (
        {filled} if filled else set()
    )
    assert not data.problems
    return data.truth("train")


def boxes_by_image(truth: Truth) -> dict[Any, list[list[float]]]:
    ids = truth.image_ids.tolist()
    return {image_id: truth.boxes[truth.image_index == row].tolist() for row, image_id in enumerate(ids)}
