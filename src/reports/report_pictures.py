"""The pictures of the report: as many and as large as the page has room for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from markupsafe import Markup
from PIL import Image

from evaluation.analysis import Analysis, JudgedBox
from reports.drawing import class_color
from reports.html import Legend, part
from reports.html_pictures import Box, PictureView, groups, jpeg, reduced, with_boxes
from reports.theme import css

_BOXES = 200
"""Boxes drawn on a picture at most, of either kind."""
_SIZES = ((1.0, 640, 80), (1.0, 480, 76), (0.5, 420, 72), (0.25, 320, 65))
"""Part of the number of pictures, long side in pixels, quality of the JPEGs; tried in turn until they find room."""
_KINDS = (
    Legend("detected", "var(--muted)", "outline"),
    Legend("true", "var(--muted)", "dashed"),
    Legend("tinted: a mistake", "var(--muted)", "tinted"),
)


def pictures(analysis: Analysis, image: Callable[[int | str], np.ndarray], number: int, room: int) -> Markup:
    """Shows half of them the worst images, a quarter the best, a quarter drawn at random; in at most `room` bytes.

    Each image is read once, and encoded once for each size that is tried.
    """
    if not number:
        return Markup("<p>None asked for (callbacks.report.pictures=0).</p>")
    source = _Images(analysis, image)
    for share, long_side, quality in _SIZES:
        chosen = choose(analysis, round(number * share))
        views = source.encoded(chosen, long_side, quality, room)
        if views is not None and len((html := _html(analysis, views, chosen)).encode("utf-8", "replace")) <= room:
            return html
    return Markup("<p>The page has no room left for pictures.</p>")


def choose(analysis: Analysis, number: int) -> dict[str, list[int]]:
    """Chooses rows of images by heading, none of them twice."""
    images, quarter = len(analysis.truth.image_ids), number // 4
    worst = analysis.worst(min(-(-number // 2), -(-images // 2)))
    best = [row for row in analysis.best(quarter + len(worst)) if row not in worst][:quarter]
    others = [row for row in analysis.sample(quarter + len(worst) + len(best)) if row not in {*worst, *best}]
    return {"Worst by AP": worst, "Best by AP": best, "At random": others[:quarter]}


class _Images:
    """Images of the split, kept at the largest size that a page shows."""

    def __init__(self, analysis: Analysis, image: Callable[[int | str], np.ndarray]) -> None:
        self._analysis, self._image = analysis, image
        self._kept: dict[int, tuple[PictureView, Image.Image | None]] = {}

    def encoded(
        self, chosen: Mapping[str, Sequence[int]], long_side: int, quality: int, room: int
    ) -> dict[int, PictureView] | None:
        """Encodes pictures, by their rows; None as soon as the JPEGs alone take more than `room` bytes."""
        views: dict[int, PictureView] = {}
        for row in (row for rows in chosen.values() for row in rows):
            view, small = self._read(row)
            if small is not None:
                view = replace(view, source=jpeg(small, long_side, quality))
            views[row] = view
            room -= len(view.source)
            if room < 0:
                return None
        return views

    def _read(self, row: int) -> tuple[PictureView, Image.Image | None]:
        if row not in self._kept:
            text = caption(self._analysis, row)
            try:
                pixels = self._image(self._analysis.truth.image_ids[row].item())
            except Exception as error:  # whatever became of the file, the rest of the page stands
                self._kept[row] = PictureView(text, f"can't be read any more: {error}"), None
            else:
                view = with_boxes(pixels.shape[1], pixels.shape[0], _boxes(self._analysis, row), text)
                self._kept[row] = view, reduced(pixels, _SIZES[0][1])
        return self._kept[row]


def caption(analysis: Analysis, row: int) -> str:
    """Names the image, its AP, and how often each mistake was made."""
    truth = analysis.truth
    objects, detections = analysis.of_image(row)
    is_counted = not (truth.crowd | truth.difficult)[objects].all()
    mistakes = ", ".join(f"{kind} {count}" for kind, count in analysis.why(row).items())
    score = f"AP {analysis.image_ap[row]:.3f}" if is_counted else "no objects"
    text = f"{truth.image_ids[row].item()}: {score}\n{mistakes or 'nothing wrong'}"
    if max(len(objects), len(detections)) > _BOXES:
        text += f"\n{len(objects):,} objects, {len(detections):,} detections; {_BOXES} of either are drawn"
    return text


def _html(analysis: Analysis, views: Mapping[int, PictureView], chosen: Mapping[str, Sequence[int]]) -> Markup:
    labels = {box.label for row in views for boxes in analysis.boxes(row) for box in boxes}
    names = analysis.truth.class_names
    legend = [*_KINDS, *(Legend(names[label], css(class_color(label))) for label in sorted(labels))]
    parts = [(heading, [views[row] for row in rows]) for heading, rows in chosen.items()]
    return part("evaluated_pictures", legend, parts, groups(list(views.values())))


def _boxes(analysis: Analysis, row: int) -> list[Box]:
    true, predicted = analysis.boxes(row)
    missed_first = sorted(true, key=lambda box: not box.is_mistake)
    drawn = (*predicted[:_BOXES], *missed_first[:_BOXES])
    return [_box(box, analysis.truth.class_names[box.label]) for box in drawn]


def _box(box: JudgedBox, name: str) -> Box:
    # Between marks that keep a name written from right to left from pulling along what stands beside it.
    text = f"\u2068{name}\u2069" if box.score is None else f"\u2068{name}\u2069 {box.score:.2f}"
    x1, y1, x2, y2 = box.xyxy.tolist()
    return Box(
        xyxy=(x1, y1, x2, y2),
        label=f"{', '.join(box.marks)}: {text}" if box.marks else text,
        color=class_color(box.label),
        dashed=box.score is None,
        group="true" if box.score is None else "predicted",
        strong=box.is_mistake,
    )
