"""Detections in the files that evaluation servers take, of a split whose annotations are not public."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from evaluation.files import write_whole
from evaluation.results import write_predictions
from evaluation.truth import Predictions, Truth
from evaluation.wording import counted

FILE = "predictions.json"


def write_submission(folder: Path, truth: Truth, predictions: Predictions) -> str:
    """Writes COCO's results file and, for a data set of VOC, the devkit's files; returns a line that says so."""
    file = folder / truth.results_file
    write_predictions(file, truth, predictions)
    boxes, images = counted(len(predictions.scores), "box", "boxes"), counted(len(truth.image_ids), "image")
    line = f"{boxes} on {images} in {file}, COCO's results format"
    if truth.voc:
        files = write_voc(folder, truth, predictions)
        line += f", and in the VOC devkit's, one file for each class: {files[0].name}, .."
    return line


def write_voc(folder: Path, truth: Truth, predictions: Predictions) -> list[Path]:
    """Writes `comp4_det_test_CLASS.txt` for each class, in the format of the VOC devkit.

    A line is the image's id, the score, and xmin, ymin, xmax, ymax in pixels counted from 1, the last one included; the
    highest scores come first.
    """
    image_ids = truth.image_ids.tolist()
    corners = np.add(predictions.boxes, [1, 1, 0, 0], dtype=np.float64)
    files: list[Path] = []
    for label, name in enumerate(truth.class_names):
        chosen = np.flatnonzero(predictions.labels == label)
        chosen = chosen[np.argsort(-predictions.scores[chosen], kind="stable")]
        lines = (
            _line(image_ids[predictions.image_index[at]], float(predictions.scores[at]), corners[at].tolist())
            for at in chosen.tolist()
        )
        file = folder / f"comp4_det_test_{name.replace('%', '%25').replace('/', '%2F')}.txt"
        write_whole(file, "".join(lines).encode("utf-8", "surrogateescape"))
        files.append(file)
    return files


def _line(image_id: object, score: float, corners: Iterable[float]) -> str:
    return f"{image_id} {score:.6f} {' '.join(f'{number:.6f}' for number in corners)}\n"
