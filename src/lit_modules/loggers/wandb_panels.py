"""The W&B panels of a validation: pictures under overlays, tables, curves."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import wandb
from PIL import Image

from evaluation.analysis import Analysis, JudgedBox
from evaluation.confusions import Confusion
from evaluation.curves import RECALLS

if TYPE_CHECKING:
    from reports.validation_pictures import Picture

_CURVES = 20
"""Number of classes with a curve of their own: those with the most objects."""
_CELLS = 10_000
"""Rows of a table that W&B accepts."""
_PADDING = 128


def panels(analysis: Analysis, shown: Mapping[str, Sequence["Picture"]]) -> dict[str, Any]:
    """Makes all panels of a validation, by the keys under which they are logged."""
    return {
        **{f"pictures/{role}": overlays(analysis, pictures) for role, pictures in shown.items() if pictures},
        "analysis/per_class": per_class(analysis),
        "analysis/pr_curves": pr_curves(analysis),
        "analysis/confusion": confusion(analysis),
        **{f"analysis/confusion_{name}": of_part(part) for name, part in analysis.metrics.confusions.items()},
    }


def overlays(analysis: Analysis, shown: Sequence["Picture"]) -> list[wandb.Image]:
    """Pads pictures at right and bottom to a common size, since W&B shows those of one key in one frame."""
    height = max(picture.image.shape[0] for picture in shown)
    width = max(picture.image.shape[1] for picture in shown)
    images: list[wandb.Image] = []
    for picture in shown:
        canvas = np.full((height, width, 3), _PADDING, np.uint8)
        canvas[: picture.image.shape[0], : picture.image.shape[1]] = picture.image
        images.append(
            wandb.Image(
                Image.fromarray(canvas),
                caption=picture.caption,
                boxes=boxes(analysis, picture.row, picture.image.shape[:2], (height, width)),
                file_type="jpg",
            )
        )
    return images


def boxes(analysis: Analysis, row: int, size: tuple[int, ...], canvas: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Makes two layers of boxes in fractions of the canvas, whose upper left is the image of `size`."""
    original = analysis.truth.sizes[row]
    scale = np.array([size[1] / original[1] / canvas[1], size[0] / original[0] / canvas[0]])
    corners = np.array([size[1] / canvas[1], size[0] / canvas[0]])
    names = analysis.truth.class_names

    def entry(box: JudgedBox) -> dict[str, Any]:
        (left, top), (right, bottom) = (box.xyxy.reshape(2, 2) * scale).clip(0, corners).tolist()
        position = {"minX": left, "minY": top, "maxX": right, "maxY": bottom}
        text = names[box.label] if box.score is None else f"{names[box.label]} {box.score:.2f}"
        found = {"position": position, "class_id": box.label, "box_caption": ", ".join([text, *box.marks])}
        return found if box.score is None else found | {"scores": {"score": box.score}}

    true, predicted = ([entry(box) for box in boxes] for boxes in analysis.boxes(row))
    labels = dict(enumerate(names))
    return {
        "ground_truth": {"box_data": true, "class_labels": labels},
        "predictions": {"box_data": predicted, "class_labels": labels},
    }


def per_class(analysis: Analysis) -> wandb.Table:
    """Makes the table of each class's metrics; cells are empty where a class has no objects."""
    metrics = analysis.metrics
    names = [name for name in next(iter(metrics.per_class.values())) if name != "num_objects"]
    table = wandb.Table(columns=["class", *names, "objects", "threshold", "best F1"])
    for threshold, (name, row) in zip(analysis.thresholds.scores.tolist(), metrics.per_class.items(), strict=True):
        values = [row[column] if row[column] >= 0 else None for column in names]
        shown_from = threshold if np.isfinite(threshold) else None
        table.add_data(name, *values, int(row["num_objects"]), shown_from, metrics.curves[name].best.f1)
    return table


def pr_curves(analysis: Analysis) -> Any:
    """Plots a line for each of the most frequent classes, and the mean over all classes with objects."""
    metrics = analysis.metrics
    present = {name: curve.precision for name, curve in metrics.curves.items() if (curve.precision >= 0).all()}
    frequent = sorted(present, key=lambda name: -metrics.per_class[name]["num_objects"])[:_CURVES]
    lines = {name: present[name] for name in present if name in frequent}
    if len(present) > 1:
        lines[_unlike("all classes", lines)] = np.mean(list(present.values()), axis=0)
    rows = [
        [name, round(float(recall), 2), round(float(precision), 5)]
        for name, line in lines.items()
        for recall, precision in zip(RECALLS, line, strict=True)
    ]
    return wandb.plot_table(
        "wandb/area-under-curve/v0",
        wandb.Table(columns=["class", "recall", "precision"], data=rows),
        {"x": "recall", "y": "precision", "class": "class"},
        {"title": "Precision at IoU 0.5", "x-axis-title": "recall", "y-axis-title": "precision"},
        split_table=True,
    )


def confusion(analysis: Analysis) -> Any:
    """Plots counts at IoU 0.5; of more classes than W&B accepts, the cells with the highest counts."""
    names = [*analysis.truth.class_names, _unlike("background", analysis.truth.class_names)]
    return _matrix("Detections at IoU 0.5", names, analysis.confusion)


def of_part(part: Confusion) -> Any:
    """Plots the confusion matrix of a part of the model."""
    *classes, background = part.matrix.names
    return _matrix(part.matrix.title, [*classes, _unlike(background, classes)], part.counts)


def _matrix(title: str, names: Sequence[str], counts: np.ndarray) -> Any:
    cells = [
        [actual, predicted, int(count)]
        for actual, row in zip(names, counts, strict=True)
        for predicted, count in zip(names, row, strict=True)
    ]
    if len(cells) > _CELLS:
        cells = sorted(cells, key=lambda cell: -int(cell[2]))[:_CELLS]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=cells),
        {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
        {"title": title},
        split_table=True,
    )


def _unlike(name: str, others: Collection[str]) -> str:
    """Puts a name in brackets until no class has it."""
    return _unlike(f"({name})", others) if name in others else name
