"""Detections with their images as one file in COCO's format, written as they come."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from evaluation.coco import to_xywh
from evaluation.files import FULL
from evaluation.results import ImagePredictions


class CocoFile:
    """`images`, `categories` and `annotations` (bbox xywh in original pixels, with a score), by image id.

    Takes no more memory for more images. The file is there after `close`, whole, or not at all; numbers are
    written in full.
    """

    def __init__(
        self, path: Path, info: dict[str, Any], category_ids: Sequence[int], class_names: Sequence[str]
    ) -> None:
        self.path, self.num_images, self.num_detections = path, 0, 0
        self._category_ids = category_ids
        self._partial = path.with_name(f".{path.name}.{os.getpid()}")
        self._images = TemporaryFile("w+", dir=path.parent)  # noqa: SIM115 - closed in __exit__
        self._file = self._partial.open("w")
        listed = [{"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)]
        self._file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(listed)},\n"annotations": [')

    def add(self, file_name: str, size: tuple[int, int], found: ImagePredictions) -> None:
        """The next image, of `size` (h, w)."""
        image = {"id": found.image_id, "file_name": file_name, "width": size[1], "height": size[0]}
        boxes, scores, labels = to_xywh(found.boxes).tolist(), found.scores.tolist(), found.labels.tolist()
        with self._named():
            self._images.write(_separator(self.num_images) + json.dumps(image))
            self.num_images += 1
            for box, score, label in zip(boxes, scores, labels, strict=True):
                annotation = {
                    "id": self.num_detections + 1, "image_id": found.image_id,
                    "category_id": self._category_ids[label], "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                    "score": score,
                }  # fmt: skip
                self._file.write(_separator(self.num_detections) + json.dumps(annotation))
                self.num_detections += 1

    def close(self) -> None:
        """Raises OSError where the disk is full; an older file is then as it was."""
        with self._named():
            self._file.write('\n],\n"images": [')
            self._images.seek(0)
            shutil.copyfileobj(self._images, self._file)
            self._file.write("\n]}\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._partial.replace(self.path)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "free some space on its disk" if error.errno in FULL else "see that its folder can be written"
            raise OSError(error.errno, f"can't write {self.path} ({error.strerror or error}); {remedy}") from error

    def __enter__(self) -> "CocoFile":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            for file in (self._file, self._images):
                with suppress(OSError):  # what a full disk did not take before, it doesn't take now
                    file.close()
            self._partial.unlink(missing_ok=True)


def _separator(entries_before: int) -> str:
    return ",\n" if entries_before else "\n"
