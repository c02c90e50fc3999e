"""The metric by which validations are compared, also where the split cannot have the monitored one."""

import math

import pytest

from evaluation.monitored import Monitor, Score

NAN = math.nan
LARGE = Monitor("val/AP_large")


def best_of(monitor: Monitor, *validations: dict[str, float], min_delta: float = 0.0) -> int:
    """The index of the best of consecutive validations."""
    best, at = None, -1
    for place, metrics in enumerate(validations):
        score = monitor.score(metrics)
        if monitor.is_better(score, best, min_delta):
            best, at = score, place
    return at


@pytest.mark.parametrize("unknown", [-1.0, NAN])
def test_ap_replaces_a_metric_that_the_split_cannot_have(unknown):
    validations = [{"val/AP_large": unknown, "val/AP": ap} for ap in (0.1, 0.3, 0.2)]
    assert best_of(LARGE, *validations) == 1
    assert str(LARGE.score(validations[1])) == "val/AP 30.00 %"


def test_for_a_split_without_objects_the_newest_is_best():
    validations = [{"val/AP_large": -1.0, "val/AP": -1.0}] * 3
    assert best_of(LARGE, *validations) == 2
    assert str(LARGE.score(validations[0])) == "val/AP_large -"


def test_the_monitored_metric_always_beats_its_replacement():
    known, unknown = {"val/AP_large": 0.1, "val/AP": 0.1}, {"val/AP_large": -1.0, "val/AP": 0.9}
    assert best_of(LARGE, unknown, known, unknown) == 1


def test_a_loss_of_nan_is_beaten_by_any_number():
    monitor = Monitor("val/loss", "min")
    losses = [{"val/loss": value, "val/AP": 0.5} for value in (NAN, math.inf, 3.0, 2.0, NAN, 2.5)]
    assert best_of(monitor, *losses) == 3
    assert str(monitor.score(losses[3])) == "val/loss 2.0000"
    assert str(monitor.score(losses[0])) == "val/AP 50.00 %"


def test_the_smallest_loss_is_best_also_below_zero():
    assert best_of(Monitor("val/loss_cls", "min"), *({"val/loss_cls": value} for value in (0.5, -0.5, 0.1))) == 1
    assert str(Score("val/loss_cls", -0.5)) == "val/loss_cls -0.5000"


def test_a_classifier_is_compared_by_top1():
    monitor = Monitor("val/top5")
    assert monitor.score({"val/top5": NAN, "val/top1": 0.25}) == ("val/top1", 0.25)


@pytest.mark.parametrize(
    ("monitor", "values"), [(Monitor("val/AP"), (0.5, 0.55)), (Monitor("val/loss", "min"), (1.0, 0.95))]
)
def test_an_improvement_must_exceed_min_delta(monitor, values):
    validations = [{monitor.name: value} for value in values]
    assert best_of(monitor, *validations, min_delta=0.04) == 1
    assert best_of(monitor, *validations, min_delta=0.06) == 0


def test_an_equal_score_is_not_better():
    assert best_of(Monitor("val/AP"), {"val/AP": 0.5}, {"val/AP": 0.5}) == 0


def test_the_score_of_a_metric_that_is_no_longer_monitored_is_ignored():
    assert Monitor("val/AP50").is_better(Score("val/AP50", 0.1), Score("val/AP75", 0.9))


def test_a_replacement_metric_is_named_and_only_then():
    assert LARGE.warning(LARGE.score({"val/AP_large": 0.0})) == ""
    of_ap = LARGE.warning(LARGE.score({"val/AP_large": -1.0, "val/AP": 0.0}))
    assert of_ap.startswith("callbacks.checkpoints.monitor=val/AP_large: this validation has no such number")
    assert "go by val/AP instead" in of_ap
    assert "the newest checkpoint counts as the best" in LARGE.warning(LARGE.score({"val/AP_large": -1.0}))


@pytest.mark.parametrize("value", [-1.0, NAN, -math.inf, math.inf])
def test_an_undefined_value_is_a_dash(value):
    assert str(Score("val/AP", value)) == "val/AP -"
