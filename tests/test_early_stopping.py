"""`callbacks.early_stopping.patience`: a run ends when it stops improving, also after a kill, and says why."""

import json
from pathlib import Path

import pytest
from running import FULL, assert_equal_bits, curves, only_run, state
from tiers import slow_but

PATIENT = ["callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=1"]
"""With a minimum improvement of 1 no AP is better than that of the first validation."""


def validations(run: Path) -> list[int]:
    return [int(row["step"]) for row in curves(run) if "val/AP" in row]


@pytest.fixture(scope="module")
def ended(train, shapes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    printed = train([*FULL, *PATIENT, shapes, "trainer.max_steps=40", "trainer.val_check_interval=2"], folder)
    assert "stopped after step 6: no better val/AP in 2 validations" in printed
    return only_run(folder)


def test_a_run_ends_after_patience_validations_without_improvement(ended: Path) -> None:
    assert validations(ended) == [2, 4, 6]
    finished = json.loads((ended / "finished.json").read_text())
    assert finished["step"] == 6
    assert finished["stopped"].endswith("callbacks.early_stopping.patience=2")


MOMENTS = {"in a step": {"at": "batch_end", "batch": 10}, "in a validation": {"at": "validation", "batch": 1}}


@pytest.mark.parametrize("moment", slow_but("in a step", of=MOMENTS))
def test_a_killed_run_ends_where_it_would_have(train, shapes, tmp_path, ended: Path, moment) -> None:
    settings = [*FULL, *PATIENT, shapes, "trainer.max_steps=40", "trainer.val_check_interval=2"]
    train(settings, tmp_path, kill=moment)
    train(["resume=last", "name=t"], tmp_path)
    run = only_run(tmp_path)
    assert curves(run) == curves(ended)
    assert_equal_bits(state(run), state(ended))


@pytest.mark.slow
def test_a_larger_patience_trains_on(train, shapes, tmp_path) -> None:
    train([*FULL, *PATIENT, shapes, "trainer.max_steps=40", "trainer.val_check_interval=2"], tmp_path)
    run = only_run(tmp_path)
    train([f"resume={run}", "callbacks.early_stopping.patience=3"], tmp_path)
    assert validations(run) == [2, 4, 6, 8]


def test_a_patience_of_zero_is_refused(train, shapes, tmp_path) -> None:
    printed = train([*FULL, shapes, "callbacks.early_stopping.patience=0"], tmp_path, expect=2)
    assert "callbacks.early_stopping.patience=0: expected 1 or more validations, or null" in printed
