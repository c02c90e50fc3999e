"""Several indexes as one: COCO's next to Pascal VOC's, whose classes are matched by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.findings import MAX_LISTED, Findings
from datamodules.index import AnnotationIndex


@dataclass(frozen=True)
class Part:
    """An index with what it is called, and what its classes are to be called."""

    name: str
    index: AnnotationIndex
    renamed: Mapping[str, str]
    known: Sequence[str] | None = None
    """The classes that are annotated, where some may have no object; None: those of the index."""

    @property
    def class_names(self) -> list[str]:
        """Those that are annotated, by their new names."""
        index = self.index
        names = [name for name in index.class_names if name not in index.spare] if self.known is None else self.known
        return [self.renamed.get(name, name) for name in names]


def refuse_other_classes(parts: Sequence[Part], wanted: Sequence[str] | None) -> None:
    """DataError where the objects of a class are annotated in some parts alone: in the others they would be trained as
    background. `wanted` are the classes that are used; None: all."""
    first = parts[0]
    for part in parts[1:]:
        names = wanted or [*first.class_names, *part.class_names]
        lacking = {one.name: [name for name in names if name not in one.class_names] for one in (first, part)}
        if not any(lacking.values()):
            continue
        common = [name for name in first.class_names if name in part.class_names]
        remedy = (
            f"set data.classes=[{','.join(map(_quoted, common))}], which both have"
            if common
            else "they have none in common: train on one of them"
        )
        raise DataError(
            f"{first.name} and {part.name} can't be joined: where a class is not annotated, its objects would be "
            f"trained as background. {_lists(lacking)}.\n{first.name} has {first.class_names}\n{part.name} has "
            f"{part.class_names}\n{remedy}; names that mean the same are matched by data.same_classes"
        )


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _lists(lacking: Mapping[str, Sequence[str]]) -> str:
    texts = (
        f"{name} lacks {', '.join(dict.fromkeys(names[:5]))}{', ..' * (len(names) > 5)}"
        for name, names in lacking.items()
        if names
    )
    return "; ".join(texts)


class Joined:
    """The content of several indexes, to be written as one: images in the order of the parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        numbers: dict[str, int] = {}
        for part in parts:
            for name, number in zip(part.index.class_names, part.index.category_ids, strict=True):
                free = max(numbers.values()) + 1 if number in numbers.values() else number
                numbers.setdefault(part.renamed.get(name, name), free)
        self.class_names, self.category_ids = list(numbers), list(numbers.values())

    def arrays(self) -> dict[str, np.ndarray]:
        indexes = [part.index for part in self._parts]
        paths = [index.path_bytes for index in indexes]
        result = {
            key: np.concatenate([getattr(index, key) for index in indexes])
            for key in ("sizes", "boxes", "areas", "crowd", "difficult", "annotation_ids")
        }
        place = {name: label for label, name in enumerate(self.class_names)}
        maps = [
            np.array([place[part.renamed.get(name, name)] for name in part.index.class_names], np.int32)
            for part in self._parts
        ]
        result["labels"] = np.concatenate([to[index.labels] for to, index in zip(maps, indexes, strict=True)])
        result["path_bytes"] = np.concatenate(paths)
        result["path_offsets"] = _chained([index.path_offsets for index in indexes])
        result["offsets"] = _chained([index.offsets for index in indexes])
        if any(index.ids is not None for index in indexes):
            ids = [index.image_ids(np.arange(len(index))) for index in indexes]
            kinds = {one.dtype.kind for one in ids}
            result["ids"] = np.concatenate(ids if len(kinds) == 1 else [one.astype(np.str_) for one in ids])
        return result

    def meta(self) -> dict[str, Any]:
        found = [part.index.findings for part in self._parts]
        spare = {part.renamed.get(name, name) for part in self._parts for name in part.index.spare}
        used = {name for part in self._parts for name in part.class_names}
        joined = Findings(
            problems=[line for one in found for line in one.problems][:MAX_LISTED],
            counts=sum((one.counts for one in found), Counter[str]()),
            filled=sum((one.filled for one in found), Counter[str]()),
            turns=sum((one.turns for one in found), Counter[str]()),
            refused=[line for one in found for line in one.refused],
            doubts=[line for one in found for line in one.doubts],
            notes=[line for one in found for line in one.notes],
            unlabelled=found[0].unlabelled,
            depends_on={file: mark for one in found for file, mark in one.depends_on.items()},
        )
        for one in found:
            for what, (count, first) in one.seen.items():
                joined.seen[what] = joined.seen.get(what, (0, first))[0] + count, joined.seen.get(what, (0, first))[1]
        return {
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "spare": sorted(spare - used),
            "findings": vars(joined),
        }


def _chained(offsets: Sequence[np.ndarray]) -> np.ndarray:
    starts = np.cumsum([0, *(one[-1] for one in offsets)])
    return np.concatenate([offsets[0][:1], *(one[1:] + start for one, start in zip(offsets, starts, strict=False))])
