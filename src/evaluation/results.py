"""Predictions gathered from all ranks, and read from or written to COCO's results JSON."""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from evaluation.coco import to_xywh
from evaluation.files import write_whole
from evaluation.truth import Predictions, Truth
from evaluation.wording import counted, first_few

log = logging.getLogger(__name__)

_LISTED = 20  # categories in a message


class ImagePredictions(NamedTuple):
    """Detections of one image, in original pixels, without padding."""

    image_id: int | str
    boxes: Float[np.ndarray, "d 4"]
    """xyxy."""
    scores: Float[np.ndarray, " d"]
    labels: Int[np.ndarray, " d"]


def in_order(parts: Iterable[tuple[Any, ...]], truth: Truth) -> list[list[Any]]:
    """Puts parts, each of which begins with the id of its image, in the order of the truth, and drops the ids.

    Of an image that several ranks went through, the first copy counts. Raises ValueError where the truth has an image
    without part, or a part no image.
    """
    by_image: dict[int | str, list[Any]] = {}
    for image_id, *values in parts:
        by_image.setdefault(image_id, values)
    image_ids: list[int | str] = truth.image_ids.tolist()
    if not image_ids:
        raise ValueError("there is no image to score: the split is empty, or none of its images could be read")
    if missing := [image_id for image_id in image_ids if image_id not in by_image]:
        raise ValueError(
            f"{len(missing)} of {len(image_ids)} images have no predictions: {first_few(missing)}. The loaders of "
            "all ranks together must go through the whole split; nothing found is an empty result, not none"
        )
    if unknown := sorted(by_image.keys() - set(image_ids), key=str):
        raise ValueError(
            f"the split lacks {counted(len(unknown), 'image')} with predictions: {first_few(unknown)}. It has "
            f"{counted(len(image_ids), 'image')}: {first_few(image_ids)}; predict and score the same split"
        )
    return [by_image[image_id] for image_id in image_ids]


def collect(
    parts: Iterable[ImagePredictions | tuple[int | str, np.ndarray, np.ndarray, np.ndarray]], truth: Truth
) -> Predictions:
    """Joins the predictions of all ranks into those of a split, as `in_order` puts them.

    An image on which nothing was found needs its empty part.
    """
    boxes, scores, labels = zip(*in_order(parts, truth), strict=True)
    return Predictions(
        image_index=np.repeat(np.arange(len(scores)), [len(of_image) for of_image in scores]),
        boxes=np.concatenate(boxes),
        scores=np.concatenate(scores),
        labels=np.concatenate(labels),
    )


def write_predictions(path: Path, truth: Truth, predictions: Predictions) -> None:
    """Writes COCO's results format; the file is there whole or not at all.

    Numbers are written in full, so that scoring the file and scoring the arrays give the same digits.
    """
    image_ids, category_ids = truth.image_ids.tolist(), truth.category_ids
    entries = [
        {"image_id": image_ids[image], "category_id": category_ids[label], "bbox": box, "score": score}
        for image, label, box, score in zip(
            predictions.image_index.tolist(),
            predictions.labels.tolist(),
            to_xywh(predictions.boxes).tolist(),
            predictions.scores.tolist(),
            strict=True,
        )
    ]
    write_whole(path, json.dumps(entries).encode())  # not dump, which is not written in C


def read_predictions(path: Path, truth: Truth) -> Predictions:
    """Reads a results file of the truth's split; ValueError names the file, the entry and what is wrong with it.

    Entries of categories that are in the annotations but are not scored are left out, with a warning in the log.
    """
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}. {_EXPECTED}") from error
    if not isinstance(entries, list):
        raise ValueError(
            f"{path} holds a {type(entries).__name__}, not a list. {_EXPECTED}. (The predictions.json of predict.py "
            "numbers its own images and can't be scored; evaluate.py checkpoint=.. writes one that can.)"
        )

    rows = {image_id: row for row, image_id in enumerate(truth.image_ids.tolist())}
    labels = {category_id: label for label, category_id in enumerate(truth.category_ids)}
    named = {**dict(zip(truth.category_ids, truth.class_names, strict=True)), **truth.other_categories}
    _refuse_other_kinds(path, entries, truth)
    for index, entry in enumerate(entries):
        if problem := _problem(entry, rows, named):
            raise ValueError(f"{path}, entry {index}: {problem}")
    entries = _chosen(path, entries, truth)
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Predictions(
        image_index=np.array([rows[_id(entry["image_id"])] for entry in entries], dtype=np.int64),
        boxes=boxes,
        scores=np.array([entry["score"] for entry in entries], dtype=np.float64),
        labels=np.array([labels[_id(entry["category_id"])] for entry in entries], dtype=np.int64),
    )


def _id(value: Any) -> Any:
    """Reads an id; JSON has one kind of number, so 7.0 is 7. None for what is no integer and no text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) in (int, str) else None


def _refuse_other_kinds(path: Path, entries: list[Any], truth: Truth) -> None:
    """ValueError where ids are text in all entries and integers in the annotations, or the other way round."""
    for key, what, known in (
        ("image_id", "image", truth.image_ids.tolist()),
        ("category_id", "category", [*truth.category_ids, *truth.other_categories]),
    ):
        found = [number for entry in entries if isinstance(entry, dict) if (number := _id(entry.get(key))) is not None]
        if found and known and len(kinds := {*map(type, found)}) == 1 and kinds.isdisjoint(map(type, known[:1])):
            ours, theirs = ("integers", "text") if str in kinds else ("text", "integers")
            raise ValueError(
                f"{path}: its {what} ids are {theirs} ({first_few(dict.fromkeys(found))}), those of the annotations "
                f"{ours} ({first_few(known)}). Write them as the annotations have them"
            )


def _chosen(path: Path, entries: list[Any], truth: Truth) -> list[Any]:
    """Leaves out entries of categories that are not scored, and logs how many of which."""
    if not truth.other_categories:
        return entries
    kept: list[Any] = []
    left = Counter[int]()
    for entry in entries:
        if (number := _id(entry["category_id"])) in truth.other_categories:
            left[number] += 1
        else:
            kept.append(entry)
    if left:
        kinds = [f"{number} ({truth.other_categories[number]}) {count}" for number, count in left.most_common(_LISTED)]
        more = f", and of {len(left) - _LISTED} more" if len(left) > _LISTED else ""
        log.warning(
            "%s: %d of its %s left out, of categories that are not scored (data.classes): %s%s",
            path, left.total(), counted(len(entries), "entry is", "entries are"), ", ".join(kinds), more,
        )  # fmt: skip
    return kept


def _problem(entry: Any, rows: dict[int | str, int], named: dict[int, str]) -> str | None:
    if not isinstance(entry, dict):
        return f"{_shown(entry)} is not an object. {_EXPECTED}"
    if missing := [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]:
        return f"has no {' and no '.join(missing)}. {_EXPECTED}"
    image_id, category_id, box, score = (entry[key] for key in ("image_id", "category_id", "bbox", "score"))
    if _id(image_id) not in rows:
        return (
            f"image_id {_shown(image_id)} is not in the split, which has {counted(len(rows), 'image')}: "
            f"{first_few(rows)}. Score the split that was predicted"
        )
    if _id(category_id) not in named:
        known = [f"{number} ({name})" for number, name in named.items()]
        return (
            f"category_id {_shown(category_id)} is not in the data set, whose categories are "
            f"{', '.join(known)}. Write the data set's own numbers, not indices from 0"
        )
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox {_shown(box)} is not four finite numbers: x, y, width, height in original pixels"
    if box[2] < 0 or box[3] < 0:
        return f"bbox {_shown(box)} has a negative side; write x, y, width, height, not two corners"
    if not _is_number(score):
        return f"score {_shown(score)} is not a finite number; the best prediction has the highest"
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


_EXPECTED = (
    'Expected is COCO\'s results format: a list of {"image_id": .., "category_id": .., '
    '"bbox": [x, y, width, height], "score": ..}'
)
