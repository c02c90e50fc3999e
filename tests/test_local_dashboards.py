"""`logger=tensorboard`, `logger=mlflow` and several loggers at once: their files are read back, also after a kill."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from running import TINY, curves, events, names, only_run, scalar, tensorboard_files

from lit_modules.loggers import mlflow, tensorboard

LOGGERS = ["logger=[tensorboard,mlflow]", "trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def folder(train, shapes, tmp_path_factory) -> Path:
    """The folder of a run that was killed after a logged step and resumed from the checkpoint before it."""
    folder = tmp_path_factory.mktemp("run")
    pictures = [
        *(o for o in TINY if not o.startswith(("logger=", "callbacks.pictures."))),
        "callbacks.pictures.num_fixed=1",
    ]
    train([*pictures, *LOGGERS, shapes], folder, kill={"at": "batch_end", "batch": 9})
    train(["resume=last", "name=t", "trainer.max_steps=12"], folder)
    return folder


def rows(folder: Path, name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in curves(only_run(folder)) if name in row}


@pytest.mark.slow
def test_tensorboard_has_each_row_once(folder: Path) -> None:
    files = tensorboard_files(only_run(folder) / "tensorboard")
    assert len(files) > 1
    for name in ("train/loss", "val/AP"):
        seen = [(event.step, scalar(event, name)) for event in events(*files) if name in names(event)]
        assert [step for step, _ in seen] == list(rows(folder, name))
        assert dict(seen) == pytest.approx(rows(folder, name))
    logged = [(name, event.step) for event in events(*files) for name in names(event)]
    for role, count in (("fixed", 1), ("worst", 4)):
        shown = [(name, step) for name, step in logged if name.startswith(f"pictures/{role}/")]
        assert len(shown) == len(set(shown))
        assert [step for _, step in shown] == [step for step in rows(folder, "val/AP") for _ in range(count)]
    assert [names(event) for event in events(*files)].count(["_hparams_/session_start_info"]) == 1


@pytest.mark.slow
def test_tensorboard_shows_each_row_once(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(only_run(folder) / "tensorboard"))
    accumulator.Reload()
    assert [one.step for one in accumulator.Scalars("train/loss")] == list(rows(folder, "train/loss"))


@pytest.mark.slow
def test_mlflow_has_one_run_with_each_row_once_and_the_config(folder: Path) -> None:
    import mlflow as package

    client = package.MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "boxwright"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (only_run(folder) / "mlflow_id").read_text()
    assert found.info.status == "FINISHED"
    assert found.data.params["model._target_"] == "lit_modules.fcos.FCOSModule"
    assert found.data.tags["resumed.trainer.max_steps"] == "12"
    for name in ("train/loss", "val/AP"):
        history = sorted((one.step, one.value) for one in client.get_metric_history(found.info.run_id, name))
        assert [step for step, _ in history] == list(rows(folder, name))
        assert dict(history) == pytest.approx(rows(folder, name), rel=1e-12)
        assert found.data.metrics[name] == history[-1][1]
    best = json.loads((only_run(folder) / "finished.json").read_text())
    assert found.data.metrics["best/AP"] == best["val"]["AP"]


@pytest.mark.slow
def test_the_log_of_the_run_has_no_output_of_loggers(folder: Path) -> None:
    text = (only_run(folder) / "log.txt").read_text()
    assert "val at step 12" in text
    assert not re.search("alembic|database|tfevents|continues without", text + (folder / "printed.txt").read_text())


@pytest.mark.parametrize(
    ("module", "make", "package"),
    [(tensorboard, tensorboard.TensorBoardLogger, "tensorboard"), (mlflow, mlflow.MLflowLogger, "mlflow")],
)
def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, make: Any, package: str
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"logger={package}: .*{package}.* not installed; pip install {package}"):
        make(str(tmp_path))
    assert not any(tmp_path.iterdir())
