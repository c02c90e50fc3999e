"""The weights from which a run continues where averaging is switched on or off on resume."""

from functools import partial

import pytest
import torch
from tiny_run import fit

from lit_modules.schedules import constant

SCHEDULE = partial(constant, warmup=None)


@pytest.mark.parametrize("off", [{"decay": None}, {"averaging": False}], ids=["decay is null", "no callback"])
def test_without_averaging_a_run_continues_from_its_trained_weights(off, tmp_path):
    fit(tmp_path / "averaged", SCHEDULE, decay=0.9, max_steps=3)
    fit(tmp_path / "plain", SCHEDULE, max_steps=3)
    stored = torch.load(tmp_path / "averaged/checkpoints/step_0000003.ckpt", weights_only=True)
    apart = [stored[part]["network.weight"] for part in ("state_dict", "current_model_state")]
    assert not torch.equal(*apart)
    ended = [
        fit(tmp_path / name, SCHEDULE, resume=True, max_steps=6, **off).weights() for name in ("averaged", "plain")
    ]
    assert torch.equal(*ended)
    last = torch.load(tmp_path / "averaged/checkpoints/step_0000006.ckpt", weights_only=True)
    assert torch.equal(last["state_dict"]["network.weight"].flatten(), ended[0][:3])
    assert "current_model_state" not in last


def test_an_average_switched_on_at_resume_starts_from_the_weights(tmp_path):
    fit(tmp_path, SCHEDULE, max_steps=3)
    fit(tmp_path, SCHEDULE, decay=0.9, resume=True, max_steps=4)
    stored = torch.load(tmp_path / "checkpoints/step_0000004.ckpt", weights_only=True)
    assert torch.equal(stored["state_dict"]["network.weight"], stored["current_model_state"]["network.weight"])
