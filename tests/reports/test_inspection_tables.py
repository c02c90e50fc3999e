"""The inspection's tables, with numbers that are easy to check: six boxes of two classes, one kind of anchors."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import inspection_tables
from reports.inspection import TrainingImage, data_page
from reports.inspection_tables import Alternative, Coverage, Inspection, SplitCounts


def coverage(**changes: Any) -> Coverage:
    fields: dict[str, Any] = {
        "role": "train",
        "extents": np.array([[4.0, 4], [10, 10], [12, 12], [100, 128], [20, 129], [600, 600]]),
        "labels": np.array([0, 0, 1, 1, 1, 1]),
        "locations": np.array([0, 1, 2, 100, 30, 5000]),
        "best_iou": {"A": np.array([0.1, 0.49, 0.5, 0.8, 0.3, 0.9])},
        "sample": np.array([0, 1, 5]),
        "unassigned": {"anywhere": np.array([True, False, False])},
        "images": 4,
        "sampled_images": 2,
        "level_ranges": [("P3", 0.0, 64.0), ("P4", 64.0, 128.0), ("P5", 128.0, math.inf)],
        "alternatives": [
            Alternative("smaller anchors", {"A": 0.7}, None),
            Alternative("larger anchors", {"A": 0.2}, None),
            Alternative("data.resize=1600", {"A": 0.6}, 0.05),
        ],
    }
    return Coverage(**{**fields, **changes})


def inspection(**changes: Any) -> Inspection:
    split = SplitCounts(
        role="train", name="t", images=4, empty=1, boxes=9, crowd=1, difficult=1, small=1, others=2,
        per_class=np.array([2, 4]), images_per_class=np.array([1, 3]),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "class_names": ["猫 <b>", "dog"], "splits": [split], "problems": [], "problem_counts": {}, "warnings": [],
        "coverage": coverage(),
    }  # fmt: skip
    return Inspection(**{**fields, **changes})


def test_a_box_belongs_to_the_level_whose_range_holds_half_its_longer_side() -> None:
    rows = inspection_tables.level_table(coverage()).rows
    assert rows == [["P3", "0 to 64", 4, 4 / 6], ["P4", "64 to 128", 1, 1 / 6], ["P5", "over 128", 1, 1 / 6]]


def test_recall_by_size_and_class_counts_boxes_from_an_iou_of_a_half() -> None:
    assert coverage().recall() == {"A": 0.5}
    rows = inspection_tables.size_table(coverage()).rows
    assert rows == [
        ["0 to 8", 1, 0.0], ["8 to 16", 2, 0.5], ["32 to 64", 1, 0.0], ["64 to 128", 1, 1.0], ["over 512", 1, 1.0],
        ["all", 6, 0.5],
    ]  # fmt: skip
    table = inspection_tables.class_recall_table(coverage(), ["cat", "dog"])
    assert table.rows == [["cat", 2, 7.0, 0.0], ["dog", 4, 82.0, 0.75]]


def test_boxes_without_location_are_counted_among_the_sampled() -> None:
    rows = inspection_tables.location_table(coverage()).rows
    assert rows == [["0 to 8", 1, 1.0], ["8 to 16", 1, 0.0], ["over 512", 1, 0.0], ["all", 3, 1 / 3]]


def test_classes_are_listed_by_falling_frequency() -> None:
    table = inspection_tables.class_table(inspection())
    assert table.rows == [["dog", 4, 4 / 6, 3], ["猫 <b>", 2, 2 / 6, 1]]


def test_advice_names_only_changes_computed_to_help_the_best_first() -> None:
    anchors, locations = inspection_tables.advice(coverage())
    assert anchors == (
        "A: 50.0 % of the boxes have an anchor of IoU 0.5 or more; it would be 70.0 % with smaller anchors; "
        "60.0 % with data.resize=1600."
    )
    assert locations == (
        "FCOS: 16.7 % of the boxes hold no location of its finest level; it would be 5.0 % with data.resize=1600."
    )


def test_advice_says_when_nothing_helps_and_is_empty_without_a_problem() -> None:
    anchors, locations = inspection_tables.advice(
        coverage(alternatives=[Alternative("larger anchors", {"A": 0.505}, 0.1)])
    )
    assert anchors.endswith("none of the settings below raises it by a point.")
    assert locations.endswith("of its finest level.")
    fine = {"best_iou": {"A": np.full(6, 0.8)}, "locations": np.full(6, 9)}
    assert inspection_tables.advice(coverage(**fine)) == []


def test_the_page_has_the_tables_contents_and_escapes_names() -> None:
    html = data_page(inspection(), [], Path("/data/<x>"), {"network input": "short_side 800"})
    assert "猫 &lt;b&gt;" in html
    assert "猫 <b>" not in html
    assert "a sample of 2 of 4 images" in html
    assert "it would be 70.0 % with smaller anchors" in html
    assert "No annotation and no image breaks a rule." in html
    assert "Training batches" not in html


def test_the_page_lists_problems_and_how_many_there_are() -> None:
    found = inspection(problems=["a.json: box 1"], problem_counts={"outside": 250, "inverted": 3}, warnings=["a leak"])
    html = data_page(found, [], Path("/data"), {})
    for text in ("The first 1 of 253", "a.json: box 1", "outside", "250", "a leak"):
        assert text in html


def test_the_page_stays_small_with_thousands_of_boxes_on_each_picture() -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 700, (10_000, 2))
    crowded = TrainingImage(
        random.integers(0, 255, (800, 1344, 3), dtype=np.uint8),
        np.concatenate([corner, corner + 30], axis=1),
        random.integers(0, 2, 10_000),
        "7",
    )
    html = data_page(inspection(), [[crowded]], Path("/data"), {})
    assert "9900 more boxes are not drawn" in html
    without = data_page(inspection(), [], Path("/data"), {})
    assert len(html.encode()) - len(without.encode()) < 4.5e6 / 32  # 4.5 MB for two batches of 16 pictures of noise


@pytest.mark.parametrize("nothing", [{"coverage": None}, {"splits": [dataclasses.replace(inspection().splits[0])]}])
def test_a_page_is_made_without_boxes_to_train_on(nothing: dict[str, Any]) -> None:
    assert "Classes" in data_page(inspection(**nothing), [], Path("/data"), {})
