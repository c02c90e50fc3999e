"""Learning rates equal the original's at every iteration, also after a save and load."""

import math
from functools import partial

import pytest
import torch
from running import TINY, curves, only_run
from tiny_run import EPOCH, fit
from torch import nn
from torch.optim import SGD

from lit_modules.schedules import beyond_the_end, constant, cosine, multistep, plateau


def rates(make, steps: int, lr: float = 1.0, **knobs) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimizer, steps, **knobs)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_warmup_and_multistep_equal_the_original_at_every_iteration(golden):
    cases = golden("solver_fcos/lr_schedule")
    compared = 0
    for case in cases.values():
        args = case["args"]
        expected = case["out"]["lr_weight_all"].tolist()
        seen = rates(
            multistep,
            len(expected),
            lr=args["base_lr"],
            milestones=args["steps"],
            gamma=args["gamma"],
            warmup=args["warmup_method"],
            warmup_steps=args["warmup_iters"],
            warmup_factor=args["warmup_factor"],
        )
        assert seen == pytest.approx(expected, rel=1e-9)
        compared += 1
    assert compared == len(cases) >= 4


def test_milestones_as_fractions_are_those_of_the_run():
    seen = rates(multistep, 9, milestones=[1 / 3, 2 / 3], warmup=None)
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_an_integer_milestone_of_one_is_iteration_one():
    assert rates(multistep, 3, milestones=[1], warmup=None) == pytest.approx([1, 0.1, 0.1])


def test_cosine_starts_after_the_warmup_and_ends_at_its_final_factor():
    seen = rates(cosine, 101, final_factor=0.1, warmup_steps=0)
    assert seen[0] == 1.0
    assert seen[50] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 50 / 101)))
    warmed = rates(cosine, 20, warmup_steps=4, warmup_factor=0.2)
    assert warmed[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_constant_stays_at_the_full_rate_after_the_warmup():
    assert rates(constant, 5, warmup="constant", warmup_steps=2, warmup_factor=0.5) == [0.5, 0.5, 1, 1, 1]


def test_plateau_equals_torchs_own():
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.9, 1.95, 1.95, 1.95, 1.8]
    ours_optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    ours = plateau(ours_optimizer, 100, patience=2, factor=0.1, warmup=None)
    theirs_optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs_optimizer, patience=2, factor=0.1)
    for loss in losses:
        ours_optimizer.step()
        ours.observe(loss)
        ours.step()
        theirs.step(loss)
        assert ours_optimizer.param_groups[0]["lr"] == pytest.approx(theirs_optimizer.param_groups[0]["lr"])
    assert ours_optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("make", [multistep, cosine, constant, plateau])
def test_the_state_is_plain_and_continues_where_it_was(make, tmp_path):
    whole = rates(make, 12, warmup_steps=4)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, 12, warmup_steps=4)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    torch.save({"schedule": schedule.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, 12, warmup_steps=4)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    seen = []
    for _ in range(7):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == whole[5:]


@pytest.mark.slow
def test_plateau_receives_every_validation_of_a_run(train, tmp_path):
    plateau = ["schedule=plateau", "schedule.patience=0", "schedule.threshold=10", "schedule.warmup=null"]
    train([o for o in TINY if "warmup" not in o] + [*plateau, f"data.root={tmp_path / 'shapes'}"], tmp_path)
    seen = [float(row["lr"]) for row in curves(only_run(tmp_path)) if "lr" in row]
    assert seen == pytest.approx([0.01] * 4 + [0.001] * 4 + [0.0001] * 2)  # validated after steps 4 and 8


@pytest.mark.parametrize(
    ("make", "steps", "says"),
    [
        (partial(multistep, milestones=[6, 8, 9]), 8, ["milestones=[6, 8, 9]: the run ends at step 8", "at 8, 9;"]),
        (partial(multistep, milestones=[0.5, 0.99], warmup=None), 8, ["never falls at 0.99;"]),
        (partial(cosine, warmup_steps=8), 8, ["warmup_steps=8: the run ends at step 8"]),
        (partial(multistep, milestones=[0.5, 7], warmup_steps=7), 8, []),
        (partial(plateau, warmup=None), 8, []),
        (lambda optimizer, total_steps: None, 8, []),
    ],
)
def test_milestones_beyond_the_end_of_a_run_give_a_warning_with_the_numbers(make, steps, says):
    told = " ".join(beyond_the_end(make, steps))
    assert bool(told) == bool(says)
    assert all(part in told for part in says)


def test_a_run_limited_by_epochs_has_a_schedule_of_its_own_length(tmp_path, caplog):
    """`trainer.max_steps` keeps its default, which is much longer."""
    module = fit(tmp_path, partial(cosine, warmup=None), max_steps=90000, max_epochs=2)
    assert module.rates == pytest.approx(rates(cosine, 2 * EPOCH, lr=0.1, warmup=None))
    fit(tmp_path / "steps", partial(multistep, milestones=[100], warmup=None), max_steps=90000, max_epochs=2)
    assert f"the run ends at step {2 * EPOCH}, so that the rate never falls at 100" in caplog.text


@pytest.mark.parametrize(
    ("make", "limits"),
    [
        (partial(cosine, warmup=None), {"max_steps": 6}),
        (partial(cosine, warmup=None), {"max_steps": -1, "max_epochs": 2}),
        (partial(multistep, milestones=[0.75], warmup=None), {"max_steps": 6}),
    ],
    ids=["steps", "epochs", "milestones"],
)
def test_a_lengthened_run_takes_each_step_at_the_rate_of_its_new_schedule(make, limits, tmp_path, caplog):
    caplog.set_level("INFO", "lit_modules")
    steps = len(fit(tmp_path, make, **limits).rates)
    assert "by the schedule of now" not in caplog.text
    longer = {name: 2 * limit if limit > 0 else limit for name, limit in limits.items()}
    whole = rates(make, 2 * steps, lr=0.1)
    assert fit(tmp_path, make, resume=True, **longer).rates == whole[steps:]
    before = rates(make, steps + 1, lr=0.1)[-1] if make.func is multistep else 0
    assert f"step {steps}: rate {before:.3g} as it was, {whole[steps]:.3g} by the schedule of now" in caplog.text


@pytest.mark.parametrize("make", [multistep, cosine, constant, plateau])
def test_the_rate_of_a_run_resumed_without_changes_is_equal_to_the_last_digit(make, tmp_path, caplog):
    caplog.set_level("INFO", "lit_modules")
    make = partial(make, warmup_steps=5)
    whole = fit(tmp_path / "whole", make, max_steps=8)
    (tmp_path / "whole/checkpoints/step_0000008.ckpt").unlink()
    for step in (7, 6, 5, 4):
        (tmp_path / f"whole/checkpoints/step_{step:07d}.ckpt").unlink()
    assert fit(tmp_path / "whole", make, resume=True, max_steps=8).rates == whole.rates[3:]
    assert "by the schedule of now" not in caplog.text
