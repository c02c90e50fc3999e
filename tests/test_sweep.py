"""Sweeps as commands: folders, failures, repetitions, and the table at the end."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import TINY, curves, last_checkpoint

TRAIN = Path(__file__).parents[1] / "train.py"
TWO_RANKS = ["trainer.devices=2", "trainer.max_steps=4", "schedule.warmup=null"]


@pytest.fixture(scope="module", params=[pytest.param(None, id="two ranks", marks=pytest.mark.slow)])
def swept(train, shapes, tmp_path_factory) -> Path:
    """The folder of a sweep of two jobs on two ranks, of which the first failed; `printed` has its output."""
    folder = tmp_path_factory.mktemp("swept")
    printed = train(["-m", *TINY, shapes, *TWO_RANKS, "model.lr=1e30,0.01"], folder, expect=1)
    (folder / "printed").write_text(printed)
    return folder


def again(folder: Path, *overrides: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a sweep in a process of its own, in which no job should train."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *options, str(TRAIN), "-m", *TINY, *TWO_RANKS, *overrides]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_a_job_on_two_ranks_has_one_folder_named_by_what_is_swept(swept):
    folders = {path.name for path in (swept / "runs/sweeps/t").iterdir() if path.is_dir()}
    assert folders == {"model.lr=1e+30", "model.lr=0.01"}
    assert [row["step"] for row in curves(swept / "runs/sweeps/t/model.lr=0.01") if "train/loss" in row] == list("1234")


def test_a_failed_job_is_listed_with_its_reason_and_the_others_are_finished(swept):
    printed = (swept / "printed").read_text()
    assert "job 1 of 2: model.lr=1e+30 failed: NonFiniteLossError: the loss is not finite at step" in printed
    sweep = swept / "runs/sweeps/t"
    assert "not finite" in json.loads((sweep / "model.lr=1e+30/failed.json").read_text())["reason"]
    assert not (sweep / "model.lr=1e+30/finished.json").exists()
    assert (sweep / "model.lr=0.01/finished.json").exists()


def test_a_sweep_ends_with_a_table_and_a_plot(swept):
    sweep = swept / "runs/sweeps/t"
    with (sweep / "comparison.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["model.lr"], good["data.resize"], good["state"]) == ("0.01", "64", "finished")
    assert (bad["model.lr"], bad["state"]) == ("1e+30", "failed at step 1 of 4")
    finished = json.loads((sweep / "model.lr=0.01/finished.json").read_text())
    for name, value in {**finished["val"], "ms_per_image": finished["ms_per_image"]}.items():
        assert good.get(name, "") == (repr(value) if value >= 0 else "")
    assert float(good["train_seconds"]) > 0
    assert finished["timed"]["precision"] == "32-true"
    assert "short_side 64" in (sweep / "comparison.md").read_text()
    assert (sweep / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_repeated_sweep_skips_what_is_finished_without_importing_torch(swept, shapes):
    done = again(swept, shapes, "model.lr=0.01,wrong", options=("-X", "importtime"))
    assert "job 1 of 2: model.lr=0.01 is finished already: val/AP " in done.stdout
    assert "job 2 of 2: model.lr=wrong failed: " in done.stdout
    assert "expected a number" in done.stdout
    assert done.returncode == 1
    assert not [
        line for line in done.stderr.splitlines() if line.startswith("import time:") and line.endswith(" torch")
    ]
    assert not (swept / "runs/sweeps/t/model.lr=wrong").exists()


def test_a_folder_with_another_config_is_refused(swept, shapes):
    done = again(swept, shapes, "model.lr=0.01,1e30", "data.flip=0")
    assert done.returncode == 1
    assert done.stdout.count("contains a run with another config (data.flip: 0.5 there, 0 now)") == 4  # two per job
    assert "name=NAME" in done.stdout


@pytest.mark.slow
def test_sigterm_ends_a_sweep_and_the_same_command_continues(train, shapes, tmp_path):
    command = ["-m", *TINY, shapes, "trainer.max_steps=20", "data.resize=64,wrong"]
    run = tmp_path / "runs/sweeps/t/data.resize=64"
    with (tmp_path / "printed").open("w") as file:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        sweep = subprocess.Popen(
            [sys.executable, str(TRAIN), *command], cwd=tmp_path, env=env, stdout=file, stderr=file
        )
        while not (run / "metrics.csv").exists():  # its first step is done
            time.sleep(0.02)
            assert sweep.poll() is None, (tmp_path / "printed").read_text()
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait() == 75
    printed = (tmp_path / "printed").read_text()
    assert "SIGTERM: the sweep ends; repeat the command to continue it" in printed
    assert "job 2" not in printed
    stopped = torch.load(last_checkpoint(run), weights_only=True)
    assert 1 <= stopped["global_step"] < 20
    printed = train(command, tmp_path, expect=1)
    assert "resumes from" in printed
    assert "job 2 of 2: data.resize=wrong failed" in printed
    assert [int(row["step"]) for row in curves(run) if "train/loss" in row] == list(range(1, 21))
    seconds = json.loads((run / "finished.json").read_text())["train_seconds"]
    assert seconds > stopped["callbacks"]["Log"]["seconds"] > 0
