"""A validation image with its true and predicted boxes, captioned."""

import hashlib
import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from evaluation.analysis import Analysis, JudgedBox
from reports.drawing import draw
from reports.fonts import runs, spelled

_SHORTEST, _LONGEST = 600, 800
"""Pixels of a picture's long side; smaller images are enlarged, larger ones reduced."""
_GAP, _LINE = 8, 20


class Picture(NamedTuple):
    """A validation image as it is shown."""

    row: int
    """Row of `Truth.image_ids`."""
    stem: str
    """Its file's name without the ending."""
    caption: str
    image: np.ndarray
    """RGB uint8 (h, w, 3), resized."""


def caption(analysis: Analysis, row: int) -> str:
    """Names the image, its AP, and how often each mistake was made."""
    why = "".join(f", {kind} {count}" for kind, count in analysis.why(row).items())
    return f"{analysis.truth.image_ids[row]}: AP {analysis.image_ap[row]:.3f}{why}"


def resized(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = min(max(max(height, width), _SHORTEST), _LONGEST) / max(height, width)
    if factor == 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def drawn(analysis: Analysis, picture: Picture) -> np.ndarray:
    """Draws true boxes, dashed, beside predicted and once more the missed true ones, with a caption above."""
    true, predicted = analysis.boxes(picture.row)
    names = analysis.truth.class_names
    height, width = picture.image.shape[:2]
    scale = np.tile([width, height] / analysis.truth.sizes[picture.row, ::-1], 2)

    def with_boxes(*boxes: JudgedBox) -> np.ndarray:
        corners = np.array([box.xyxy for box in boxes], np.float64).reshape(-1, 4) * scale
        labels = np.array([box.label for box in boxes], np.int64)
        scores = np.array([np.nan if box.score is None else box.score for box in boxes], np.float64)
        return draw(picture.image, corners, labels, names, scores, np.isnan(scores))

    right = with_boxes(*predicted, *(box for box in true if box.is_mistake))
    places, axis = (("left", "right"), 1) if width < 2 * height else (("above", "below"), 0)
    gap = np.full_like(right[:, :_GAP] if axis else right[:_GAP], 255)
    both = np.concatenate([with_boxes(*true), gap, right], axis)
    return titled(both, picture.caption, f"{places[0]}: true; {places[1]}: predicted, and missed (dashed)")


def as_jpeg(image: np.ndarray) -> bytes:
    """Returns the bytes of a file in which thin lines keep their colour."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=85, subsampling=0)
    return data.getvalue()


def titled(image: np.ndarray, *lines: str) -> np.ndarray:
    """Puts lines of text on white above a picture, cut where they are longer than the picture is wide."""
    height, width = image.shape[:2]
    top = _LINE * len(lines) + 4
    canvas = Image.new("RGB", (max(width, _SHORTEST), top + height), "white")
    canvas.paste(Image.fromarray(image), (0, top))
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines, 1):
        x = 4.0
        for part, font in runs(spelled(line, 0), 15):
            pen.text((x, _LINE * number - 3), part, fill="black", font=font, anchor="ls")
            x += font.getlength(part)
    return np.asarray(canvas)


def file_stem(image_id: int | str) -> str:
    """Makes a file name of an image id: the id itself, or what remains of it and a hash that makes it unique."""
    text = str(image_id)
    if re.fullmatch(r"\w[\w.-]{,79}", text) and not text.startswith("worst_") and len(text.encode()) <= 160:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    readable = re.sub(r"\W+", "_", text).strip("_").removeprefix("worst_")[-40:]
    return f"{readable or 'image'}-{digest}"
