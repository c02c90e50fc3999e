"""Published figures beside measured ones: whether they can be compared, and whether they agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evaluation.truth import Truth
from evaluation.wording import counted

SPREADS = 4
"""Standard deviations over seeds that are tolerated, as maskrcnn-benchmark's EXPECTED_RESULTS_SIGMA_TOL."""
_LEAST_DECIMALS = 3
"""Of a fraction: figures have a decimal of a percent at least, so that 0.43 is 43.0 %."""
_SLACK = 1e-9
"""Of binary fractions, so that what differs by exactly the tolerance is within it."""
_LISTED = 4
"""Settings that differ which are named."""


class DataSet(NamedTuple):
    """What tells a well-known split from others."""

    name: str
    class_names: tuple[str, ...]
    num_images: int
    num_boxes: int
    """Crowds and difficult objects included."""


class MeasuredOn(NamedTuple):
    """The split that was measured on."""

    split: str
    class_names: tuple[str, ...]
    num_images: int
    num_boxes: int

    @staticmethod
    def of(truth: Truth, split: str, unread: int = 0) -> "MeasuredOn":
        """Describes a split, of whose images `unread` were passed over."""
        return MeasuredOn(split, truth.class_names, len(truth.image_ids) - unread, len(truth.boxes))


@dataclass(frozen=True)
class Figure:
    """A figure that somebody has published, or that is expected for another reason."""

    metric: str
    value: float
    """A fraction of 1."""
    tolerance: float = 0.0
    """How far the measured number may lie off, beside the figure's own rounding."""
    source: str = ""
    data: DataSet | None = None
    """The split that it was measured on; None: the one that is tested."""
    changed: tuple[str, ...] = ()
    """Settings of what is tested that differ from those of the figure."""

    @property
    def rounding(self) -> float:
        """Half of the figure's last digit: 0.371 is what 37.05 % to 37.15 % are rounded to."""
        decimals = len(f"{self.value:.12f}".rstrip("0").partition(".")[2])
        return 0.5 * 10.0 ** -max(decimals, _LEAST_DECIMALS)


@dataclass(frozen=True)
class Compared:
    """A figure and what was measured."""

    figure: Figure
    measured: float | None
    """None where it has nothing to do with the figure."""
    within: bool | None
    """Whether it agrees; None where that can't be judged."""
    remark: str = ""
    """What keeps it from being compared or judged, or what is to be known of it."""

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.figure.value

    def content(self) -> dict[str, Any]:
        """For JSON."""
        figure = self.figure
        return {
            "metric": figure.metric,
            "measured": self.measured,
            "published": figure.value,
            "tolerance": figure.tolerance,
            "rounding": figure.rounding,
            "within": self.within,
            "source": figure.source,
            "data": figure.data and figure.data.name,
            "remark": self.remark,
        }


def compare(figures: Iterable[Figure], scalars: Mapping[str, float], tested: MeasuredOn) -> list[Compared]:
    """Holds the measured numbers of a split against published ones.

    Of another split than the figure's nothing is compared. Where settings differ, both numbers are given and not
    judged: the figure is none of that experiment.
    """
    return [_compared(figure, scalars.get(figure.metric), tested) for figure in figures]


def _compared(figure: Figure, measured: float | None, tested: MeasuredOn) -> Compared:
    if figure.data is not None and (other := _other_split(figure.data, tested)):
        return Compared(figure, None, None, f"published for {figure.data.name}, measured on {other}: not compared")
    if measured is None or not measured >= 0:  # -1 (COCO) or nan (VOC): nothing to find
        return Compared(figure, None, None, f"{figure.metric} was not measured: not compared")
    if figure.changed:
        changed = ", ".join(figure.changed[:_LISTED])
        more = f" and {len(figure.changed) - _LISTED} more" if len(figure.changed) > _LISTED else ""
        return Compared(
            figure, measured, None, f"not judged, since what was published has other settings: {changed}{more}"
        )
    allowed = figure.tolerance + figure.rounding + _SLACK
    return Compared(figure, measured, abs(measured - figure.value) <= allowed, _boxes_differ(figure.data, tested))


def _other_split(published: DataSet, tested: MeasuredOn) -> str:
    """Describes a split that is not the published one; empty where it is."""
    if tested.class_names == published.class_names and tested.num_images == published.num_images:
        return ""
    of_classes = ""
    if tested.class_names != published.class_names:
        is_number = len(tested.class_names) != len(published.class_names)
        of_classes = f" of {counted(len(tested.class_names), 'class', 'classes') if is_number else 'other classes'}"
    images = counted(tested.num_images, "image")
    if not of_classes:
        images = f"{tested.num_images:,} images instead of {published.num_images:,}"
    return f"{tested.split} ({images}{of_classes})"


def _boxes_differ(published: DataSet | None, tested: MeasuredOn) -> str:
    if published is None or tested.num_boxes == published.num_boxes:
        return ""
    return f"{tested.split} has {tested.num_boxes:,} boxes, {published.name} has {published.num_boxes:,}"


def misses(compared: Sequence[Compared]) -> list[str]:
    """Says of each figure that is not reached, or not judged, why."""
    found: list[str] = []
    for one in compared:
        figure = one.figure
        if one.within is None:
            found.append(f"{figure.metric} {100 * figure.value:.4g} %: {one.remark}")
        elif not one.within:
            found.append(
                f"{figure.metric}: measured {100 * (one.measured or 0):.2f} %, published {100 * figure.value:.4g} %, "
                f"tolerated {100 * (figure.tolerance + figure.rounding):.3g}"
            )
    return found


def tolerance(
    metric: str, stated: float | Mapping[str, float] | None, spread: float | Mapping[str, float] | None
) -> float:
    """What is tolerated of a metric: as stated, or four standard deviations over seeds; 0 where neither is given."""
    own, deviation = _of_metric(metric, stated), _of_metric(metric, spread)
    return own if own is not None else SPREADS * (deviation or 0.0)


def _of_metric(metric: str, given: float | Mapping[str, float] | None) -> float | None:
    return given.get(metric) if isinstance(given, Mapping) else given
