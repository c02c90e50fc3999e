"""Which rows of a head's layers belong to which class, and their way from one head into another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class ClassRows:
    """The rows of a layer's weight and bias: `outer` x (`before` + K + `after`) x `inner`, in this order."""

    outer: int = 1
    """Of RetinaNet the anchors of a cell: row a K + k is class k of anchor a."""
    before: int = 0
    """Columns before the classes: of Faster R-CNN one, the background."""
    after: int = 0
    """Columns behind the classes that are no class."""
    inner: int = 1
    """Numbers of a class: four of the box regression of Faster R-CNN."""

    def number(self, num_classes: int) -> int:
        """Rows of a layer with so many classes."""
        return self.outer * (self.before + num_classes + self.after) * self.inner

    def by_column(self, value: Tensor) -> Tensor:
        """A view (outer, columns, inner, ...) of a weight or bias."""
        return value.view(self.outer, -1, self.inner, *value.shape[1:])


class HasClassRows(Protocol):
    """A network that tells where its classes lie, so that a run with other classes can start from its weights."""

    def class_rows(self) -> Mapping[str, ClassRows]:
        """All layers with rows for classes, by their names in the network; empty where there are none."""
        ...


def with_rows_of(new: Tensor, old: Tensor, rows: tuple[ClassRows, ClassRows], source: Sequence[int | None]) -> Tensor:
    """A copy of `new` in which class k has the rows of class source[k] of `old`, or its own where that is None.

    `rows` are those of `new` and of `old`, alike but for the columns behind the classes. These come along where both
    have the same number; the columns before the classes always do.
    """
    taken = new.detach().clone()
    ours, theirs = rows[0].by_column(taken), rows[1].by_column(old)
    first = rows[0].before
    ours[:, :first] = theirs[:, :first]
    if rows[0].after == rows[1].after > 0:
        ours[:, -rows[0].after :] = theirs[:, -rows[1].after :]
    pairs = [(k, j) for k, j in enumerate(source) if j is not None]
    ours[:, [first + k for k, _ in pairs]] = theirs[:, [first + j for _, j in pairs]]
    return taken
