"""Pictures for pages: a JPEG each, and boxes that the browser draws, labels and hides."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reports.drawing import Color, text_color
from reports.theme import css

_SMALL, _LARGE = 340.0, 1080.0
"""CSS pixels of a picture's width in the gallery and enlarged, by which labels are laid out."""
_FEW = 10
"""Labels that a picture in the gallery bears; of more only the strong ones are shown."""
_TOP, _RIGHT = 6, 60
"""Per cent: a box that begins above has its label inside, one that begins beyond has it end at its right side."""
_WIDE = 0x2E80
"""Letters from here on (Chinese, Japanese, Korean, emoji) are about as wide as high."""


@dataclass(frozen=True)
class Box:
    """A box over a picture."""

    xyxy: tuple[float, float, float, float]
    """Original pixels."""
    label: str
    color: Color
    dashed: bool = False
    group: str = ""
    """`true` or `predicted`: shown and hidden together."""
    strong: bool = False
    """Drawn thicker and tinted, and labelled before others."""


class Rect(NamedTuple):
    """A box as SVG has it."""

    x: str
    y: str
    width: str
    height: str
    kind: str
    group: str
    """A class of the style sheet after a space, or empty."""
    color: str
    label: str


class Label(NamedTuple):
    """The text of a box at its place over the picture."""

    text: str
    kind: str
    """`early` in the gallery, `late` on the enlarged picture; `up` above its place."""
    group: str
    style: str


@dataclass(frozen=True)
class PictureView:
    """A picture with its boxes, as the template needs it."""

    caption: str
    problem: str = ""
    """Why there is no picture, in its place."""
    source: str = ""
    """The address of the image."""
    width: int = 1
    height: int = 1
    """Original pixels, which the boxes are in."""
    small: int = 8
    large: int = 8
    """CSS pixels of the widths in the gallery and enlarged."""
    is_full: bool = False
    """Tells whether so many boxes are tinted that the tint must be faint."""
    rects: Sequence[Rect] = ()
    labels: Sequence[Label] = ()
    groups: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def alt(self) -> str:
        """The description that is read out."""
        return self.caption.partition("\n")[0] or "picture"


def picture(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Sequence[Box],
    caption: str = "",
    long_side: int = 640,
    quality: int = 80,
) -> PictureView:
    """Makes a JPEG of at most `long_side` pixels with the boxes above it; a click enlarges it.

    Labels that would cover one another are left for the enlarged picture, or for the pointer.
    """
    view = with_boxes(image.shape[1], image.shape[0], boxes, caption)
    return replace(view, source=jpeg(reduced(image, long_side), long_side, quality))


def with_boxes(width: int, height: int, boxes: Sequence[Box], caption: str = "") -> PictureView:
    """Lays out the boxes over a picture of that size in original pixels, whose image is still to come."""
    small, large = (min(side, tall * width / height) for side, tall in ((480.0, 300), (_LARGE, 820)))
    is_crowded = sum(bool(box.label) for box in boxes) > _FEW
    first = [box for box in boxes if box.strong or not is_crowded]
    early = _with_room(first, width, height, min(small, _SMALL), 10.5)
    late = _with_room(boxes, width, height, large, 12.0)
    return PictureView(
        caption=caption,
        width=width,
        height=height,
        small=max(8, round(small)),
        large=max(8, round(large)),
        is_full=sum(box.strong for box in boxes) > _FEW,
        rects=[_rect(box) for box in sorted(boxes, key=lambda box: box.strong)],  # the strong ones lie on top
        labels=[
            *(_label(box, width, height, "early") for box in early),
            *(_label(box, width, height, "late") for box in late),
        ],
        groups=frozenset(box.group for box in boxes),
    )


def reduced(image: UInt8[np.ndarray, "h w 3"] | Image.Image, long_side: int) -> Image.Image:
    """Shrinks an image to a longer side of at most so many pixels."""
    found = image if isinstance(image, Image.Image) else Image.fromarray(image)
    factor = min(1.0, long_side / max(found.size))
    if factor == 1:
        return found
    width, height = (max(1, round(side * factor)) for side in found.size)
    return found.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def jpeg(image: Image.Image, long_side: int, quality: int) -> str:
    """Encodes an image as JPEG, in an address that holds the file itself."""
    buffer = io.BytesIO()
    reduced(image, long_side).save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def groups(pictures: Sequence[PictureView]) -> list[str]:
    """Lists the kinds of boxes on some pictures."""
    return [group for group in ("true", "predicted") if any(group in one.groups for one in pictures)]


def _rect(box: Box) -> Rect:
    x1, y1, x2, y2 = box.xyxy
    sides = (x1, y1, max(x2 - x1, 0), max(y2 - y1, 0))
    kinds = [name for name, is_so in (("strong", box.strong), ("dashed", box.dashed)) if is_so]
    x, y, width, height = (f"{side:.1f}" for side in sides)
    return Rect(x, y, width, height, " ".join(kinds), _group(box), css(box.color), box.label)


def _label(box: Box, width: int, height: int, when: str) -> Label:
    left, top, right = _anchor(box, width, height)
    side = f"left:{left:.1f}%;max-width:{100 - left:.1f}%"
    if left > _RIGHT:
        side = f"right:{100 - right:.1f}%;max-width:{right:.1f}%"
    style = f"{side};top:{top:.1f}%;--c:{css(box.color)};--t:{css(text_color(box.color))}"
    return Label(box.label, f"{when} up" if top >= _TOP else when, _group(box), style)


def _group(box: Box) -> str:
    return f" of-{box.group}" if box.group else ""


def _anchor(box: Box, width: int, height: int) -> tuple[float, float, float]:
    """Computes left, top and right in per cent of the picture."""
    left, top, right = box.xyxy[0] / width, box.xyxy[1] / height, box.xyxy[2] / width
    return 100 * min(max(left, 0.0), 1.0), 100 * min(max(top, 0.0), 1.0), 100 * min(max(right, 0.0), 1.0)


def _with_room(boxes: Sequence[Box], width: int, height: int, shown_width: float, size: float) -> list[Box]:
    """Finds the boxes whose labels have room in a picture of `shown_width`, by an estimate of their widths."""
    taken: list[tuple[float, float, float, float]] = []
    chosen: list[Box] = []
    for box in sorted(boxes, key=lambda box: not box.strong):
        if not box.label:
            continue
        left, top, right = _anchor(box, width, height)
        long = 9 + sum(size if ord(letter) > _WIDE else 0.58 * size for letter in box.label)
        x = right / 100 * shown_width - long if left > _RIGHT else left / 100 * shown_width
        y = top / 100 * shown_width * height / width - (1.45 * size if top >= _TOP else 0)
        place = (x, y, x + long, y + 1.45 * size)
        if all(place[0] >= t[2] or place[2] <= t[0] or place[1] >= t[3] or place[3] <= t[1] for t in taken):
            taken.append(place)
            chosen.append(box)
    return chosen
