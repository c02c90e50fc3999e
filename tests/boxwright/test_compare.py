"""Reading the folders of runs at any stage, and the table of `compare.py`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from boxwright.runs import compare

COMPARE = Path(__file__).parents[2] / "compare.py"
CONFIG: dict[str, Any] = {
    "name": "t", "seed": 0, "scale_schedule": False,
    "model": {"lr": 0.01}, "data": {"resize": 400, "rule": "short_side", "seed": 0, "batch_size": 16},
    "trainer": {"max_steps": 20}, "callbacks": {"checkpoints": {"monitor": "val/AP", "mode": "max"}},
}  # fmt: skip
CURVES = """step,train/loss,val/AP,val/AP50,val/AP_class/a,val/loss,val/loss_cls
5,2.0,,,,,
5,,0.2,0.4,0.1,1.5,0.7
10,,0.3,0.5,0.1,1.2,0.6
15,,0.1,0.2,0.1,1.1,0.5
17,1.0,,,,,
1"""
"""metrics.csv with a truncated last row."""


def make_run(folder: Path, curves: str = CURVES, resize: int = 400, **ended: Any) -> Path:
    folder.mkdir(parents=True)
    config = {**CONFIG, "data": {**CONFIG["data"], "resize": resize}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.json").write_text(
        json.dumps({"overrides": [f"data.resize={resize}", "+a.b=1"], "choices": {"model/backbone": "resnet50"}})
    )
    (folder / "metrics.csv").write_text(curves)
    for name, content in ended.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


FINISHED = {
    "step": 20, "best_step": 10, "score": 0.3, "val": {"AP": 0.3, "AP50": 0.5}, "test": {"AP": 0.25},
    "train_seconds": 12.5, "ms_per_image": 8.0,
    "timed": {"images": 9, "device": "cpu (1 threads)", "precision": "32-true"},
}  # fmt: skip


def test_where_the_split_cannot_have_the_metric_ap_chooses_the_best_so_far(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIG["callbacks"]["checkpoints"], "monitor", "val/AP_large")
    curves = "step,val/AP,val/AP_large,val/loss\n5,0.2,-1.0,1.5\n10,0.3,-1.0,1.2\n15,0.1,-1.0,1.1\n"
    found = compare.read(make_run(tmp_path / "a", curves), tmp_path)
    assert found is not None
    assert found.figures == {"AP": 0.3, "AP_large": -1.0, "val/loss": 1.2}


def test_a_finished_run_has_the_figures_of_its_best_step(tmp_path):
    found = compare.read(make_run(tmp_path / "a", finished=FINISHED), tmp_path)
    assert found is not None
    assert (found.folder, found.state, found.step, found.steps) == ("a", "finished", 20, 20)
    assert found.figures == {
        "AP": 0.3, "AP50": 0.5, "val/loss": 1.2, "test/AP": 0.25, "ms_per_image": 8.0, "train_seconds": 12.5,
    }  # fmt: skip
    assert found.timed == "cpu (1 threads), 32-true"
    assert found.overridden == {"data.resize", "a.b"}
    assert found.setting("model/backbone") == "resnet50"
    assert found.setting("model.lr") == 0.01


def test_a_test_split_equal_to_the_validated_one_is_reported_once(tmp_path):
    found = compare.read(make_run(tmp_path / "a", finished={**FINISHED, "test": FINISHED["val"]}), tmp_path)
    assert found is not None
    assert not any(name.startswith("test/") for name in found.figures)


def test_an_unfinished_run_has_its_best_validation_so_far(tmp_path):
    found = compare.read(make_run(tmp_path / "a"), tmp_path)
    assert found is not None
    assert (found.state, found.step) == ("unfinished", 17)
    assert found.figures == {"AP": 0.3, "AP50": 0.5, "val/loss": 1.2}


def test_a_failed_run_has_its_reason_until_it_is_finished(tmp_path):
    failed = {"reason": "no memory"}
    found = compare.read(make_run(tmp_path / "a", failed=failed), tmp_path)
    assert found is not None
    assert (found.state, found.reason) == ("failed", "no memory")
    finished = compare.read(make_run(tmp_path / "b", failed=failed, finished=FINISHED), tmp_path)
    assert finished is not None
    assert finished.state == "finished"


def test_a_run_without_overrides_and_curves_is_read(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "overrides.json").unlink()
    (folder / "metrics.csv").unlink()
    found = compare.read(folder, tmp_path)
    assert found is not None
    assert (found.state, found.step, found.overridden) == ("unfinished", 0, frozenset())


def test_runs_are_found_at_any_depth_but_not_inside_another_run(tmp_path):
    make_run(tmp_path / "sweeps" / "a" / "data.resize=400")
    make_run(tmp_path / "t" / "now")
    (tmp_path / "t" / "now" / "wandb").mkdir()
    (tmp_path / "t" / "now" / "wandb" / "config.yaml").write_text("wandb_version: 1")
    found = list(compare.find([tmp_path, tmp_path / "t"]))
    assert found == [tmp_path / "sweeps/a/data.resize=400", tmp_path / "t/now"]


def test_another_programs_config_is_not_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1")
    assert compare.read(tmp_path, tmp_path) is None


def compared(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, COMPARE, *arguments], capture_output=True, text=True)


def test_the_command_prints_a_table_and_writes_three_files(tmp_path):
    make_run(tmp_path / "runs" / "a", finished=FINISHED)
    make_run(tmp_path / "runs" / "b", resize=500, failed={"reason": "no memory"})
    done = compared(tmp_path / "runs", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for words in ("short_side 400", "short_side 500", "30.0", "finished", "failed at step 17 of 20", "no memory"):
        assert words in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.csv", "comparison.md", "comparison.png"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b"}


def test_a_missing_folder_and_a_folder_without_runs_are_reported_in_one_line(tmp_path):
    for folder, words in ((tmp_path / "none", "is not a folder"), (tmp_path, "no run in")):
        done = compared(folder)
        assert done.returncode == 2
        assert words in done.stderr
        assert str(folder) in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["finished.json", "config.yaml"])
def test_a_damaged_file_is_named(name, tmp_path):
    folder = make_run(tmp_path / "a", finished=FINISHED)
    (folder / name).write_text("{")
    done = compared(tmp_path)
    assert done.returncode == 2
    assert str(folder / name) in done.stderr
    assert "Traceback" not in done.stderr
