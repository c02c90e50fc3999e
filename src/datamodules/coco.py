"""Any data set in COCO's instances format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules import layouts
from datamodules.base import DetectionDataModule
from datamodules.checks import refuse_unknown_classes
from datamodules.coco_json import read_coco
from datamodules.corrections import RENAMED, moved, without_folders
from datamodules.index import AnnotationIndex, cached
from datamodules.layouts.layout import braced, typed
from datamodules.nearest import Near, nearest


@dataclass(kw_only=True, eq=False, repr=False)
class CocoDataModule(DetectionDataModule):
    """Splits of COCO, or of any data set with its instances format."""

    root: str
    annotations: str = "annotations/instances_{split}.json"
    """Where the JSON of a split is, from `root`."""
    images: str = "{split}"
    """Where its images are, from `root`."""
    train_split: str = "train2017"
    val_split: str = "val2017"
    test_split: str | None = "val2017"
    num_classes: int = 80

    def open_index(self, split: str) -> AnnotationIndex:
        root = Path(self.root).expanduser().absolute()
        parts = [
            (str(root / self.annotations.format(split=name)), str(root / self.images.format(split=name)))
            for name in split.split("+")
        ]
        files = self.sources(split)
        sources = [*(name for part in parts for name in part), f"exif={self.exif}"]
        with layouts.hint(root, "coco"):
            return cached("coco", sources, files, lambda: read_coco(parts, self.exif), self.cache_dir)

    def sources(self, split: str) -> list[str]:
        root = Path(self.root).expanduser().absolute()
        return [str(root / self.annotations.format(split=name)) for name in split.split("+")]

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        root = Path(self.root).expanduser().absolute()
        near = nearest(missing, root)
        return "" if near is None else f"\n{near}; {self._remedy(near, root, split)}"

    def _remedy(self, near: Near, root: Path, split: str) -> str:
        """An override where the images' folder is all that differs; else a command that corrects names or files."""
        for name in split.split("+"):
            _, below, file_name = near.missing.partition(f"{root / self.images.format(split=name)}{os.sep}")
            if below and near.found.endswith(f"{os.sep}{file_name}"):
                folder = os.path.relpath(near.found.removesuffix(file_name), root)
                return f"set {typed({'images': braced(folder, name)})}"
        splits = dict.fromkeys(filter(None, (self.train_split, self.val_split, self.test_split)))
        files = [file for one in splits for file in self.sources(one) if os.path.isfile(file)]
        index = self.open_index(split)
        paths = [index.image_path(row) for row in range(len(index))]
        if command := without_folders(near, paths, list(dict.fromkeys(files))):
            folder, pattern = os.path.relpath(os.path.dirname(near.found), root), Path(self.annotations)
            renamed = str(pattern.with_stem(f"{pattern.stem}{RENAMED}"))
            settings = typed({"annotations": renamed, "images": braced(folder, split)})
            return f"correct file_name in the annotations\n  {command}\nand add\n  {settings}"
        return f"correct file_name in the annotations, or rename the files{moved(near, root)}"

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        known = dict(zip(index.class_names, index.category_ids, strict=True))
        if not known and index.findings.unlabelled:
            return self.classes_of_others(index)
        names = list(known) if self.classes is None else list(self.classes)
        if self.classes is None and len(names) != self.num_classes:  # where they are counted, they are meant
            names = [name for name in names if name not in index.spare]
        refuse_unknown_classes(names, known, list(known))
        return names, [known[name] for name in names]

    def other_categories(self, index: AnnotationIndex) -> dict[int, str]:
        known = zip(index.category_ids, index.class_names, strict=True)
        return {number: name for number, name in known if name not in self.class_names}
