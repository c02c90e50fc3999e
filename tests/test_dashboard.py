"""What W&B shows of a run that was killed and resumed: one run."""

import os
import subprocess
import sys
from pathlib import Path

from running import TINY, only_run, wandb_records

TRAIN = Path(__file__).parents[1] / "train.py"


def test_a_killed_and_resumed_run_is_one_run_on_the_dashboard(train, tmp_path):
    """W&B writes its file in blocks of 32 KiB, so the run is killed late enough to leave one behind."""
    overrides = [o for o in TINY if o != "logger=csv"]
    overrides += ["logger=wandb", f"data.root={tmp_path / 'shapes'}", "trainer.max_steps=60",
                  "trainer.val_check_interval=60", "callbacks.checkpoints.every_steps=40"]  # fmt: skip
    train(overrides, tmp_path, kill={"at": "batch_end", "batch": 50})
    run = only_run(tmp_path)
    run_id = (run / "wandb_id").read_text()
    command = [sys.executable, str(TRAIN), "resume=last", "name=t"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert only_run(tmp_path) == run

    before, after = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert ids(before) == ids(after) == {run_id}
    first, second = steps(before), steps(after)
    assert first == list(range(1, len(first) + 1))  # what was on the disk when the run was killed
    assert 1 <= len(first) <= 50
    assert second == list(range(41, 61))  # on from the last checkpoint


def ids(file: Path) -> set[str]:
    return {record.run.run_id for record in wandb_records(file) if record.run.run_id}


def steps(file: Path) -> list[int]:
    """Optimizer steps that a training loss was logged for, in the order of the file."""
    rows = [{"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for record in wandb_records(file)]  # fmt: skip
    return [int(row["trainer/global_step"]) for row in rows if "train/loss" in row]
