"""What W&B shows of a run that was killed and resumed: one run."""

from pathlib import Path

from running import TINY, only_run, wandb_records


def test_a_killed_and_resumed_run_is_one_run_on_the_dashboard(train, tmp_path):
    overrides = [o for o in TINY if o != "logger=csv"]
    overrides += ["logger=wandb", f"data.root={tmp_path / 'shapes'}"]
    train(overrides, tmp_path, kill={"at": "batch_end", "batch": 5})
    run = only_run(tmp_path)
    run_id = (run / "wandb_id").read_text()
    train(["resume=last", "name=t"], tmp_path)
    assert only_run(tmp_path) == run

    before, after = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert ids(before) == ids(after) == {run_id}
    assert steps(before) <= {1, 2, 3, 4, 5}
    assert steps(after) == {5, 6, 7, 8, 9, 10}  # from its last checkpoint on, that of step 4


def ids(file: Path) -> set[str]:
    return {record.run.run_id for record in wandb_records(file) if record.run.run_id}


def steps(file: Path) -> set[int]:
    """Optimizer steps that a training loss was logged for."""
    found = set()
    for record in wandb_records(file):
        row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if "train/loss" in row:
            found.add(int(row["trainer/global_step"]))
    return found
