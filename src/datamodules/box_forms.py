"""Boxes that are written in another form than their reader takes them for, told by how they lie in their images.

Read in the wrong form, boxes cross the border of their images, lie outside or have negative sides; read in the right
one they lie inside. Letters: M boxes, four numbers each as their file states them; `sizes` are (height, width).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Form = Literal["x, y, width, height", "x1, y1, x2, y2"]

_Corners = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_CORNERS: dict[str, _Corners] = {
    "x, y, width, height": lambda first, second: (first, first + second),
    "x1, y1, x2, y2": lambda first, second: (first, second),
    "centre x, centre y, width, height": lambda first, second: (first - second / 2, first + second / 2),
    "y, x, height, width": lambda first, second: (first[:, ::-1], (first + second)[:, ::-1]),
    "y1, x1, y2, x2": lambda first, second: (first[:, ::-1], second[:, ::-1]),
    "centre y, centre x, height, width": lambda first, second: (
        (first - second / 2)[:, ::-1],
        (first + second / 2)[:, ::-1],
    ),
}
"""The two corners by form of the four numbers, of which the first two and the second two are given."""

_SHARE, _TWO = 0.02, 2  # of the boxes must misfit as they are read, before another form is asked for
_TENTH = 0.1  # of those, and no more, may misfit in the other form
_MANY, _THREE = 0.2, 3  # of the boxes misfit in every form
_SLACK = 0.05  # of its side, by which a sound box may stick out
_FRACTIONS = 0.9  # of the boxes leave no doubt
_SMALL_IMAGE = 4  # pixels, at which a box of one pixel is nothing unusual
_UPPER_LEFT = 0.51  # of width and height, that no box reaches over
_ENOUGH = 20  # boxes, and half as many images, which would reach further by chance


class Doubt(NamedTuple):
    """What is doubtful of the boxes of a file."""

    is_certain: bool
    """They are no boxes in pixels, whatever else they are."""
    text: str


def doubt(stated: np.ndarray, sizes: np.ndarray, form: Form, image_index: np.ndarray) -> Doubt | None:
    """Judges the (M, 4) numbers of boxes by the (M, 2) sizes of their images; `image_index` tells images apart."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _doubt(stated, sizes, form, image_index)


def _doubt(stated: np.ndarray, sizes: np.ndarray, form: Form, image_index: np.ndarray) -> Doubt | None:
    sound = np.isfinite(stated).all(axis=1)
    stated, sizes, image_index = stated[sound], sizes[sound].astype(np.float64), image_index[sound]
    number = len(stated)
    if not number:
        return None
    fractions = (np.abs(stated) <= 1).all(axis=1) & (stated[:, 2:] > 0).all(axis=1)
    fractions &= sizes.min(axis=1) >= _SMALL_IMAGE
    found = np.count_nonzero(fractions)
    if found >= max(min(_TWO, number), _SHARE * number):
        return Doubt(
            bool(found >= _FRACTIONS * number),
            f"{found} of {number} boxes hold no number over 1, as fractions of an image do; expected are pixels. "
            "Multiply them by the width and height of their images",
        )
    misfits = {name: int(np.count_nonzero(~_fits(name, stated, sizes, name == form))) for name in _CORNERS}
    as_read = misfits.pop(form)
    odd = "stick out of their images or have negative sides"
    if as_read >= max(min(_TWO, number), _SHARE * number):
        other = min(misfits, key=lambda name: misfits[name])
        if misfits[other] <= _TENTH * as_read:
            text = f"{misfits[other]} of {number} {odd}; read as {form}, as they are now, {as_read} do"
            return Doubt(False, f"are the boxes {other}? Read so, {text}")
        if as_read >= max(_THREE, _MANY * number):
            text = "and in any other form many would; are their images those that were annotated?"
            return Doubt(False, f"{as_read} of {number} boxes {odd}, {text}")
    return _upper_left(stated, sizes, form, image_index)


def _fits(form: str, stated: np.ndarray, sizes: np.ndarray, is_lenient: bool) -> np.ndarray:
    """Which boxes would lie in their images, but for a pixel; if lenient by two pixels or a twentieth of their side."""
    low, high = _CORNERS[form](stated[:, :2], stated[:, 2:])
    slack = np.maximum(2.0, _SLACK * (high - low)) if is_lenient else 1.0
    return np.all((low >= -slack) & (high <= sizes[:, ::-1] + slack) & (high >= low), axis=1)


def _upper_left(stated: np.ndarray, sizes: np.ndarray, form: Form, image_index: np.ndarray) -> Doubt | None:
    high = _CORNERS[form](stated[:, :2], stated[:, 2:])[1]
    reach = (high / sizes[:, ::-1]).max(axis=0)
    if reach.max() > _UPPER_LEFT or len(stated) < _ENOUGH or 2 * len(np.unique(image_index)) < _ENOUGH:
        return None
    x, y = (100 * reach).tolist()
    return Doubt(
        False,
        f"none of {len(stated)} boxes reaches over the upper left part of its image, {x:.0f} % of its width and "
        f"{y:.0f} % of its height; are they in percent, or in pixels of smaller copies of the images?",
    )
