"""A run returns to its best weights once, at another rate, and resumes exactly when killed before or after."""

import math
import re
from pathlib import Path

import pytest
import torch
from running import FULL, TINY, assert_equal_bits, curves, last_checkpoint, only_run, state

from lit_modules.callbacks.back_to_best import BackToBest

BACK = ["callbacks.back_to_best.at=0.85", "callbacks.back_to_best.factor=0.1", "callbacks.checkpoints.keep=-1"]
"""In a run of 10 steps: after the validations at steps 4 and 8, before the one at the end."""
WORST = ["model.decoder.score_threshold=0.99"]
"""Makes the first validation the best one: nothing is ever detected, so that each AP is 0."""


def rates(run: Path) -> dict[int, float]:
    return {int(row["step"]): float(row["lr"]) for row in curves(run) if "lr" in row}


def saved(run: Path, step: int) -> dict:
    return torch.load(run / f"checkpoints/step_{step:07d}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(train, shapes, tmp_path_factory) -> tuple[Path, str]:
    """An uninterrupted run and its output, with averaging and accumulated gradients."""
    folder = tmp_path_factory.mktemp("whole")
    printed = train([*FULL, *BACK, *WORST, shapes], folder)
    return only_run(folder), printed


def test_the_log_names_the_checkpoint_and_the_rate(whole):
    run, printed = whole
    (line,) = [line for line in printed.splitlines() if "back to the weights" in line]
    score = saved(run, 10)["callbacks"]["Checkpoints"]["best_score"]
    assert re.search(rf"step 8: back to the weights of step_0000004.ckpt \(val/AP {100 * score:.2f} %, the best "
                     r"so far\); rate 0.01 -> 0.001$", line)  # fmt: skip


def test_the_rate_falls_at_its_step_and_stays_there(whole):
    run, _ = whole
    seen = rates(run)
    rate = max(seen.values())
    assert [seen[step] for step in range(4, 9)] == pytest.approx([rate] * 5)
    assert [seen[step] for step in (9, 10)] == pytest.approx([rate / 10] * 2)
    (schedule,) = saved(run, 10)["lr_schedulers"]
    assert max(schedule["base_lrs"]) == pytest.approx(rate / 10)


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [True, False])
def test_weights_and_average_are_those_of_the_best_checkpoint(averaged, train, shapes, tmp_path):
    """The rate is so small that the following steps do not change them."""
    overrides = [*TINY, *BACK, *WORST, shapes, "callbacks.back_to_best.factor=1.0e-12", "model.backbone.norm=gn"]
    train([*overrides, *(["callbacks.averaging.decay=0.9"] if averaged else [])], tmp_path)
    best, end, before = (saved(only_run(tmp_path), step) for step in (4, 10, 8))
    for part in ("state_dict", *(["current_model_state"] if averaged else [])):
        moved = [name for name in best[part] if not torch.equal(best[part][name], before[part][name])]
        assert len(moved) > 50
        for name in moved:
            if part == "current_model_state" or not averaged:
                torch.testing.assert_close(end[part][name], best[part][name], rtol=1e-5, atol=1e-7)
            else:  # the average took two more steps towards the weights
                weights = best["current_model_state"][name]
                expected = best[part][name].lerp(weights, 1 - 5 / 14).lerp(weights, 1 - 6 / 15)
                torch.testing.assert_close(end[part][name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_where_averaging_was_switched_off_the_weights_become_the_average_that_was_scored(train, shapes, tmp_path):
    overrides = [*TINY, *BACK, *WORST, shapes, "callbacks.back_to_best.factor=1.0e-12", "callbacks.averaging.decay=0.9"]
    train(overrides, tmp_path, kill={"at": "batch_end", "batch": 7})
    train(["resume=last", "name=t", "callbacks.averaging.decay=null"], tmp_path)
    best, end = (saved(only_run(tmp_path), step) for step in (4, 10))
    assert "current_model_state" not in end
    weights, average = best["current_model_state"], best["state_dict"]
    moved = [name for name in average if not torch.equal(average[name], weights[name])]
    assert len(moved) > 50
    for name in moved:
        torch.testing.assert_close(end["state_dict"][name], average[name], rtol=1e-5, atol=1e-7)


MOMENTS = {
    "in the validation before it": {"at": "validation_start", "batch": 2},
    "before it is saved": {"at": "batch_end", "batch": 17},
    "after it": {"at": "validation_start", "batch": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_around_it_resumes_bit_for_bit(moment, train, shapes, whole, tmp_path):
    train([*FULL, *BACK, *WORST, shapes], tmp_path, kill=MOMENTS[moment])
    printed = train(["resume=last", "name=t"], tmp_path)
    assert ("back to the weights" in printed) == (moment != "after it")  # once
    run = only_run(tmp_path)
    assert curves(run) == curves(whole[0])
    assert_equal_bits(state(run), state(whole[0]))


@pytest.mark.slow
def test_every_rank_returns_to_the_best_also_after_a_kill(train, shapes, tmp_path):
    overrides = [*FULL, *BACK, *WORST, shapes, "trainer.devices=2", "data.batch_size=8", "trainer.max_steps=6",
                 "callbacks.back_to_best.at=5"]  # fmt: skip
    runs = []
    for name, kill in (("whole", None), ("cut", {"at": "batch_end", "batch": 11})):
        folder = tmp_path / name
        folder.mkdir()
        printed = train(overrides, folder, kill=kill)
        if kill:
            printed = train(["resume=last", "name=t"], folder)
        assert printed.count("back to the weights") == 1
        runs.append(only_run(folder))
    assert curves(runs[0]) == curves(runs[1])
    assert_equal_bits(state(runs[0]), state(runs[1]))


def test_without_a_validation_the_rate_alone_changes(train, shapes, tmp_path):
    printed = train(
        [*TINY, shapes, "callbacks.back_to_best.at=0.3", "trainer.max_steps=6", "trainer.val_check_interval=6"],
        tmp_path,
    )
    assert "step 2: no validation yet, so no best checkpoint to go back to; rate " in printed
    seen = rates(only_run(tmp_path))
    assert seen[6] == pytest.approx(seen[1] * 3 / 10)


@pytest.mark.slow
def test_a_plateaus_own_reduction_is_applied_too(train, shapes, tmp_path):
    falling = ["schedule=plateau", "schedule.patience=0", "schedule.threshold=0.9", "schedule.factor=0.5"]
    train([*TINY, *BACK, *falling, shapes], tmp_path)
    run = only_run(tmp_path)
    seen = rates(run)
    assert seen[9] == pytest.approx(seen[8] / 10 / 2)
    assert math.isclose(saved(run, 10)["lr_schedulers"][0]["scale"], 0.25)


@pytest.mark.slow
def test_a_missing_best_checkpoint_is_named(train, shapes, tmp_path):
    train([*FULL, *BACK, *WORST, shapes], tmp_path, kill=MOMENTS["in the validation before it"])
    (only_run(tmp_path) / "checkpoints/step_0000004.ckpt").unlink()
    printed = train(["resume=last", "name=t"], tmp_path, expect=1)
    assert "step_0000004.ckpt is gone" in printed
    assert last_checkpoint(only_run(tmp_path)).name == "step_0000008.ckpt"


@pytest.mark.parametrize("at", [0, -3, 0.0, 1.0, 1.5, 9000.5])
def test_a_step_outside_the_run_is_refused(at):
    with pytest.raises(ValueError, match=r"callbacks\.back_to_best\.at=.*fraction"):
        BackToBest(at)


def test_a_factor_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.back_to_best\.factor=0"):
        BackToBest(0.5, factor=0)
