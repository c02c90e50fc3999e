"""Pictures on a page, with boxes that are drawn, labelled and hidden by the browser."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reports.drawing import Color, text_color
from reports.html_text import css, escape

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


def picture(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Sequence[Box],
    caption: str = "",
    long_side: int = 640,
    quality: int = 80,
) -> str:
    """A JPEG of at most `long_side` pixels with the boxes above it; a click enlarges it.

    Labels that would cover one another are left for the enlarged picture, or for the pointer.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, long_side / max(height, width))
    small = Image.fromarray(image).resize(
        (max(1, round(width * shrink)), max(1, round(height * shrink))), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()

    kind = "full" if sum(box.strong for box in boxes) > _FEW else ""
    # Strong boxes last: they lie on top.
    rects = "".join(_rect(box) for box in sorted(boxes, key=lambda box: box.strong))
    small, large = (min(side, tall * width / height) for side, tall in ((480.0, 300), (_LARGE, 820)))
    crowded = sum(bool(box.label) for box in boxes) > _FEW
    early = _labels([box for box in boxes if box.strong or not crowded], width, height, min(small, _SMALL), 10.5)
    late = _labels(boxes, width, height, large, 12.0)
    labels = "".join(_label(box, width, height, "early") for box in early)
    labels += "".join(_label(box, width, height, "late") for box in late)
    style = f"--aspect:{width}/{height};--small:{max(8, round(small))}px;--large:{max(8, round(large))}px"
    alt = escape(caption.partition("\n")[0] or "picture")
    return (
        f'<figure class="picture"><label class="frame" style="{style}">'
        f'<input type="checkbox" class="zoom" aria-label="enlarge">'
        f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" preserveAspectRatio="none">{rects}</svg>{labels}</label>'
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


def lost_picture(reason: str, caption: str = "") -> str:
    """In the place of a picture that could not be read."""
    return (
        f'<figure class="picture"><div class="lost">{escape(reason)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def gallery(pictures: Sequence[str]) -> str:
    """Pictures side by side; true and predicted boxes can be hidden where there are both."""
    groups = [group for group in ("true", "predicted") if any(f"of-{group}" in html for html in pictures)]
    boxes = "".join(
        f'<label><input type="checkbox" class="show-{group}" checked> {group} boxes</label>' for group in groups
    )
    toggles = f'<div class="toggles">{boxes}</div>' if len(groups) == 2 else ""
    return f'<div class="gallery">{toggles}<div class="pictures">{"".join(pictures)}</div></div>'


def _rect(box: Box) -> str:
    x1, y1, x2, y2 = box.xyxy
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}"'
    kinds = [name for name, is_so in (("strong", box.strong), ("dashed", box.dashed)) if is_so]
    group = f"of-{escape(box.group)}" if box.group else ""
    return (
        f'<rect class="{" ".join(["halo", group])}" {place}/>'
        f'<rect class="{" ".join([*kinds, group])}" style="--c:{css(box.color)}" {place}>'
        f"<title>{escape(box.label)}</title></rect>"
    )


def _label(box: Box, width: int, height: int, when: str) -> str:
    left, top, right = _anchor(box, width, height)
    side = f"left:{left:.1f}%;max-width:{100 - left:.1f}%"
    if left > _RIGHT:
        side = f"right:{100 - right:.1f}%;max-width:{right:.1f}%"
    kinds = [when, *(["up"] if top >= _TOP else []), *([f"of-{escape(box.group)}"] if box.group else [])]
    style = f"{side};top:{top:.1f}%;--c:{css(box.color)};--t:{css(text_color(box.color))}"
    return f'<b class="{" ".join(kinds)}" style="{style}" dir="auto">{escape(box.label)}</b>'


def _anchor(box: Box, width: int, height: int) -> tuple[float, float, float]:
    """Left, top and right in per cent of the picture."""
    left, top, right = box.xyxy[0] / width, box.xyxy[1] / height, box.xyxy[2] / width
    return 100 * min(max(left, 0.0), 1.0), 100 * min(max(top, 0.0), 1.0), 100 * min(max(right, 0.0), 1.0)


def _labels(boxes: Sequence[Box], width: int, height: int, shown_width: float, size: float) -> list[Box]:
    """The boxes whose labels find room in a picture of `shown_width`, by an estimate of their widths."""
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
