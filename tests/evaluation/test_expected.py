"""Published figures beside measured ones: what is compared, what is judged, and how much may lie between."""

from dataclasses import replace

import pytest

from evaluation.expected import DataSet, Figure, MeasuredOn, compare, misses, tolerance
from reports.expected import expected_text, expected_view

VAL = DataSet("val2017", ("cat", "dog"), 5000, 36781)
TESTED = MeasuredOn("test", ("cat", "dog"), 5000, 36781)
PUBLISHED = Figure("AP", 0.371, 0.002, "its paper", VAL)


@pytest.mark.parametrize(
    ("value", "rounding"), [(0.371, 0.0005), (0.43, 0.0005), (0.4, 0.0005), (0.37125, 0.000005), (0.3708, 0.00005)]
)
def test_half_of_the_last_digit_of_a_percent_is_the_rounding(value: float, rounding: float) -> None:
    assert Figure("AP", value).rounding == pytest.approx(rounding)


@pytest.mark.parametrize(
    ("measured", "within"),
    [(0.371, True), (0.3735, True), (0.37351, False), (0.3685, True), (0.36849, False), (0.0, False)],
)
def test_within_is_tolerance_and_rounding_together_on_either_side(measured: float, within: bool) -> None:
    (one,) = compare([PUBLISHED], {"AP": measured}, TESTED)
    assert one.within is within
    assert one.difference == pytest.approx(measured - 0.371)
    assert not one.remark
    assert bool(misses([one])) is not within


def test_four_deviations_are_tolerated_unless_a_tolerance_is_stated() -> None:
    assert tolerance("AP", None, 0.001) == pytest.approx(0.004)
    assert tolerance("AP", None, {"AP": 0.002, "AP50": 0.001}) == pytest.approx(0.008)
    assert tolerance("AP", 0.0, None) == tolerance("AP", None, None) == tolerance("AP", {"AP50": 0.1}, None) == 0
    assert tolerance("AP50", {"AP50": 0.1}, None) == 0.1


@pytest.mark.parametrize(
    ("tested", "said"),
    [
        (TESTED._replace(num_images=80), "measured on test (80 images instead of 5,000): not compared"),
        (TESTED._replace(num_images=1, class_names=("cell",)), "measured on test (1 image of 1 class): not compared"),
        (TESTED._replace(class_names=("dog", "cat")), "measured on test (5000 images of other classes): not compared"),
    ],
)
def test_on_other_data_nothing_is_compared(tested: MeasuredOn, said: str) -> None:
    (one,) = compared = compare([PUBLISHED], {"AP": 0.371}, tested)
    assert (one.measured, one.within, one.difference) == (None, None, None)
    assert one.remark == f"published for val2017, {said}"
    assert expected_text(compared) == f"AP 37.1 %: {one.remark}"
    assert misses(compared) == [f"AP 37.1 %: {one.remark}"]


def test_a_figure_of_no_data_set_is_compared_on_any() -> None:
    (one,) = compare([replace(PUBLISHED, data=None)], {"AP": 0.371}, TESTED._replace(num_images=3))
    assert one.within is True


def test_with_other_settings_both_numbers_are_given_and_not_judged() -> None:
    changed = tuple(f"key{number}=1 (2)" for number in range(6))
    (one,) = compared = compare([replace(PUBLISHED, changed=changed)], {"AP": 0.371}, TESTED)
    assert (one.measured, one.within) == (0.371, None)
    assert one.remark.endswith("other settings: key0=1 (2), key1=1 (2), key2=1 (2), key3=1 (2) and 2 more")
    assert misses(compared)
    assert "37.10" in expected_text(compared)


def test_other_numbers_of_boxes_are_named_and_judged() -> None:
    (one,) = compare([PUBLISHED], {"AP": 0.371}, TESTED._replace(num_boxes=36700))
    assert one.within is True
    assert one.remark == "test has 36,700 boxes, val2017 has 36,781"


@pytest.mark.parametrize("scalars", [{}, {"AP": -1.0}, {"AP": float("nan")}])
def test_what_was_not_measured_is_not_compared(scalars: dict[str, float]) -> None:
    (one,) = compare([PUBLISHED], scalars, TESTED)
    assert (one.measured, one.within) == (None, None)
    assert one.content()["measured"] is None


def test_terminal_and_page_have_a_row_for_each_figure() -> None:
    figures = [PUBLISHED, Figure("AP50", 0.6)]
    compared = compare(figures, {"AP": 0.3691, "AP50": 0.5}, TESTED)
    lines = expected_text(compared).splitlines()
    assert lines[0] == "expected, in percent"
    assert lines[-2].split() == ["AP", "36.91", "37.1", "-0.19", "0.2", "+", "0.05", "yes", "its", "paper"]
    assert lines[-1].split() == ["AP50", "50.00", "60", "-10.00", "0", "+", "0.05", "no", "given"]
    view = expected_view(compared)
    assert view is not None
    assert list(view.table.rows[0]) == ["AP", "0.3691", "0.371", "-0.0019", "0.002 + 0.0005", "yes", "its paper"]
    assert expected_view([]) is None
    assert misses(compared) == ["AP50: measured 50.00 %, published 60 %, tolerated 0.05"]
