"""W&B shows a killed and resumed run as one run, and a sweep as one run per job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import (
    TINY,
    assert_equal_bits,
    curves,
    only_run,
    state,
    wandb_config,
    wandb_records,
    wandb_rows,
    with_faster_rcnn,
)
from tiers import slow_but

TRAIN = Path(__file__).parents[1] / "train.py"
PICTURES = ["callbacks.pictures.num_fixed=3", "callbacks.pictures.num_worst=1", "callbacks.pictures.every=2"]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> list[str]:
    """Overrides of a run of 60 steps with three validations."""
    return [*TINY, f"data.root={tmp_path_factory.mktemp('data') / 'shapes'}", "trainer.max_steps=60",
            "trainer.val_check_interval=20", "callbacks.checkpoints.every_steps=5"]  # fmt: skip


@pytest.fixture(scope="module", params=[pytest.param(None, id="resumed", marks=pytest.mark.slow)])
def resumed(train, overrides, tmp_path_factory) -> Path:
    """The folder of a run with W&B and pictures that was killed after 56 steps and resumed.

    W&B writes its file in blocks of 32 KiB, so the kill comes late enough for a block to be on the disk.
    """
    folder = tmp_path_factory.mktemp("resumed")
    train([*overrides, "logger=wandb", *PICTURES], folder, kill={"at": "batch_end", "batch": 56})
    command = [sys.executable, str(TRAIN), "resume=last", "name=t"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return only_run(folder)


def files(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_killed_and_resumed_run_is_one_run_on_the_dashboard(resumed):
    before, after = files(resumed)
    assert ids(before) == ids(after) == {(resumed / "wandb_id").read_text()}
    first, second = steps(before), steps(after)
    assert first == list(range(1, len(first) + 1))  # on the disk when the run was killed, without
    assert 1 <= len(first) <= 55  # steps that the resumed run repeats
    assert second == list(range(56, 61))  # from the last checkpoint on
    assert wandb_config(after)["overrides"]["trainer/max_steps"] == 60  # of the first command
    assert {record.run.resume for record in wandb_records(after) if record.run.run_id} == {True}  # for `wandb sync`


def test_pictures_of_every_second_validation_and_the_last_are_in_the_folder_and_on_the_dashboard(resumed):
    assert sorted(path.name for path in (resumed / "pictures").iterdir()) == ["step_0000020", "step_0000060"]
    for folder in (resumed / "pictures").iterdir():
        names = [path.name for path in folder.iterdir()]
        assert sum(name.startswith("worst_1_") for name in names) == 1
        assert len(names) == 4
    rows = [[row for row in wandb_rows(file) if "pictures/fixed" in row] for file in files(resumed)]
    assert [[row["trainer/global_step"] for row in part] for part in rows] == [[20], [60]]
    shown = [[caption.split(":")[0] for caption in part[0]["pictures/fixed"]["captions"]] for part in rows]
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == 3
    assert all("analysis/per_class" in part[0] for part in rows)


@pytest.mark.slow
def test_a_run_with_pictures_and_dashboard_trains_as_one_without(train, overrides, resumed, tmp_path):
    train(overrides, tmp_path)
    without = only_run(tmp_path)
    assert curves(without) == curves(resumed)
    assert not (without / "pictures").exists()


@pytest.mark.parametrize("model", slow_but(of=["fcos", "faster_rcnn"]))
def test_fixed_images_are_drawn_every_few_steps_without_affecting_training(model, train, overrides, tmp_path):
    seen = {}
    for name, every in (("with", 3), ("without", "null")):
        (tmp_path / name).mkdir()
        more = ["trainer.max_steps=8", "trainer.val_check_interval=4", "callbacks.averaging.decay=0.9"]
        more += [
            "callbacks.pictures.num_fixed=2",
            f"callbacks.pictures.every_steps={every}",
            "callbacks.pictures.keep=-1",
        ]
        more += ["trainer.accumulate_grad_batches=2", "model.backbone.norm=bn"]
        settings = [*overrides, *more]
        train(settings if model == "fcos" else with_faster_rcnn(settings), tmp_path / name)
        run = only_run(tmp_path / name)
        drawn = {int(path.name[5:]): sorted(x.name for x in path.iterdir()) for path in (run / "pictures").iterdir()}
        seen[name] = curves(run), state(run), drawn
    assert seen["with"][0] == seen["without"][0]
    assert_equal_bits(seen["with"][1], seen["without"][1])
    assert sorted(seen["with"][2]) == [3, 4, 6, 8]
    assert sorted(seen["without"][2]) == [4, 8]
    assert len({tuple(names) for names in seen["with"][2].values()}) == 1
    assert len(seen["with"][2][3]) == 2


@pytest.mark.slow
def test_each_job_of_a_sweep_is_a_run_of_its_own_on_the_dashboard(train, tmp_path):
    overrides = [o for o in TINY if not o.startswith(("logger=", "trainer.max_steps="))]
    overrides += ["logger=wandb", "data.root=shapes", "trainer.max_steps=4", "model.lr=0.01,0.02"]
    train(["-m", *overrides, "hydra.sweep.subdir=${hydra.job.num}"], tmp_path)
    first, second = (tmp_path / "runs/sweeps/t" / job / "wandb_id" for job in "01")
    assert first.read_text() != second.read_text()
    for identity in (first, second):
        (folder,) = identity.parent.glob("wandb/offline-run-*")
        assert folder.name.endswith(identity.read_text())
    (file,) = files(first.parent)  # complete once the second job has begun
    assert ids(file) == {first.read_text()}
    assert steps(file) == [1, 2, 3, 4]
    (run,) = [record.run for record in wandb_records(file) if record.run.run_id]
    assert (run.run_group, run.job_type) == ("t", "train")
    config = wandb_config(file)
    assert config["model"]["lr"] == config["overrides"]["model/lr"] == 0.01
    assert config["overrides"]["model/backbone"] == "mobilenet_v2"


def ids(file: Path) -> set[str]:
    return {record.run.run_id for record in wandb_records(file) if record.run.run_id}


def steps(file: Path) -> list[int]:
    """Optimizer steps for which a training loss was logged, in the order of the file."""
    rows = [{"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for record in wandb_records(file)]  # fmt: skip
    return [int(row["trainer/global_step"]) for row in rows if "train/loss" in row]
