"""TensorBoard's and MLflow's loggers alone: a resumed run has one curve, and no error of theirs ends a run."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from running import events, names, scalar, tensorboard_files
from validated import Run

from lit_modules.loggers import MLflowLogger, TensorBoardLogger
from lit_modules.loggers.mlflow import accepted

CONFIG = {
    "name": "t", "model": {"lr": 0.01, "norm": None, "sizes": [1, 2]}, "overrides": {"model.lr": 0.01},
    "callbacks": {"checkpoints": {"monitor": "val/AP"}},
}  # fmt: skip


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    found = events(*tensorboard_files(folder / "tensorboard"))
    return [(event.step, scalar(event, name)) for event in found if name in names(event)]


def started(folder: Path, step: int = 0) -> TensorBoardLogger:
    """A logger as `boxwright.build` starts it."""
    logger = TensorBoardLogger(str(folder))
    logger.drop_after(step)
    logger.log_hyperparams(CONFIG)
    return logger


def test_logged_values_are_on_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = started(tmp_path)
    writer = logger.experiment.file_writer.event_writer._async_writer._writer
    write = writer.write
    monkeypatch.setattr(writer, "write", lambda data: (time.sleep(0.1), write(data)))  # in a thread of its own
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 2.0}, step)
        assert curve(tmp_path, "train/loss")[-1] == (step, 2.0)
    logger.finalize("success")


def test_a_resumed_run_drops_the_rows_that_it_repeats_and_keeps_the_rest(tmp_path: Path) -> None:
    logger = started(tmp_path)
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": float(step)}, step)
    logger.log_metrics({"val/AP": 0.25}, 3)
    (file,) = tensorboard_files(tmp_path / "tensorboard")
    with file.open("ab") as torn:
        torn.write(file.read_bytes()[-20:-5])
    resumed = started(tmp_path, 2)
    resumed.log_metrics({"train/loss": 30.0}, 3)
    resumed.log_metrics({"val/AP": 0.5}, 3)
    assert curve(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert curve(tmp_path, "val/AP") == [(3, 0.5)]


def test_a_validation_at_the_checkpoints_step_is_kept_across_kills(tmp_path: Path) -> None:
    """The checkpoint of a step is written before its validation and after it; a kill follows each."""
    started(tmp_path).log_metrics({"train/loss": 4.0}, 4)
    started(tmp_path, 4).log_metrics({"val/AP": 0.25}, 4)
    third = started(tmp_path, 4)
    third.log_metrics({"val/AP": 0.25}, 4)  # repeated, since the kill came before the second checkpoint
    third.log_metrics({"train/loss": 5.0}, 5)
    assert curve(tmp_path, "val/AP") == [(4, 0.25)]
    assert curve(tmp_path, "train/loss") == [(4, 4.0), (5, 5.0)]


def test_rows_after_the_end_of_training_are_kept_when_the_run_is_resumed(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    started(tmp_path).log_metrics({"train/loss": 1.0}, 1)
    resumed = started(tmp_path, 1)
    resumed.log_metrics({"train/loss": 2.0}, 2)
    resumed.finalize("success")  # closes its file
    resumed.log_metrics({"time/ms_per_image": 3.0}, 2)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [one.step for one in accumulator.Scalars("train/loss")] == [1, 2]
    assert [one.value for one in accumulator.Scalars("time/ms_per_image")] == [3.0]


def test_tensorboard_has_the_settings_once_and_the_metric_that_counts(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    for step in (0, 1):
        started(tmp_path, step).log_metrics({"train/loss": 1.0}, step + 1)
    found = [value for event in events(*tensorboard_files(tmp_path / "tensorboard")) for value in event.summary.value]
    content = {value.tag: value.metadata.plugin_data.content for value in found if value.tag.startswith("_hparams_")}
    assert [value.tag for value in found].count("_hparams_/session_start_info") == 1
    read = plugin_data_pb2.HParamsPluginData.FromString
    settings = read(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert settings["model.lr"].number_value == 0.01
    assert settings["model.sizes"].string_value == "[1, 2]"
    assert settings["model.norm"].string_value == "None"
    assert not [name for name in settings if name.startswith("overrides")]
    assert [info.name.tag for info in read(content["_hparams_/experiment"]).experiment.metric_infos] == ["val/AP"]


def test_pictures_and_the_table_of_classes_are_on_tensorboard(tmp_path: Path) -> None:
    from PIL import Image

    run = Run(tmp_path, num_fixed=2, num_worst=1)
    run.trainer.loggers = [started(tmp_path)]
    for step in (40, 80):
        run.validate(step)
    logged = {
        (value.tag, event.step): value
        for event in events(*tensorboard_files(tmp_path / "tensorboard")) for value in event.summary.value
    }  # fmt: skip
    shown = sorted(name for name, step in logged if name.startswith("pictures/") and step == 80)
    assert [name.rpartition("/")[0] for name in shown] == ["pictures/fixed", "pictures/fixed", "pictures/worst"]
    assert {(name, 40) for name in shown} <= logged.keys()
    (file,) = (tmp_path / "pictures/step_0000080").glob("worst_1_*.jpg")
    picture = logged["pictures/worst/1", 80].image
    assert picture.encoded_image_string == file.read_bytes()
    assert (picture.width, picture.height) == Image.open(file).size
    assert "細胞" in logged["analysis/per_class/text_summary", 80].tensor.string_val[0].decode()


def test_an_error_of_tensorboard_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = started(tmp_path)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logger.experiment.file_writer.event_writer._async_writer._writer, "write", refuse)
    monkeypatch.setattr("threading.excepthook", lambda _: None)  # the error ends the writer's thread
    run = Run(tmp_path, num_fixed=1, num_worst=0)
    run.trainer.loggers = [logger]
    for step in (1, 2):
        logger.log_metrics({"val/AP": 1.0}, step)
        run.validate(step)
    logger.finalize("success")
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("TensorBoard: OSError: [Errno 28] No space left on device; the run continues without")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once, since MLflow takes seconds for it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        MLflowLogger("runs/t/now")
    return folder / "runs/mlflow.db"


@pytest.fixture
def run(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a run, from where its store is found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/t/now").mkdir(parents=True)
    shutil.copy(store, tmp_path / "runs")
    return "runs/t/now"


def started_mlflow(folder: str, step: int = 0, config: dict[str, Any] = CONFIG) -> MLflowLogger:
    logger = MLflowLogger(folder)
    logger.drop_after(step)
    logger.log_hyperparams(config)
    return logger


def history(logger: MLflowLogger, name: str) -> list[tuple[int, float]]:
    return sorted((one.step, one.value) for one in logger.experiment.get_metric_history(logger.version, name))


def test_a_resumed_run_of_mlflow_keeps_its_id_and_drops_the_rows_that_it_repeats(run: str) -> None:
    other = started_mlflow("runs/t", 0)  # another run in the same store
    other.log_metrics({"train/loss": 7.0}, 3)
    logger = started_mlflow(run)
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": float(step)}, step)
    logger.log_metrics({"val/AP": 0.5}, 3)
    logger.log_metrics({"val/loss": 0.5}, 2)
    resumed = started_mlflow(run, 2)
    assert resumed.version == logger.version
    assert resumed.experiment.get_run(logger.version).data.metrics == {"train/loss": 2.0, "val/loss": 0.5}
    resumed.log_metrics({"val/loss": 0.25}, 2)  # a repeated validation
    resumed.log_metrics({"train/loss": 30.0}, 3)
    assert history(resumed, "train/loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert history(resumed, "val/loss") == [(2, 0.5)]
    assert history(resumed, "val/AP") == []
    assert history(other, "train/loss") == [(3, 7.0)]


def test_mlflow_has_the_settings_and_those_of_a_resumed_run_that_changed(run: str) -> None:
    started_mlflow(run)
    logger = started_mlflow(run, 0, {**CONFIG, "name": "u", "model": {**CONFIG["model"], "depth": 18}})
    data = logger.experiment.get_run(logger.version).data
    assert data.params == {
        "name": "t", "model.lr": "0.01", "model.norm": "None", "model.sizes": "[1, 2]", "model.depth": "18",
        "callbacks.checkpoints.monitor": "val/AP",
    }  # fmt: skip
    assert data.tags["resumed.name"] == "u"
    assert data.tags["mlflow.runName"] == "now"


def test_mlflow_has_every_class_by_its_name(run: str) -> None:
    logger = started_mlflow(run)
    classes = {f"val/AP_class/{i}": i / 2000 for i in range(1203)}
    logger.log_metrics({**classes, "val/AP_class/細胞": 0.5, "val/AP_class/a & b": float("nan")}, 1)
    found = logger.experiment.get_run(logger.version).data.metrics
    assert found["val/AP_class/細胞"] == 0.5
    assert found["val/AP_class/a _ b"] != found["val/AP_class/a _ b"]
    assert len(found) == 1205


def test_names_are_changed_to_those_that_mlflow_accepts() -> None:
    assert accepted("val/AP_class/κύτταρο & <b>") == "val/AP_class/κύτταρο _ _b_"
    assert accepted("val/AP_class/..") == "val/AP_class/_"
    assert accepted("val/AP_class/") == "val/AP_class/_"
    assert len(accepted("x" * 300)) == 250


@pytest.mark.parametrize(("ended", "status"), [("success", "FINISHED"), ("failed", "FAILED")])
def test_mlflow_has_the_status_of_a_run_also_when_it_is_resumed(run: str, ended: str, status: str) -> None:
    logger = started_mlflow(run)
    logger.finalize(ended)
    assert logger.experiment.get_run(logger.version).info.status == status
    again = started_mlflow(run)
    assert again.experiment.get_run(again.version).info.status == "RUNNING"


class Best:
    best_step, best_metrics = 2, {"AP": 0.25}


def test_mlflow_has_the_metrics_of_the_best_checkpoint_once(run: str) -> None:
    for _ in range(2):
        logger = started_mlflow(run, 2)
        for _ in range(2):
            logger.after_save_checkpoint(Best)
    assert history(logger, "best/AP") == [(2, 0.25)]


def test_an_error_of_mlflow_gives_one_warning(run: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = started_mlflow(run)
    Path("runs/mlflow.db").write_bytes(b"no database")
    for step in (1, 2):
        logger.log_metrics({"val/AP": 1.0}, step)
    logger.finalize("success")
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("MLflow: ")
    assert message.endswith("; the run continues without what it rejects")


def test_an_unusable_store_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logger\.mlflow\.tracking_uri=nosuch://x: .*expected sqlite:///FILE"):
        MLflowLogger(str(tmp_path), tracking_uri="nosuch://x")


def test_mlflow_sends_no_telemetry(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    assert not MLFLOW_DISABLE_TELEMETRY.get()
    MLflowLogger(run)
    assert MLFLOW_DISABLE_TELEMETRY.get()
