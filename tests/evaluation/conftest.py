"""Builders of small truths and predictions from rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evaluation.truth import Predictions, Truth


def _truth_of(
    objects: Sequence[dict[str, Any]],
    image_ids: Sequence[int | str] = (1,),
    class_names: Sequence[str] = ("cat",),
    category_ids: Sequence[int] | None = None,
    voc: bool = False,
) -> Truth:
    """Truth of `objects`: `image` (row), `label`, `box` (xyxy), and optionally `area`, `crowd`, `difficult`."""
    objects = sorted(objects, key=lambda row: row.get("image", 0))
    boxes = np.array([row["box"] for row in objects], dtype=np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Truth(
        image_ids=np.array(image_ids),
        sizes=np.full((len(image_ids), 2), 1000),
        image_index=np.array([row.get("image", 0) for row in objects], dtype=np.int64),
        boxes=boxes,
        labels=np.array([row.get("label", 0) for row in objects], dtype=np.int64),
        areas=np.array([row.get("area", area) for row, area in zip(objects, areas, strict=True)], dtype=float),
        crowd=np.array([row.get("crowd", False) for row in objects], dtype=bool),
        difficult=np.array([row.get("difficult", False) for row in objects], dtype=bool),
        class_names=tuple(class_names),
        category_ids=tuple(category_ids or range(1, len(class_names) + 1)),
        voc=voc,
    )


def _predictions_of(found: Sequence[dict[str, Any]]) -> Predictions:
    """Predictions of `found`: `image` (row), `label`, `box` (xyxy), `score`."""
    return Predictions(
        image_index=np.array([row.get("image", 0) for row in found], dtype=np.int64),
        boxes=np.array([row["box"] for row in found], dtype=np.float32).reshape(-1, 4),
        scores=np.array([row["score"] for row in found], dtype=np.float32),
        labels=np.array([row.get("label", 0) for row in found], dtype=np.int64),
    )


@pytest.fixture(scope="session")
def truth_of() -> Callable[..., Truth]:
    return _truth_of


@pytest.fixture(scope="session")
def predictions_of() -> Callable[..., Predictions]:
    return _predictions_of
