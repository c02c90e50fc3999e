"""The panels of a validation on W&B, read back from the file of an offline run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import wandb_config, wandb_records, wandb_rows, wandb_summary
from validated import BOX, CLASSES, FOUND, OBJECTS, OTHER, Run, analysed

from evaluation.analysis import Analysis
from evaluation.confusions import Confusion, Matrix
from evaluation.truth import COCO_METRICS, PROPOSAL_METRICS
from lit_modules.loggers import wandb as wandb_logger
from lit_modules.loggers import wandb_panels
from lit_modules.loggers.wandb import WandbLogger
from lit_modules.loggers.wandb_file import cut

SIZES = [(300, 400), (300, 400), (400, 300), (900, 1200), (300, 400)]
STEPS = (40, 80)


class Best:
    best_step, best_metrics = 40, {"AP": 0.25, "AP50": 0.5}


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analysed(OBJECTS, FOUND, sizes=SIZES)


@pytest.fixture(scope="module")
def jobs(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of two jobs of one process; the first, which failed, has two validations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_logger, "_folders", {})
        folders = [tmp_path_factory.mktemp("job") for _ in range(2)]
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR"):
            patch.setenv(name, "restored as it was")
            patch.delenv(name)
        patch.setenv("WANDB_DATA_DIR", str(folders[0].parent / "of_the_user"))
        logger = WandbLogger(str(folders[0]), group="sweep")
        logger.log_hyperparams({"name": "sweep", "data": {"resize": 667}})
        run = Run(folders[0], analysis, num_fixed=8, num_worst=2)
        run.trainer.loggers = [logger]
        for step in STEPS:
            run.validate(step)
            logger.log_metrics({"val/AP": 10 / step}, step)
            logger.after_save_checkpoint(Best)
        logger.finalize("failed")
        WandbLogger(str(folders[1]), group="sweep").log_hyperparams({"data": {"resize": 833}})
        import wandb

        wandb.finish()
        wandb.teardown()
    return folders


@pytest.fixture(scope="module")
def file(jobs: list[Path]) -> Path:
    (file,) = jobs[0].glob("wandb/offline-run-*/run-*.wandb")
    return file


@pytest.fixture(scope="module")
def row(file: Path) -> dict[str, Any]:
    """The logged row of the first validation."""
    return next(row for row in wandb_rows(file) if "pictures" in str(row))


def media(file: Path, stored: dict[str, Any]) -> Any:
    return json.loads((file.parent / "files" / stored["path"]).read_text())


def chart(file: Path, row: dict[str, Any], key: str) -> list[list[Any]]:
    return media(file, row[f"Custom Chart Tables/{key}_table"])["data"]


def test_each_call_is_logged_at_its_optimizer_step(file):
    rows = wandb_rows(file)
    assert [row["trainer/global_step"] for row in rows] == [40, 40, 80, 80]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    keys = {"pictures/fixed", "pictures/worst", "analysis/per_class", "analysis/pr_curves", "analysis/confusion"}
    for row in rows[::2]:
        assert keys <= {key.removeprefix("Custom Chart Tables/").removesuffix("_table") for key in row}


def test_pictures_have_their_mistakes_as_captions_the_worst_first(row):
    assert row["pictures/worst"]["captions"] == [
        "e: AP 0.000, missed 1, false 1",
        "d: AP 0.500, missed 1",
    ]
    assert row["pictures/fixed"]["captions"] == [
        "0001: AP 1.000", "b/ä.x: AP 1.000", "c: AP 1.000", "d: AP 0.500, missed 1", "e: AP 0.000, missed 1, false 1",
    ]  # fmt: skip


def test_boxes_of_both_layers_are_those_of_the_analysis(row, file, analysis):
    found = 0
    for i, layers in enumerate(row["pictures/fixed"]["all_boxes"]):
        size = Image.open(file.parent / "files" / row["pictures/fixed"]["filenames"][i]).size
        assert size == (row["pictures/fixed"]["width"], row["pictures/fixed"]["height"]) == (800, 600)
        height, width = analysis.truth.sizes[i]
        scale = {1200: 800, 400: 600}[max(height, width)] / max(height, width)  # scale of the image within the canvas
        truth, predictions = (media(file, layers[name]) for name in ("ground_truth", "predictions"))
        objects, detections = analysis.of_image(i)
        for stored, rows, of in ((truth, objects, analysis.truth), (predictions, detections, analysis.predictions)):
            boxes = [[box["position"][name] for name in ("minX", "minY", "maxX", "maxY")] for box in stored["box_data"]]
            np.testing.assert_allclose(np.reshape(boxes, (-1, 4)) * [*size, *size] / scale, of.boxes[rows], atol=1e-9)
            assert [box["class_id"] for box in stored["box_data"]] == of.labels[rows].tolist()
            assert stored["class_labels"] == {str(label): name for label, name in enumerate(CLASSES)}
        assert [b["scores"]["score"] for b in predictions["box_data"]] == analysis.predictions.scores[
            detections
        ].tolist()
        found += len(objects) + len(detections)
    assert found == len(OBJECTS) + len(FOUND)


def test_labels_have_class_score_and_mistake_of_a_box(row, file):
    (false,) = media(file, row["pictures/worst"]["all_boxes"][0]["predictions"])["box_data"]
    assert false["box_caption"] == "細胞 0.95, false"
    right, missed = media(file, row["pictures/worst"]["all_boxes"][1]["ground_truth"])["box_data"]
    assert (right["box_caption"], missed["box_caption"]) == ("細胞", "κύτταρο & <b>, missed")


def test_the_table_has_a_row_for_each_class_with_empty_cells_where_undefined(row, file, analysis):
    table = media(file, row["analysis/per_class"])
    assert table["columns"] == ["class", "AP", "AP50", "objects", "threshold", "best F1"]
    for label, (name, ap, ap50, objects, threshold, f1) in enumerate(table["data"]):
        best = analysis.metrics.curves[name].best
        assert (name, objects) == (CLASSES[label], [4, 2, 0][label])
        assert (threshold, f1) == pytest.approx((analysis.thresholds.scores[label], best.f1))
        if objects:
            assert threshold == pytest.approx(best.threshold)
            scores = analysis.metrics.per_class[name]
            assert (ap, ap50) == pytest.approx((scores["AP"], scores["AP50"]))
        else:
            assert (ap, ap50) == (None, None)


def test_curves_are_the_evaluators_and_their_mean(row, file, analysis):
    data = chart(file, row, "analysis/pr_curves")
    lines = {name: [precision for of, _, precision in data if of == name] for name in dict.fromkeys(r[0] for r in data)}
    assert list(lines) == [*CLASSES[:2], "all classes"]  # the third has no objects
    for name in CLASSES[:2]:
        np.testing.assert_allclose(lines[name], analysis.metrics.curves[name].precision, atol=1e-5)
    assert np.mean(lines["all classes"]) == pytest.approx(analysis.metrics.scalars["AP50"], abs=1e-5)
    assert [recall for name, recall, _ in data if name == CLASSES[0]] == [i / 100 for i in range(101)]


def test_the_confusion_matrix_counts_background_too(row, file, analysis):
    cells = {(true, found): count for true, found, count in chart(file, row, "analysis/confusion")}
    names = [*CLASSES, "background"]
    assert [[cells[true, found] for found in names] for true in names] == analysis.confusion.tolist()
    assert cells[CLASSES[1], "background"] == 1
    assert cells["background", CLASSES[0]] == 1


def test_each_confusion_matrix_of_a_models_parts_has_a_chart(analysis):
    counts = np.array([[5, 0, 1, 2], [0, 4, 0, 1], [0, 0, 0, 3], [1, 2, 0, 90]])
    part = Confusion(Matrix("Sampled regions", ("background", *CLASSES[:2], "background")), counts)
    parts = replace(analysis, metrics=replace(analysis.metrics, confusions={"roi_head": part}))
    shown = wandb_panels.panels(parts, {})
    assert shown.keys() - wandb_panels.panels(analysis, {}).keys() == {"analysis/confusion_roi_head"}
    cells = {(true, said): count for true, said, count in shown["analysis/confusion_roi_head"].table.data}
    names = ["background", *CLASSES[:2], "(background)"]
    assert [[cells[true, said] for said in names] for true in names] == counts.tolist()


def test_many_classes_stay_within_the_lines_and_cells_that_wandb_shows(monkeypatch, analysis):
    monkeypatch.setattr(wandb_panels, "_CURVES", 1)
    monkeypatch.setattr(wandb_panels, "_CELLS", 3)
    assert {of for of, *_ in wandb_panels.pr_curves(analysis).table.data} == {CLASSES[0], "all classes"}
    assert (
        sorted(cell[2] for cell in wandb_panels.confusion(analysis).table.data)
        == sorted(analysis.confusion.ravel())[-3:]
    )


def test_a_run_without_detections_has_empty_layers_and_curves_at_zero():
    shown = Run(Path(), analysed(OBJECTS, []))
    everything = wandb_panels.boxes(shown.analysis, 3, (300, 400), (300, 400))
    assert len(everything["ground_truth"]["box_data"]) == 2
    assert everything["predictions"]["box_data"] == []
    assert {precision for _, _, precision in wandb_panels.pr_curves(shown.analysis).table.data} == {0}
    assert [row[-1] for row in wandb_panels.per_class(shown.analysis).data] == [0, 0, 0]


def test_a_class_called_background_is_distinguished_from_background(monkeypatch):
    monkeypatch.setattr("validated.CLASSES", ("background", "all classes", "c"))
    analysis = analysed(OBJECTS, FOUND)
    assert {cell[0] for cell in wandb_panels.confusion(analysis).table.data} == {
        "background",
        "all classes",
        "c",
        "(background)",
    }
    assert {line[0] for line in wandb_panels.pr_curves(analysis).table.data} == {
        "background",
        "all classes",
        "(all classes)",
    }


def test_voc_scores_are_columns_where_they_exist(analysis):
    for scores in analysis.metrics.per_class.values():
        scores["AP_voc07"] = float("nan")
    try:
        table = wandb_panels.per_class(analysis)
    finally:
        for scores in analysis.metrics.per_class.values():
            del scores["AP_voc07"]
    assert table.columns[:4] == ["class", "AP", "AP50", "AP_voc07"]
    assert [row[3] for row in table.data] == [None, None, None]


def test_the_config_is_nested_so_that_each_setting_is_one_column(jobs):
    for job, resize in zip(jobs, (667, 833), strict=True):
        (file,) = job.glob("wandb/offline-run-*/run-*.wandb")
        assert wandb_config(file)["data"] == {"resize": resize}


def test_jobs_of_a_sweep_are_one_group_and_a_failed_one_is_marked(jobs):
    runs, exits = [], []
    for job in jobs:
        (file,) = job.glob("wandb/offline-run-*/run-*.wandb")
        runs += [record.run for record in wandb_records(file) if record.run.run_id]
        exits += [record.exit.exit_code for record in wandb_records(file) if record.WhichOneof("record_type") == "exit"]
    assert {(run.run_group, run.job_type) for run in runs} == {("sweep", "train")}
    assert len({run.run_id for run in runs}) == 2
    assert exits == [1, 0]


def test_each_job_writes_into_its_own_folder_and_where_the_user_said(jobs):
    for job in jobs:
        assert list(job.glob("wandb/cache/**/core-debug*"))
        assert not (job / "wandb/data").exists()
    assert (jobs[0].parent / "of_the_user/artifacts").exists()


def test_the_summary_has_the_best_of_each_metric_and_of_the_best_checkpoint(file):
    summary = wandb_summary(file)
    assert (summary["best/AP"], summary["best/AP50"], summary["best/step"]) == (0.25, 0.5, 40)
    assert summary["val/AP"] == {"max": 0.25, "last": 0.125}
    defined = {record.metric.name: record.metric for record in wandb_records(file) if record.metric.name}
    for name in (*COCO_METRICS, *PROPOSAL_METRICS):
        assert defined[f"val/{name}"].summary.max
        assert defined[f"val/{name}"].step_metric == "trainer/global_step"


def test_an_error_of_wandb_gives_one_warning(tmp_path, monkeypatch, caplog, analysis):
    logger = WandbLogger(str(tmp_path), mode="disabled")

    def refuse(*_: Any) -> None:
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb_logger.LightningWandbLogger, "log_metrics", refuse)
    run = Run(tmp_path, analysis, num_fixed=1, num_worst=0)
    run.trainer.loggers = [logger]
    for step in STEPS:
        run.validate(step)
        logger.log_metrics({"val/AP": 1.0}, step)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message == "W&B: BrokenPipeError: the service is gone; the run continues without what it rejects"
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["step_0000040", "step_0000080"]


def test_boxes_do_not_extend_beyond_their_image():
    analysis = analysed(
        [(0, [-50.0, -10.0, 500.0, 310.0], 0), (0, OTHER, 1), (0, BOX, 2)], [], ids=("a",), sizes=[(300, 400)]
    )
    (box, *_) = wandb_panels.boxes(analysis, 0, (300, 400), (600, 800))["ground_truth"]["box_data"]
    assert box["position"] == {"minX": 0, "minY": 0, "maxX": 0.5, "maxY": 0.5}


def test_an_offline_part_is_cut_after_a_step_or_at_a_torn_record(file, tmp_path):
    data, records = file.read_bytes(), list(wandb_records(file))
    copy = tmp_path / "run.wandb"
    copy.write_bytes(data)
    cut(copy, 40)
    assert data.startswith(copy.read_bytes())
    assert [row["trainer/global_step"] for row in wandb_rows(copy)] == [40, 40]
    copy.write_bytes(data)
    cut(copy, 80)
    assert copy.read_bytes() == data
    whole = {0: 7}  # length of the file by number of records
    for torn in range(len(data) - 1, 7, -1009):
        copy.write_bytes(data[:torn])
        cut(copy, 80)
        kept = list(wandb_records(copy))
        assert kept == records[: len(kept)]
        assert whole.setdefault(len(kept), copy.stat().st_size) == copy.stat().st_size <= torn
    assert len(whole) > 10


def test_a_resumed_run_cuts_its_earlier_parts_but_those_uploaded(file, tmp_path):
    for part in ("a", "b"):
        folder = tmp_path / f"wandb/offline-run-{part}"
        folder.mkdir(parents=True)
        shutil.copy(file, folder / "run-x.wandb")
    (tmp_path / "wandb/offline-run-b/run-x.wandb.synced").touch()
    logger = WandbLogger(str(tmp_path), mode="disabled")
    logger.drop_after(40)
    a, b = (len(wandb_rows(tmp_path / f"wandb/offline-run-{part}/run-x.wandb")) for part in "ab")
    assert (a, b) == (2, 4)
