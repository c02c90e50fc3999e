"""All metrics together, and their table."""

from collections.abc import Callable

import pytest
from rich.console import Console

from evaluation.metrics import Metrics, evaluate, headline
from evaluation.truth import COCO_METRICS, VOC_METRICS, Predictions, Truth
from reports.terminal import metrics_table


@pytest.fixture
def predictions(predictions_of: Callable[..., Predictions]) -> Predictions:
    return predictions_of([{"box": (0, 0, 10, 10), "score": 0.9}])


OBJECTS = [
    {"box": (0, 0, 10, 10)},
    {"box": (20, 20, 30, 30), "crowd": True},
    {"box": (40, 40, 50, 50), "difficult": True},
    {"box": (60, 60, 70, 70), "label": 2},
]
NAMES = ("cat", "dog", "[bold]cow")


def test_voc_metrics_need_voc_truth(truth_of: Callable[..., Truth], predictions: Predictions) -> None:
    coco = evaluate(truth_of(OBJECTS, class_names=NAMES), predictions)
    voc = evaluate(truth_of(OBJECTS, class_names=NAMES, voc=True), predictions)
    assert tuple(coco.scalars) == COCO_METRICS
    assert tuple(voc.scalars) == (*COCO_METRICS, *VOC_METRICS)
    assert tuple(voc.per_class) == NAMES
    assert set(coco.per_class["cat"]) == {"AP", "AP50", "num_objects"}
    assert set(voc.per_class["cat"]) == {"AP", "AP50", "num_objects", "AP_voc07", "AP_voc"}


def test_crowds_and_difficult_objects_are_not_counted(truth_of: Callable[..., Truth], predictions: Predictions) -> None:
    metrics = evaluate(truth_of(OBJECTS, class_names=NAMES), predictions)
    assert [row["num_objects"] for row in metrics.per_class.values()] == [1, 0, 1]


def printed(metrics: Metrics) -> list[list[str]]:
    """Words of the table's lines, without its rules."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(metrics_table(metrics))
    return [line.split() for line in capture.get().splitlines() if line.strip(" ─")]


def test_the_table_shows_percentages_and_a_dash_without_objects(
    truth_of: Callable[..., Truth], predictions: Predictions
) -> None:
    metrics = evaluate(truth_of(OBJECTS, class_names=NAMES, voc=True), predictions)
    rows = printed(metrics)
    assert rows[:5] == [
        ["percent"],
        ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "mAP_voc07", "mAP_voc"],
        ["50.0", "50.0", "50.0", "50.0", "-", "-", "50.0", "50.0"],
        ["AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"],
        ["50.0", "50.0", "50.0", "50.0", "-", "-"],
    ]
    assert rows[5:] == [
        ["class", "AP", "AP50", "AP_voc07", "AP_voc", "num_objects"],
        ["cat", "100.0", "100.0", "100.0", "100.0", "1"],
        ["dog", "-", "-", "-", "-", "0"],
        ["[bold]cow", "0.0", "0.0", "0.0", "0.0", "1"],
    ]


def test_recall_of_proposals_has_a_row_where_it_exists() -> None:
    plain = dict.fromkeys(COCO_METRICS, 0.5)
    lines = printed(Metrics(plain | {"AR100_proposals": 0.25, "AR1000_proposals": 1.0}, {}))
    assert lines[-2:] == [["AR100_proposals", "AR1000_proposals"], ["25.0", "100.0"]]
    assert lines[:-2] == printed(Metrics(plain, {}))


def test_with_many_classes_the_best_and_the_worst_are_listed() -> None:
    aps = {f"class {i}": i / 100 for i in range(80)} | {"absent": -1.0}
    metrics = Metrics(dict.fromkeys(COCO_METRICS, 0.5), {name: {"AP": ap} for name, ap in aps.items()})
    assert classes(metrics, listed=None) == list(aps)
    assert classes(metrics, listed=81) == list(aps)
    listed = classes(metrics, listed=6)
    assert listed == ["class 79", "class 78", "class 77", "...", "class 2", "class 1", "class 0"]
    few = Metrics(
        metrics.scalars, {name: {"AP": ap if name in ("class 3", "class 5") else -1.0} for name, ap in aps.items()}
    )
    assert classes(few, listed=6) == ["class 5", "class 3"]
    assert classes(Metrics(metrics.scalars, {}), listed=6) == []


def classes(metrics: Metrics, listed: int | None) -> list[str]:
    """The classes in the table's lines, in order."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(metrics_table(metrics, listed))
    lines = [line.strip().partition("  ")[0] for line in capture.get().splitlines()]
    return [line for line in lines if line == "..." or line in metrics.per_class]


def test_the_headline_is_in_percent_without_undefined_values() -> None:
    assert headline({"AP": 0.45404, "AP50": 0.8, "AP_small": 0.1, "AP75": -1.0}) == "AP 45.40 %  AP50 80.00 %"
    assert headline({"AP": 0.5, "mAP_voc07": 1.0, "mAP_voc": float("nan")}) == "AP 50.00 %  mAP_voc07 100.00 %"
    assert headline({"top1": 0.25}) == "top1 25.00 %"
    assert headline(dict.fromkeys(COCO_METRICS, -1.0)) == "nothing to find"
