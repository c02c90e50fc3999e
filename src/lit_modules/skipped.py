"""The images and annotations that a run skipped because of `data.on_error=skip`, as `skipped.json` lists them.

{"train": {image id: reason}, "val": .., "test": .., "annotations": [problem, ..], "annotation_counts": {rule: n}}
"""

import json
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from datamodules.batch import ImageInfo
from evaluation.files import write_text
from evaluation.wording import counted
from lit_modules.data import DataModule

FILE = "skipped.json"
_SPLITS = ("train", "val", "test")
_WORDS = {"predict": "the prediction"}
_LISTED = 20


def _counted(split: str, images: Sized) -> str:
    return f"{counted(len(images), 'image')} of {_WORDS.get(split, split)}"


@dataclass
class Skipped:
    """Images that could not be read, and annotations that break a rule; neither counts for anything."""

    images: dict[str, dict[str, str]] = field(default_factory=lambda: {split: {} for split in _SPLITS})
    """The reason by split and image id. Of "train" all that the run met; of "val", "test" and "predict" those of the
    last evaluation or prediction. On ranks other than 0 only what that rank met."""
    annotations: list[str] = field(default_factory=list[str])
    """The first problems of each split, in words."""
    annotation_counts: dict[str, int] = field(default_factory=dict[str, int])
    """The number of all problems, by rule."""
    _listed: dict[str, set[str]] = field(default_factory=lambda: {split: set[str]() for split in _SPLITS})

    def __bool__(self) -> bool:
        return any(self.images.values()) or bool(self.annotation_counts)

    def __str__(self) -> str:
        parts = [f"{_counted(split, images)} could not be read" for split, images in self.images.items() if images]
        if self.annotation_counts:
            rules = ", ".join(f"{rule}: {count}" for rule, count in self.annotation_counts.items())
            total = sum(self.annotation_counts.values())
            parts.append(f"{counted(total, 'problem')} in the annotations ({rules})")
        return "; ".join(parts)

    def add(self, split: str, infos: Iterable[ImageInfo]) -> None:
        self.images.setdefault(split, {}).update({str(info.image_id): str(info.error) for info in infos})

    def add_annotations(self, datamodule: DataModule) -> None:
        """Takes the problems of every split that is set up."""
        self.annotations = getattr(datamodule, "problems", [])  # which a data module of the user's may lack
        self.annotation_counts = getattr(datamodule, "problem_counts", {})

    def news(self, rest: str = FILE) -> list[str]:
        """Lists images that were not listed before, in a paragraph for each split; a long one says that more are in
        `rest`."""
        lines: list[str] = []
        for split, images in self.images.items():
            listed = self._listed.setdefault(split, set())
            new = [image_id for image_id in images if image_id not in listed]
            listed.update(new)
            if new:
                lines_of = [f"\n  {image_id!r}: {images[image_id]}" for image_id in new[:_LISTED]]
                more = f"\n  ... {len(new) - _LISTED} more in {rest}" if len(new) > _LISTED else ""
                lines.append(
                    f"{_counted(split, new)} could not be read and count for nothing:{''.join(lines_of)}{more}"
                )
        return lines

    def gather(self, split: str = "train") -> None:
        """Collects on rank 0 the images that other ranks could not read in training, or in a prediction."""
        if not dist.is_initialized():
            return
        shards: list[Any] = [None] * dist.get_world_size()
        dist.gather_object(self.images[split], shards if dist.get_rank() == 0 else None)
        for shard in shards:
            self.images[split] |= shard or {}

    def content(self) -> dict[str, Any]:
        """Makes the content of the file."""
        images = {split: self.images[split] for split in _SPLITS}
        return {**images, "annotations": self.annotations, "annotation_counts": self.annotation_counts}

    def write(self, folder: Path) -> None:
        """Writes the file, unless nothing was skipped."""
        if self or (folder / FILE).exists():
            write_text(folder / FILE, json.dumps(self.content(), indent=1))

    @classmethod
    def read(cls, folder: Path) -> "Skipped":
        """Reads the file of a run's folder; empty where there is none."""
        if not (folder / FILE).exists():
            return cls()
        content = json.loads((folder / FILE).read_text())
        images = {split: content[split] for split in _SPLITS}
        listed = {split: set(images[split]) for split in _SPLITS}
        return cls(images, content["annotations"], content["annotation_counts"], listed)
