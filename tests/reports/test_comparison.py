"""Comparison of runs: means over seeds, columns that distinguish rows, and what is not averaged."""

import csv
import io
import math
from typing import Any

import pytest
from rich.console import Console

from reports.comparison import Comparison, Figure, Result, compare
from reports.comparison_plot import _series, _swept, plot
from reports.comparison_tables import as_csv, as_markdown, as_table, failures, notes

BASE = {"data.resize": 400, "data.rule": "short_side", "seed": 0, "data.seed": 0, "model.lr": 0.01, "data.root": "x"}


def result(ap: float = 0.3, state: Any = "finished", changes: dict | None = None, **figures: float) -> Result:
    """A run whose command line had `changes` as overrides."""
    changes = changes or {}
    return Result(
        folder=",".join(f"{key}={value}" for key, value in changes.items()) or "only",
        settings={**BASE, **changes, "data.seed": changes.get("seed", 0)},
        choices={"model": "fcos"},
        overridden=frozenset({*changes, "data.root"}),
        state=state,
        step=7,
        steps=10,
        reason="no memory" if state == "failed" else "",
        figures={"AP": ap, "AP50": ap + 0.2, "AR100": 0.5, "val/loss": 1.5, **figures},
        timed="cpu (1 threads), 32-true" if "ms_per_image" in figures else "",
    )


def rows(comparison: Comparison) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(comparison), newline="")))


def test_runs_that_differ_only_in_their_seed_are_one_row_with_mean_and_sample_deviation():
    comparison = compare([result(ap, changes={"seed": seed}) for seed, ap in enumerate((0.1, 0.2, 0.3))])
    (row,) = comparison.rows
    assert row.figures["AP"].mean == pytest.approx(0.2)
    assert row.figures["AP"].spread == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / (3 - 1))
    (line,) = rows(comparison)
    assert (line["n"], line["seeds"], line["state"]) == ("3", "0 1 2", "3 finished")
    assert float(line["AP_sd"]) == pytest.approx(0.1)
    assert "20.0 ± 10.0" in as_markdown(comparison)


def test_a_seed_that_was_run_twice_counts_once():
    comparison = compare([result(0.2, changes={"name": "a"}), result(0.3, changes={"name": "b"})])
    (row,) = comparison.rows
    assert row.figures["AP"] == Figure(0.3, None)
    assert rows(comparison)[0]["n"] == "1"


def test_a_single_run_has_no_deviation():
    comparison = compare([result(0.25)])
    assert comparison.rows[0].figures["AP"] == Figure(0.25, None)
    assert "AP_sd" not in rows(comparison)[0]
    assert "±" not in as_markdown(comparison)


def test_only_finished_runs_are_averaged():
    comparison = compare(
        [result(0.2, changes={"seed": 0}), result(0.9, "unfinished", {"seed": 1}), result(0.4, changes={"seed": 2})]
    )
    (row,) = comparison.rows
    assert row.figures["AP"].mean == pytest.approx(0.3)
    assert row.state == "2 finished, 1 unfinished"


def test_an_unfinished_run_shows_its_step_and_a_failed_one_its_reason():
    unfinished = compare([result(state="unfinished")])
    assert unfinished.rows[0].state == "unfinished at step 7 of 10"
    failed = compare([result(state="failed", changes={"model.lr": 9.0})])
    assert failures(failed) == ["model.lr=9.0 failed: no memory"]
    assert "no memory" in as_markdown(failed)
    assert rows(failed)[0]["reason"] == "no memory"


def test_columns_are_the_overridden_settings_that_differ():
    runs = [result(changes={"data.resize": size, "model.lr": lr}) for size in (500, 400) for lr in (0.1, 0.01)]
    comparison = compare(runs)
    assert comparison.columns == ["model.lr"]  # data.root is equal in all; the size has a column of its own
    shown = [(row.size, row.setting("model.lr")) for row in comparison.rows]
    assert shown == [
        ("short_side 400", 0.01),
        ("short_side 500", 0.01),
        ("short_side 400", 0.1),
        ("short_side 500", 0.1),
    ]


def test_settings_that_no_command_line_named_still_distinguish_rows():
    one, other = result(), result()
    other = Result(**{**vars(other), "settings": {**other.settings, "model.prior": 0.1}})
    assert compare([one, other]).columns == ["model.prior"]


def test_runs_that_differ_only_in_name_and_group_are_one_row():
    comparison = compare(
        [result(changes={"seed": seed, "name": f"s{seed}", "logger.wandb.group": "g"}) for seed in (1, 2)]
    )
    assert len(comparison.rows) == 1
    assert comparison.columns == []


def test_runs_with_many_unnamed_differences_are_named_by_their_folders():
    one, other = result(), result()
    settings = {**other.settings, **{f"model.knob{number}": 1 for number in range(20)}}
    comparison = compare([one, Result(**{**vars(other), "folder": "other", "settings": settings})])
    assert comparison.columns == []
    assert as_markdown(comparison).startswith("| run | resize |")
    assert [one.name for one in _series(comparison, comparison.rows, None)] == [
        "short_side 400 only", "short_side 400 other",
    ]  # fmt: skip


def test_every_table_names_the_rule_beside_the_size():
    runs = [
        result(changes={"data.resize": 400}),
        result(changes={"data.resize": 667, "data.rule": "square"}),
    ]
    comparison = compare(runs)
    assert [(line["data.rule"], line["data.resize"]) for line in rows(comparison)] == [
        ("short_side", "400"), ("square", "667"),
    ]  # fmt: skip
    console = Console(width=200)
    with console.capture() as capture:
        console.print(as_table(comparison))
    for text in (as_markdown(comparison), capture.get()):
        assert "short_side 400" in text
        assert "square 667" in text


def test_tables_for_people_are_in_percent_and_the_csv_has_fractions():
    comparison = compare([result(0.1234, ms_per_image=12.34, train_seconds=3700.0)])
    assert "| short_side 400 | 12.3 | 32.3 | 50.0 | 1.500 | 12.3 | 1:01:40 | 7 | finished | only |" in as_markdown(
        comparison
    )
    assert rows(comparison)[0]["AP"] == "0.1234"
    assert rows(comparison)[0]["train_seconds"] == "3700.0"
    assert any("percent" in note for note in notes(comparison))


@pytest.mark.parametrize("nothing", [-1.0, math.nan])
def test_undefined_values_are_not_numbers(nothing):
    comparison = compare([result(nothing), result(0.4, changes={"model.lr": 0.1})])
    assert "AP" not in comparison.rows[0].figures
    assert rows(comparison)[0]["AP"] == ""
    assert "| - |" in as_markdown(comparison)


def test_times_taken_differently_are_not_presented_as_comparable():
    one = result(ms_per_image=1.0)
    other = Result(**{**vars(result(changes={"model.lr": 0.1}, ms_per_image=1.0)), "timed": "GPU, bf16-mixed"})
    assert not any("differently" in note for note in notes(compare([one])))
    assert any("differently" in note for note in notes(compare([one, other])))


def test_the_size_is_on_the_x_axis_and_each_rule_is_a_series():
    runs = [result(changes={"data.resize": 100 * size, "data.rule": rule, "model.lr": size / 10})
            for rule in ("short_side", "square") for size in (5, 4)]  # fmt: skip
    comparison = compare([Result(**{**vars(run), "overridden": frozenset({"data.resize"})}) for run in runs])
    assert _swept(comparison, comparison.rows) == "data.resize"
    series = list(_series(comparison, comparison.rows, "data.resize"))
    assert [one.name for one in series] == ["short_side", "square"]
    assert [row.setting("data.resize") for row in series[0].rows] == [400, 500]


def test_without_sizes_the_swept_numbers_are_on_the_x_axis_and_words_in_the_legend():
    numbers = compare([result(changes={"model.lr": lr}) for lr in (0.1, 0.01)])
    assert _swept(numbers, numbers.rows) == "model.lr"
    words = compare([result(changes={"model.loss.box_loss": loss}) for loss in ("iou", "giou")])
    assert _swept(words, words.rows) is None
    names = [one.name for one in _series(words, words.rows, None)]
    assert names == ["short_side 400 model.loss.box_loss=giou", "short_side 400 model.loss.box_loss=iou"]


@pytest.mark.parametrize(
    "runs",
    [
        [result(changes={"data.resize": size, "seed": seed}, ms_per_image=9.0, train_seconds=90.0)
         for size in (400, 500) for seed in (0, 1)],
        [result(changes={"model.lr": lr}) for lr in (1e-4, 1e-1)],
        [result(changes={"model.loss.box_loss": loss}, ms_per_image=3.0) for loss in ("iou", "giou")],
        [result(state="failed")],
    ],
    ids=["sizes", "rates", "words", "nothing finished"],
)  # fmt: skip
def test_every_kind_of_comparison_gives_a_picture(runs):
    assert plot(compare(runs)).startswith(b"\x89PNG")
