"""Pictures for pages: a JPEG each, and boxes that the browser draws, labels and hides.

Boxes that coincide share a line, in which their colours alternate.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reports.drawing import Color, stacks, text_color
from reports.theme import css

_SMALL, _LARGE = 340.0, 1080.0
"""CSS pixels of a picture's width in the gallery and enlarged, by which labels are laid out."""
_FEW = 10
"""Labels that a picture in the gallery bears; of more only the strong ones are shown."""
_TOP, _RIGHT = 6, 60
"""Per cent: a box that begins above has its label inside, one that begins beyond has it end at its right side."""
_SAME = 2.5
"""CSS pixels, in the gallery, between the sides of boxes whose lines would hide each other."""
_DASHES = {False: (8.0, 8.0), True: (5.0, 8.5)}
"""CSS pixels: the dash of a full or a dashed box in a shared line, and how far on that of the next box begins."""
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
    dashes: str
    """The part of a line that is shared, in CSS; empty where the whole line is the box's own."""
    has_halo: bool
    """False where another box has made the halo of a shared line."""


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
    early = _placed(first, width, height, min(small, _SMALL), 10.5)
    late = _placed(boxes, width, height, large, 12.0)
    ordered = sorted(boxes, key=lambda box: box.strong)  # the strong ones lie on top
    return PictureView(
        caption=caption,
        width=width,
        height=height,
        small=max(8, round(small)),
        large=max(8, round(large)),
        is_full=sum(box.strong for box in boxes) > _FEW,
        rects=[_rect(box, *share) for box, share in zip(ordered, _shares(ordered, _SAME * width / small), strict=True)],
        labels=[
            *(_label(box, place, "early") for box, place in early),
            *(_label(box, place, "late") for box, place in late),
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


def _rect(box: Box, dashes: str, has_halo: bool) -> Rect:
    x1, y1, x2, y2 = box.xyxy
    sides = (x1, y1, max(x2 - x1, 0), max(y2 - y1, 0))
    kinds = [name for name, is_so in (("strong", box.strong), ("dashed", box.dashed)) if is_so]
    x, y, width, height = (f"{side:.1f}" for side in sides)
    return Rect(x, y, width, height, " ".join(kinds), _group(box), css(box.color), box.label, dashes, has_halo)


def _shares(boxes: Sequence[Box], tolerance: float) -> list[tuple[str, bool]]:
    """Finds the dashes of each box in a line that it shares with boxes of its group, and whether it makes the halo."""
    found = [("", True)] * len(boxes)
    for group in {(box.group, box.dashed) for box in boxes}:
        members = [at for at, box in enumerate(boxes) if (box.group, box.dashed) == group]
        dash, step = _DASHES[group[1]]
        for stack in stacks(np.array([boxes[at].xyxy for at in members], np.float64), tolerance):
            for place, one in enumerate(stack if len(stack) > 1 else ()):
                gap, offset = step * len(stack) - dash, step * place
                share = f"stroke-dasharray:{dash:g} {gap:g};stroke-dashoffset:{0 - offset:g}"
                found[members[one]] = share, place == 0
    return found


class _Place(NamedTuple):
    """Where a label touches its box, in per cent of the picture."""

    x: float
    is_left: bool
    """Whether the label begins there, or ends."""
    y: float
    is_above: bool
    """Whether the label lies above, or below."""

    def corners(self, width: float, height: float, long: float, high: float) -> tuple[float, float, float, float]:
        """Computes left, top, right and bottom of a label in a picture, all in CSS pixels."""
        x, y = self.x / 100 * width, self.y / 100 * height
        left, top = x if self.is_left else x - long, y - high if self.is_above else y
        return left, top, left + long, top + high


def _label(box: Box, place: _Place, when: str) -> Label:
    x = place.x if place.is_left else 100 - place.x
    side = f"{'left' if place.is_left else 'right'}:{x:.1f}%;max-width:{100 - x:.1f}%"
    style = f"{side};top:{place.y:.1f}%;--c:{css(box.color)};--t:{css(text_color(box.color))}"
    return Label(box.label, f"{when} up" if place.is_above else when, _group(box), style)


def _group(box: Box) -> str:
    return f" of-{box.group}" if box.group else ""


def _places(box: Box, width: int, height: int) -> list[_Place]:
    """Lists the places of a label, the best first: above its box, or inside where the picture ends; then below."""
    sizes = (width, height, width, height)
    left, top, right, bottom = (
        100 * min(max(side / size, 0.0), 1.0) for side, size in zip(box.xyxy, sizes, strict=True)
    )
    ends = [(left, True), (right, False)]
    if left > _RIGHT:
        ends.reverse()
    edges = ((top, top >= _TOP), (bottom, bottom > 100 - _TOP))
    return [_Place(x, is_left, y, is_above) for y, is_above in edges for x, is_left in ends]


def _placed(boxes: Sequence[Box], width: int, height: int, shown_width: float, size: float) -> list[tuple[Box, _Place]]:
    """Places the labels that have room in a picture of `shown_width`, by an estimate of their widths."""
    taken: list[tuple[float, float, float, float]] = []
    chosen: list[tuple[Box, _Place]] = []
    shown = shown_width, shown_width * height / width
    for box in sorted(boxes, key=lambda box: not box.strong):
        if not box.label:
            continue
        long = 9 + sum(size if ord(letter) > _WIDE else 0.58 * size for letter in box.label)
        first, *others = _places(box, width, height)
        is_told = box.group == "true" and not box.strong  # by the prediction on it
        for place in (first, *([] if is_told else others)):
            left, top, right, bottom = corners = place.corners(*shown, long, 1.45 * size)
            fits = place is first or (left >= 0 and top >= 0 and right <= shown[0] and bottom <= shown[1])
            if fits and all(left >= t[2] or right <= t[0] or top >= t[3] or bottom <= t[1] for t in taken):
                taken.append(corners)
                chosen.append((box, place))
                break
    return chosen
