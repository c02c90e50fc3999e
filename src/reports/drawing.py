"""Boxes drawn on a picture, and the colour of each class wherever classes have colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw

from reports.fonts import Font, runs, spelled

Color = tuple[int, int, int]

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_LABELS = 300
"""Boxes that get a label at most; in a crowd of more nothing would be left to see."""
_AROUND = 4
"""Lines that lie around one place at most; more boxes that coincide share the outermost."""
_CROWDED = 0.35
"""A label that would hide so much (boxes and labels, each counted as 1) is not drawn."""


@cache
def class_color(label: int) -> Color:
    """Gives the sRGB colour of a class by its label alone: hues a golden angle apart (OKLCH), in ten lightnesses.

    Of the first 80 no two are alike, of the first 10 any two are clearly apart.
    """
    hue = 4.2 + _GOLDEN_ANGLE * label
    lightness = 0.58 + 0.26 * ((0.45 + 0.7 * label) % 1)  # hues 21, 34 or 55 labels apart nearly meet, these don't
    chroma = 0.17
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    # OKLab to linear sRGB (Bjoern Ottosson, 2020)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return _encoded(red), _encoded(green), _encoded(blue)


def _encoded(linear: float) -> int:
    value = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055))


def text_color(ground: Color) -> Color:
    """Picks black or white, whichever stands out more (WCAG's contrast)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in ground]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def draw(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Shaped[np.ndarray, "d 4"],
    labels: Int[np.ndarray, " d"],
    class_names: Sequence[str],
    scores: Float[np.ndarray, " d"] | None = None,
    dashed: Bool[np.ndarray, " d"] | bool = False,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a copy with boxes (xyxy) and their classes, the best on top; sizes of lines and text follow the picture's.

    Of boxes that coincide the best has its place, and the others lie around it. Labels lie in the picture, beside what
    they name, and hide neither each other nor small boxes: in a crowd a label loses its score, then goes altogether
    unless it would be the only one of its class. A box of score nan has none, and lies below those that have.
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(np.ascontiguousarray(image))
    pen = ImageDraw.Draw(canvas, "RGBA")
    line = max(1, round(0.5 + math.sqrt(height * width) / 450))
    clipped = np.asarray(boxes, np.float64).clip(0, [width, height, width, height])
    scores = np.full(len(labels), np.nan) if scores is None else scores
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    frames = [_frame(box, line, width, height) for box in clipped]
    for stack in stacks(np.array(frames, np.float64).reshape(-1, 4)[order], 1.5 * line):
        best = frames[order[stack[0]]]
        for place, at in enumerate(order[stack].tolist()):
            frames[at] = _around(best, min(place, _AROUND) * (line + _seam(line)), width, height)
    has_dashes = np.broadcast_to(dashed, len(labels))
    for i in order[::-1]:
        _rectangle(pen, frames[i], line, class_color(int(labels[i])), bool(has_dashes[i]))
    layout = _Layout(width, height, clipped)
    for i in order[:_LABELS]:
        label, score = int(labels[i]), float(scores[i])
        layout.place(frames[i], label, class_names[label], None if math.isnan(score) else score)
    for tab in reversed(layout.tabs):
        tab.draw(pen)
    return np.array(canvas)


def stacks(boxes: Float[np.ndarray, "d 4"], tolerance: float) -> list[list[int]]:
    """Groups boxes that coincide with the first of their group: no side is further than `tolerance` from its."""
    left = np.arange(len(boxes))
    found: list[list[int]] = []
    while len(left):
        near = (np.abs(boxes[left] - boxes[left[0]]) <= tolerance).all(axis=1)
        found.append(left[near].tolist())
        left = left[~near]
    return found


Frame = tuple[int, int, int, int]
"""First and last pixel of a box's line: left, top, right, bottom, all included."""


def _frame(box: np.ndarray, line: int, width: int, height: int) -> Frame:
    """The line lies around the box, not on it, except at the border of the picture."""
    left, top = math.floor(box[0]) - line, math.floor(box[1]) - line
    right, bottom = math.ceil(box[2]) - 1 + line, math.ceil(box[3]) - 1 + line
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, max(left, min(right, width - 1)), max(top, min(bottom, height - 1))


def _around(frame: Frame, distance: int, width: int, height: int) -> Frame:
    """Moves the line outwards, and inwards where the picture ends."""
    left, top, right, bottom = frame
    left = left - distance if left >= distance else min(left + distance, right)
    top = top - distance if top >= distance else min(top + distance, bottom)
    right = right + distance if right + distance < width else max(right - distance, left)
    bottom = bottom + distance if bottom + distance < height else max(bottom - distance, top)
    return left, top, right, bottom


def _seam(line: int) -> int:
    return max(1, line // 3)


def _rectangle(pen: ImageDraw.ImageDraw, frame: Frame, line: int, color: Color, dashed: bool) -> None:
    """Draws the line with a dark seam on both sides, to be seen on any ground."""
    left, top, right, bottom = frame
    seam = _seam(line)
    shade = (0, 0, 0, 90)
    pen.rectangle((left - seam, top - seam, right + seam, bottom + seam), outline=shade, width=seam)
    inner = left + line, top + line, right - line, bottom - line
    if inner[2] - inner[0] > 4 * seam and inner[3] - inner[1] > 4 * seam:
        pen.rectangle(inner, outline=shade, width=seam)
    if not dashed:
        pen.rectangle(frame, outline=color, width=line)
        return
    for start, end in _dashes(left, right, line):
        pen.rectangle((start, top, end, min(top + line - 1, bottom)), fill=color)
        pen.rectangle((start, max(bottom - line + 1, top), end, bottom), fill=color)
    for start, end in _dashes(top, bottom, line):
        pen.rectangle((left, start, min(left + line - 1, right), end), fill=color)
        pen.rectangle((max(right - line + 1, left), start, right, end), fill=color)


def _dashes(start: int, end: int, line: int) -> list[tuple[int, int]]:
    """Cuts a line into dashes and gaps about 4 lines long; it begins and ends with a dash, which closes corners."""
    count = max(1, round((end - start + 1) / (4 * line)) // 2 * 2 + 1)
    edges = np.rint(np.linspace(start, end + 1, count + 1)).astype(int).tolist()
    return [(a, max(a, b - 1)) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@dataclass(frozen=True)
class _Text:
    """A text and the pixels that it takes: across, above its baseline, below it."""

    parts: list[tuple[str, Font]]
    width: int
    ascent: int
    descent: int


@lru_cache(4096)
def _text(text: str, size: int) -> _Text:
    parts = runs(text, size)
    inked = [font.getbbox(part, anchor="ls") for part, font in (*parts, *runs("Hg", size))]
    width = math.ceil(sum(font.getlength(part) for part, font in parts))
    return _Text(parts, width, math.ceil(max(-box[1] for box in inked)), math.ceil(max(box[3] for box in inked)))


def _cut(text: str, size: int, width: int) -> str:
    """Cuts a text that is wider than `width` pixels."""
    if _text(text, size).width <= width:
        return text
    shorter = (text[:length].rstrip() + "\u2026" for length in range(len(text) - 1, 0, -1))
    return next((short for short in shorter if _text(short, size).width <= width), text[:1])


@dataclass(frozen=True)
class _Tab:
    """A label on a ground of its class's colour."""

    text: _Text
    label: int
    left: int
    top: int
    width: int
    height: int
    cost: float

    def draw(self, pen: ImageDraw.ImageDraw) -> None:
        color = class_color(self.label)
        box = (self.left, self.top, self.left + self.width - 1, self.top + self.height - 1)
        pen.rectangle(box, fill=color)
        x = self.left + (self.width - self.text.width) / 2
        y = self.top + (self.height - self.text.ascent - self.text.descent) // 2 + self.text.ascent
        for text, font in self.text.parts:
            pen.text((x, y), text, fill=text_color(color), font=font, anchor="ls")
            x += font.getlength(text)


class _Layout:
    """Finds a place for each label, one after another."""

    def __init__(self, width: int, height: int, boxes: np.ndarray) -> None:
        self.width, self.height, self.boxes = width, height, boxes
        self.areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1)
        self.size = max(11, round(math.sqrt(width * height) / 42))
        self.tabs: list[_Tab] = []
        self.taken = np.zeros((0, 4))

    def place(self, frame: Frame, label: int, name: str, score: float | None) -> None:
        name = _cut(spelled(name, label), self.size, self.width // 2)
        tab = None
        for text in (name,) if score is None else (f"{name} {score:.2f}", name):
            tab = self._best(frame, label, text) or tab
            if tab is not None and tab.cost < _CROWDED:
                break
        if tab is None or (tab.cost >= _CROWDED and any(other.label == label for other in self.tabs)):
            return
        self.tabs.append(tab)
        corner = (tab.left, tab.top, tab.left + tab.width, tab.top + tab.height)
        self.taken = np.concatenate([self.taken, np.array([corner], np.float64)])

    def _best(self, frame: Frame, label: int, words: str) -> _Tab | None:
        """Picks the place around a box that hides least; none where the picture is too small."""
        pad = max(2, self.size // 5)
        text = _text(words, self.size)
        width, height = text.width + 2 * pad, text.ascent + text.descent + pad
        if width > self.width or height > self.height:
            return None
        left, top, right, bottom = frame
        places = np.array(
            [
                (left, top - height), (right + 1 - width, top - height),
                (left, bottom + 1), (right + 1 - width, bottom + 1),
                (left, top), (right + 1 - width, top), (left, bottom + 1 - height),
                (right + 1, top), (left - width, top),
            ]
        )  # fmt: skip
        places = places.clip(0, [self.width - width, self.height - height])
        corners = np.concatenate([places, places + np.array([width, height])], axis=1).astype(np.float64)
        hidden = (_overlaps(corners, self.boxes) / self.areas).clip(0, 1).sum(axis=1)
        covered = _overlaps(corners, self.taken).sum(axis=1) / (width * height)
        costs = hidden + 8 * covered + 0.01 * np.arange(len(places))
        best = int(costs.argmin())
        left, top = places[best].tolist()
        return _Tab(text, label, left, top, width, height, float(costs[best]))


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the common area of each of `a` with each of `b`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clip(0).prod(axis=2)
