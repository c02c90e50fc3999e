"""The part of an index that plays one role, and which of its boxes training uses."""

from dataclasses import dataclass, replace

import numpy as np

from datamodules.checks import why_no_box
from datamodules.index import AnnotationIndex
from datamodules.layouts.layout import typed
from datamodules.loaders import Role
from datamodules.repeats import RepeatFactors, repeat_factors
from datamodules.transforms import training_boxes
from evaluation.truth import Truth
from evaluation.wording import counted


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of an index, with the classes and the settings that decide which of their boxes training uses."""

    name: str
    index: AnnotationIndex
    rows: np.ndarray
    class_map: np.ndarray
    """The label of each class of the index; -1 for those that are not wanted."""
    min_box: float
    use_difficult: bool

    def part(self, rows: np.ndarray) -> "Split":
        """Returns the split of other rows of the same index."""
        return replace(self, rows=rows)

    @property
    def labels(self) -> np.ndarray:
        """The label of each box of the whole index; -1 for those of classes that are not wanted."""
        return self.class_map[self.index.labels]

    @property
    def here(self) -> np.ndarray:
        """Whether each box of the whole index lies on an image of the split."""
        return np.isin(self.index.image_index(), self.rows)

    def training_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the boxes of the whole index as training sees them, and which of them it uses."""
        index = self.index
        excluded = index.crowd | (index.difficult & (not self.use_difficult))
        return training_boxes(index.boxes, self.labels, excluded, index.sizes[index.image_index()], self.min_box)

    def repeat_factors(self, num_classes: int, threshold: float) -> RepeatFactors:
        """Returns the factors of the split's images, in the order of `rows`, by the boxes that training uses."""
        place = np.full(len(self.index), -1)
        place[self.rows] = np.arange(len(self.rows))
        used = self.training_boxes()[1] & self.here
        return repeat_factors(
            place[self.index.image_index()[used]], self.labels[used], len(self.rows), num_classes, threshold
        )

    def left_out(self, used: np.ndarray) -> dict[str, int]:
        """Returns how many boxes of the split are not `used`, by why."""
        index, labels, here = self.index, self.labels, self.here
        wanted = here & (labels >= 0)
        masks = {
            "crowd": wanted & index.crowd,
            "difficult": wanted & index.difficult & ~used,
            f"with a side under {self.min_box:g} {'pixel' if self.min_box == 1 else 'pixels'}": (
                wanted & ~index.crowd & ~index.difficult & ~used
            ),
            "of other classes": here & (labels < 0),
        }
        return {why: int(np.count_nonzero(mask)) for why, mask in masks.items() if mask.any()}

    def without_box(self, role: Role) -> str | None:
        """Returns why no box trains or, unless the role is "train", is scored; None where one does."""
        index, here = self.index, self.here
        used = here & (self.training_boxes()[1] if role == "train" else self._scored())
        if used.any():
            return None
        why = why_no_box(np.count_nonzero(here), self.left_out(used), index.findings)
        remedies: list[str] = []
        others = here & (self.labels < 0)
        if others.any():
            annotated = [index.class_names[label] for label in np.unique(index.labels[here]).tolist()]
            remedies.append(f"to take those classes set {typed({'classes': annotated})}")
        if role == "train" and (here & index.difficult).any():
            remedies.append("to train on difficult objects set data.use_difficult=true")
        if role == "train" and (here & ~others & ~index.crowd & ~index.difficult).any():
            remedies.append("to train on boxes so small, if they are pixels, lower data.min_box")
        return f"{why}{''.join(f'; {remedy}' for remedy in remedies)}"

    def _scored(self) -> np.ndarray:
        return (self.labels >= 0) & ~self.index.crowd & ~self.index.difficult

    def truth(self, class_names: tuple[str, ...], category_ids: tuple[int, ...], voc: bool) -> Truth:
        """Returns every annotation in original pixels, whatever training does with it."""
        index, rows, labels = self.index, self.rows, self.labels
        place = np.full(len(index), -1)
        place[rows] = np.arange(len(rows))
        image_index = place[index.image_index()]
        used = (image_index >= 0) & (labels >= 0)
        return Truth(
            image_ids=index.image_ids(rows), sizes=index.sizes[rows], image_index=image_index[used],
            boxes=index.boxes[used], labels=labels[used], areas=index.areas[used], crowd=index.crowd[used],
            difficult=index.difficult[used], class_names=class_names, category_ids=category_ids, voc=voc,
        )  # fmt: skip

    def describe(self, role: Role, num_classes: int, rule_name: str) -> str:
        """Describes in a line what is in the split, and what training does not use of it."""
        index = self.index
        clipped, used = self.training_boxes()
        used &= self.here
        empty = len(self.rows) - len(np.unique(index.image_index()[used]))
        line = (
            f"{role} ({self.name}): {counted(len(self.rows), 'image')}, {empty} of them without objects; "
            f"{counted(np.count_nonzero(used), 'box', 'boxes')} of {counted(num_classes, 'class', 'classes')}; "
            f"{rule_name}"
        )
        if cut := np.count_nonzero((clipped != index.boxes).any(axis=1) & used):
            line += f"; {counted(cut, 'box', 'boxes')} cut at the border in training"
        if told := index.findings.told():
            line += f"; {told}"
        counts = [f"{count} {why}" for why, count in self.left_out(used).items()]
        return line + (f"; not used in training: {', '.join(counts)}" if counts else "")
