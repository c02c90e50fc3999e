"""Top-1 and top-5 accuracy of rankings with one label per image, by hand."""

import numpy as np
import pytest
from rich.console import Console

from evaluation.classification import ImageRanking, accuracy
from evaluation.metrics import Metrics
from evaluation.truth import Truth
from reports.terminal import metrics_table

CLASSES = tuple("abcdefg")
LABELS = [0, 0, 2, 6]
RANKINGS = [
    ImageRanking(10, np.array([0, 1, 2, 3, 4])),  # first
    ImageRanking(20, np.array([1, 2, 3, 4, 0])),  # fifth
    ImageRanking(30, np.array([2, 1, 0, 3, 4])),  # first
    ImageRanking(40, np.array([0, 1, 2, 3, 4])),  # not ranked
]


def truth(labels: list[int] = LABELS, classes: tuple[str, ...] = CLASSES) -> Truth:
    number = len(labels)
    return Truth(
        image_ids=np.arange(10, 10 * number + 1, 10), sizes=np.ones((number, 2), np.int64),
        image_index=np.arange(number), boxes=np.tile([0.0, 0.0, 1.0, 1.0], (number, 1)), labels=np.array(labels),
        areas=np.ones(number), crowd=np.zeros(number, bool), difficult=np.zeros(number, bool), class_names=classes,
        category_ids=tuple(range(len(classes))),
    )  # fmt: skip


def test_top_1_and_top_5_are_fractions_of_the_images() -> None:
    scalars, per_class = accuracy(truth(), RANKINGS)
    assert scalars == {"top1": 2 / 4, "top5": 3 / 4}
    assert per_class["a"] == {"top1": 1 / 2, "top5": 1.0, "num_images": 2.0}
    assert per_class["c"] == {"top1": 1.0, "top5": 1.0, "num_images": 1.0}
    assert per_class["g"] == {"top1": 0.0, "top5": 0.0, "num_images": 1.0}
    assert per_class["b"] == {"top1": -1.0, "top5": -1.0, "num_images": 0.0}  # it has no image
    assert list(per_class) == list(CLASSES)


def test_order_and_copies_of_the_ranks_change_nothing() -> None:
    copy = ImageRanking(10, np.array([5, 5, 5, 5, 5]))
    assert accuracy(truth(), [*RANKINGS[::-1], copy]) == accuracy(truth(), RANKINGS)


def test_few_classes_are_all_ranked() -> None:
    rankings = [ImageRanking(10, np.array([1, 0])), ImageRanking(20, np.array([1, 0]))]
    assert accuracy(truth([0, 1], ("a", "b")), rankings)[0] == {"top1": 0.5, "top5": 1.0}


def test_an_image_without_ranking_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 of 4 images have no predictions: 40"):
        accuracy(truth(), RANKINGS[:3])


def shown(metrics: Metrics) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(metrics_table(metrics))
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip(" ─")]


def test_the_table_has_percentages_of_all_and_of_the_classes_that_have_images() -> None:
    assert shown(Metrics(*accuracy(truth(), RANKINGS))) == [
        "percent", "top1 top5", "50.0 75.0", "class top1 top5 images", "a 50.0 100.0 2", "c 100.0 100.0 1",
        "g 0.0 0.0 1",
    ]  # fmt: skip


def test_with_many_classes_the_table_has_the_worst() -> None:
    classes = tuple(f"n{number:03}" for number in range(100))
    rankings = [ImageRanking(10 * (i + 1), np.array([0 if i in (3, 70) else i])) for i in range(100)]
    lines = shown(Metrics(*accuracy(truth(list(range(100)), classes), rankings)))
    assert lines[3:6] == ["lowest 20 of 100 classes top1 top5 images", "n003 0.0 0.0 1", "n070 0.0 0.0 1"]
    assert len(lines) == 4 + 20
