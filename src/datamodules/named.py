"""COCO, Pascal VOC and Cityscapes by the names of their splits, alone or joined."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.base import DetectionDataModule
from datamodules.checks import refuse_unknown_classes
from datamodules.coco_json import read_coco
from datamodules.download.catalogue import command
from datamodules.errors import DataError
from datamodules.index import AnnotationIndex, cached
from datamodules.joined import Joined, Part, refuse_other_classes
from datamodules.named_splits import CITYSCAPES_CLASSES, SPLITS, Json, Xml, home, named
from datamodules.nearest import nearest
from datamodules.voc import VOC_CLASSES, list_stems, read_voc
from evaluation.wording import counted

SAME_CLASSES = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip
"""What VOC and COCO call the same objects."""


@dataclass(kw_only=True, eq=False, repr=False)
class NamedDataModule(DetectionDataModule):
    """Splits by their names in `named_splits.SPLITS`; several join with "+", of one data set or of several."""

    metrics: ClassVar[tuple[Literal["coco", "voc", "classification"], ...]] = ("coco", "voc")
    """VOC's for splits of its XML alone, see `scored_as_voc`."""

    root: str
    """Holds the usual folders of each data set, or COCO's `annotations` itself."""
    same_classes: Mapping[str, str] | None = None
    """Pairs of names that mean the same, beside `SAME_CLASSES`; a class has the name that `classes` uses, else the
    first split does."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self._warn_of_images_trained_on()

    def _warn_of_images_trained_on(self) -> None:
        """COCO parts the same images otherwise in 2014 and in 2017."""
        train = self._splits.get("train")
        for role in ("val", "test"):
            scored = self._splits.get(role)
            if train is None or scored is None or scored.name == train.name:
                continue
            if not all(source.keeps_ids for name in (train.name, scored.name) for _, source in named(name)):
                continue
            seen, ids = (
                set(train.index.image_ids(train.rows).astype(str)),
                scored.index.image_ids(scored.rows).astype(str),
            )
            if number := sum(one in seen for one in ids):
                rank_zero_warn(
                    f"{number} of the {counted(len(ids), 'image')} of {scored.name} are trained on, in {train.name}: "
                    "its AP is not that of unseen images"
                )

    def open_index(self, split: str) -> AnnotationIndex:
        sources = named(split)
        indexes = [self._open_part(name, source) for name, source in sources]
        names = self.classes or sources[0][1].classes or indexes[0].class_names
        parts = [
            Part(name, index, self._renamed({*index.class_names, *(source.classes or ())}, names), source.classes)
            for (name, source), index in zip(sources, indexes, strict=True)
        ]
        if len(parts) == 1 and not parts[0].renamed:
            return indexes[0]
        if unlabelled := [part.name for part in parts[len(parts) == 1 :] if part.index.findings.unlabelled]:
            raise DataError(f"split {split!r}: {unlabelled[0]} has no annotations; score it by itself")
        refuse_other_classes(parts, self.classes)
        files = [part.index.path for part in parts]
        described = [split, *(f"{part.index.path}: {sorted(part.renamed.items())}" for part in parts)]
        return cached("joined", described, files, lambda: Joined(parts), self.cache_dir)

    def _open_part(self, name: str, source: Json | Xml) -> AnnotationIndex:
        root = Path(self.root).expanduser().absolute()
        listed = home(root, source) / source.files[0]
        if not listed.is_file():
            raise _not_there(root, name, source)
        if isinstance(source, Json):
            pair = str(listed), str(home(root, source) / source.images)
            sources = [*pair, f"exif={self.exif}"]
            return cached("coco", sources, [listed], lambda: read_coco([pair], self.exif), self.cache_dir)
        folder, stems = listed.parents[2], list_stems(listed)
        files = [listed, *(folder / "Annotations" / f"{stem}.xml" for stem in stems)]
        sources = [str(listed), f"exif={self.exif}"]
        return cached("voc", sources, files, lambda: read_voc([(folder, stems)], self.exif), self.cache_dir)

    def _renamed(self, here: Collection[str], names: Sequence[str]) -> dict[str, str]:
        """Returns the new names of those classes that are called otherwise in `names`."""
        same = {**SAME_CLASSES, **(self.same_classes or {})}.items()
        return {
            old: new
            for pair in same
            for old, new in (pair, pair[::-1])
            if old in here and old not in names and new in names
        }

    def choose_classes(self, index: AnnotationIndex) -> tuple[list[str], list[int]]:
        known = dict(zip(index.class_names, index.category_ids, strict=True))
        first = named(self.train_split)[0][1]
        own = first.classes
        if not known and index.findings.unlabelled and not own and self.classes is None:
            return self.classes_of_others(index)
        names = list(self.classes or own or [name for name in known if name not in index.spare])
        legal = {*known, *VOC_CLASSES, *CITYSCAPES_CLASSES, *SAME_CLASSES.values(), *(self.same_classes or {}).values()}
        refuse_unknown_classes(names, legal, list(known))
        if isinstance(first, Xml):  # which has no numbers of its own
            return names, list(range(1, len(names) + 1))
        free = max(known.values(), default=0)
        return names, [known.get(name, free + number) for number, name in enumerate(names, 1)]

    def other_categories(self, index: AnnotationIndex) -> dict[int, str]:
        known = zip(index.category_ids, index.class_names, strict=True)
        return {number: name for number, name in known if name not in self.class_names}

    def explain_missing(self, split: str, missing: Sequence[str]) -> str:
        near = nearest(missing, Path(self.root).expanduser().absolute())
        return "" if near is None else f"\n{near}; docs/data.md shows where the images of each split lie"

    def scored_as_voc(self, split: str) -> bool:
        return all(isinstance(source, Xml) for _, source in named(split))

    def results_file(self, split: str) -> str:
        sources = [source for _, source in named(split)]
        return (
            sources[0].server_file
            if len(sources) == 1 and isinstance(sources[0], Json)
            else super().results_file(split)
        )


def _not_there(root: Path, name: str, source: Json | Xml) -> DataError:
    """Says where the list of a split was looked for, which other splits lie in `root`, and what downloads it."""
    download = command(name, home(root, source))
    fetch = f". Where it is still to be downloaded: {download}" if download else ""
    if not root.is_dir():
        return DataError(f"data.root={root} is not a folder; docs/data.md shows what it holds for split {name}{fetch}")
    places = ", ".join(str(root / place / source.files[0]) for place in source.homes)
    there = [other for other, one in SPLITS.items() if (home(root, one) / one.files[0]).is_file()]
    found = f"{root} has {', '.join(there)}" if there else f"{root} has none of the splits that have a name"
    return DataError(
        f"split {name}: its annotations are in none of {places}. {found}. Check data.root and the split's name; "
        f"a file or folder of your own is read by data=coco or data=voc{fetch}"
    )
