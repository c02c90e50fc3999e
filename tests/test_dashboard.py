"""What W&B shows of a run that was killed and resumed, one run, and of a sweep, as many as it has jobs."""

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


def test_each_job_of_a_sweep_is_a_run_of_its_own_on_the_dashboard(train, tmp_path):
    overrides = [o for o in TINY if not o.startswith(("logger=", "trainer.max_steps="))]
    overrides += ["logger=wandb", "data.root=shapes", "trainer.max_steps=4", "model.lr=0.01,0.02"]
    train(["-m", *overrides, "hydra.sweep.subdir=${hydra.job.num}"], tmp_path)
    first, second = (tmp_path / "runs/sweeps/t" / job / "wandb_id" for job in "01")
    assert first.read_text() != second.read_text()
    for identity in (first, second):
        (folder,) = identity.parent.glob("wandb/offline-run-*")
        assert folder.name.endswith(identity.read_text())
    (file,) = first.parent.glob("wandb/offline-run-*/run-*.wandb")  # complete once the second job has begun
    assert ids(file) == {first.read_text()}
    assert steps(file) == [1, 2, 3, 4]


def ids(file: Path) -> set[str]:
    return {record.run.run_id for record in wandb_records(file) if record.run.run_id}


def steps(file: Path) -> list[int]:
    """Optimizer steps that a training loss was logged for, in the order of the file."""
    rows = [{"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for record in wandb_records(file)]  # fmt: skip
    return [int(row["trainer/global_step"]) for row in rows if "train/loss" in row]
