"""`logger=tensorboard`, `logger=mlflow`, several at once: what they have written is read back, also after a kill."""

from pathlib import Path
from typing import Any

import pytest
from running import TINY, curves, only_run

from lit_modules.loggers import mlflow, tensorboard

LOGGERS = ["logger=all", "logger.wandb.mode=disabled", "trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def folder(train, shapes, tmp_path_factory) -> Path:
    """Of a run that was killed after a step whose row it had logged, and resumed from the checkpoint before it."""
    folder = tmp_path_factory.mktemp("run")
    pictures = [
        *(o for o in TINY if not o.startswith(("logger=", "callbacks.pictures."))),
        "callbacks.pictures.num_fixed=1",
    ]
    train([*pictures, *LOGGERS, shapes], folder, kill={"at": "batch_end", "batch": 10})
    train(["resume=last", "name=t"], folder)
    return folder


def rows(folder: Path, name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in curves(only_run(folder)) if name in row}


def test_tensorboard_has_each_row_once(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(only_run(folder) / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "val/AP"):
        seen = [(one.step, one.value) for one in events.Scalars(name)]
        assert [step for step, _ in seen] == list(rows(folder, name))
        assert dict(seen) == pytest.approx(rows(folder, name))
    (tag,) = [tag for tag in events.Tags()["images"] if tag.startswith("pictures_fixed/")]
    assert [one.step for one in events.Images(tag)] == list(rows(folder, "val/AP"))


def test_mlflow_has_one_run_with_the_rows_and_the_config(folder: Path) -> None:
    import mlflow as package

    client = package.MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "boxwright"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (only_run(folder) / "mlflow_id").read_text()
    assert found.data.params["model/_target_"] == "lit_modules.fcos.FCOSModule"
    for name in ("train/loss", "val/AP"):
        by_step = {one.step: one.value for one in client.get_metric_history(found.info.run_id, name)}
        assert by_step == pytest.approx(rows(folder, name))


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
