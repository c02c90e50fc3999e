"""train.py and evaluate.py as commands."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import TINY, curves, only_run, wandb_records

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(train, shapes, tmp_path_factory) -> Path:
    """The folder of a run of twenty steps, with W&B offline and the test at the end."""
    folder = tmp_path_factory.mktemp("run")
    overrides = [o for o in TINY if not o.startswith(("logger=", "test=", "trainer.max_steps="))]
    (folder / "printed").write_text(
        train(
            [*overrides, shapes, "logger=wandb", "trainer.max_steps=20", "trainer.gradient_clip_val=5"],
            folder,
        )
    )
    return folder


def test_a_run_leaves_a_complete_folder(folder):
    run = only_run(folder)
    assert {"config.yaml", "log.txt", "metrics.csv", "finished.json", "checkpoints", "wandb"} <= {
        path.name for path in run.iterdir()
    }
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"best.ckpt", "last.ckpt"} <= names
    assert (run / "checkpoints" / "last.ckpt").resolve().name == "step_0000020.ckpt"
    # a run writes only into its folder: W&B writes nothing beside it
    assert {path.name for path in folder.iterdir()} == {"runs", "printed", "printed.txt"}


def test_the_log_has_environment_model_and_results(folder):
    printed = (folder / "printed").read_text()
    for words in ("environment: ", "commit", "GFLOPs", "M parameters", "devices: 1", "data.resize=64", "AP50", "eta",
                  "images/s", "centerness", "trained 20 steps", "s/step", "offline"):  # fmt: skip
        assert words in printed, words


def test_the_terminal_shows_the_chosen_settings_and_log_txt_the_whole_config(folder):
    printed, log = (folder / "printed").read_text(), (only_run(folder) / "log.txt").read_text()
    told = printed.partition("config (all of it is in config.yaml):\n")[2].partition(" environment:")[0].split()
    assert {"model=fcos", "model/backbone=mobilenet_v2", "data=shapes", "~callbacks.report"} <= set(told)
    assert {"model.num_convs=1", "trainer.gradient_clip_val=5", "scale_schedule=false"} <= set(told)
    assert not any(line.startswith(("data.eval_batch_size", "model.num_classes", "model.optimizer")) for line in told)
    assert "_target_" not in printed
    assert log.count("_target_: lit_modules.optimizers.sgd") == 1  # `model.optimizer` is an interpolation of it
    assert "optimizer: ${optimizer}" in log
    assert "eval_batch_size: 4" in log
    assert set(printed.splitlines()) <= set(log.splitlines())


def test_a_line_of_figures_fits_a_terminal_and_is_below_its_headings(folder):
    lines = (folder / "printed").read_text().splitlines()
    headings = [line for line in lines if " step " in line and "loss (mean)" in line]
    assert len(headings) == 5  # at the start, and after each validation but the last
    names = re.split(r"\s{2,}", headings[0][9:].strip())
    assert names == ["step", "epoch", "loss (mean)", "cls", "box", "centerness", "grad", "lr", "images/s", "data s",
                     "MB", "eta"]  # fmt: skip
    figures = [line for line in lines if re.search(r" \d+/20 ", line)]
    assert [int(line.split()[1].partition("/")[0]) for line in figures] == list(range(1, 21))
    assert {len(line) for line in headings + figures} == {len(headings[0])}
    assert len(headings[0]) <= 120


def test_a_run_ends_with_its_table_and_a_line_in_percent(folder):
    printed = (folder / "printed").read_text()
    results = json.loads((only_run(folder) / "finished.json").read_text())
    table, _, end = printed.rpartition("test is the validation of the best checkpoint")[2].partition(" best: ")
    assert table.split()[0] == "percent"
    assert {"AP", "AR100", "AP_small", "disc", "star"} <= set(table.split())
    test = results["test"]
    assert end.startswith(f"val/AP {100 * results['score']:.2f} % at step {results['best_step']}\n")
    assert (
        f"test: AP {100 * test['AP']:.2f} %  AP50 {100 * test['AP50']:.2f} %  AP75 {100 * test['AP75']:.2f} %\n" in end
    )


def test_curves_have_every_documented_key(folder):
    with (only_run(folder) / "metrics.csv").open(newline="") as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    assert columns >= DOCUMENTED


DOCUMENTED = {
    "train/loss", "train/loss_cls", "train/loss_box", "train/loss_centerness", "train/gradient_norm",
    "val/loss", "val/loss_cls", "val/AP", "val/AP50", "val/AP75", "val/AP_small", "val/AP_medium", "val/AP_large",
    "val/AR1", "val/AR10", "val/AR100", "val/AP_class/disc", "lr", "time/step", "time/data", "images_per_s",
    "memory_mb",
}  # fmt: skip


def test_a_checkpoint_is_plain_and_complete(folder):
    contents = torch.load(only_run(folder) / "checkpoints" / "best.ckpt", weights_only=True)
    about = contents["boxwright"]
    assert about["config"]["model"]["_target_"] == "lit_modules.fcos.FCOSModule"
    assert len(about["class_names"]) == len(about["category_ids"]) == 5
    assert about["config"]["data"]["resize"] == 64
    assert "torch" in about["versions"]
    assert "AP" in about["metrics"]


def test_the_offline_dashboard_reads_back(folder):
    run = only_run(folder)
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    keys, config, run_id = set(), {}, None
    for record in wandb_records(file):
        for item in record.history.item:
            keys.add("/".join(item.nested_key) or item.key)
        if record.run.run_id:
            run_id = record.run.run_id
        for update in (*record.config.update, *record.run.config.update):
            config["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
    assert keys >= DOCUMENTED
    assert run_id == (run / "wandb_id").read_text()
    import yaml

    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: config.get(key) for key in stored} == stored


def test_evaluate_gives_the_numbers_that_training_gave(folder, tmp_path):
    run = only_run(folder)
    command = [sys.executable, str(ROOT / "evaluate.py"), f"output={tmp_path / 'scored'}"]
    subprocess.run([*command, f"checkpoint={run / 'checkpoints/best.ckpt'}"], cwd=folder, check=True)
    scored = json.loads((tmp_path / "scored" / "metrics.json").read_text())["scalars"]
    assert scored == json.loads((run / "finished.json").read_text())["val"]


def test_a_finished_run_has_nothing_to_resume(train, folder):
    printed = train([f"resume={only_run(folder)}"], folder, expect=2)
    assert "is finished (20 steps)" in printed
    assert "trainer.max_steps" in printed
    assert "no unfinished run" in train(["resume=last", "name=t"], folder, expect=2)


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(train, shapes, tmp_path):
    train([*TINY, shapes, "trainer.max_steps=4"], tmp_path)
    run = only_run(tmp_path)
    printed = train([f"resume={run}", "trainer.max_steps=6"], tmp_path)
    assert "trainer.max_steps 4 -> 6" in printed
    assert [row["step"] for row in curves(run) if "train/loss" in row] == ["1", "2", "3", "4", "5", "6"]


def test_what_would_change_the_data_stream_is_refused_on_resume(train, shapes, tmp_path):
    train([*TINY, shapes], tmp_path, kill={"at": "batch_end", "batch": 3})
    run = only_run(tmp_path)
    printed = train([f"resume={run}", "data.batch_size=6"], tmp_path, expect=2)
    assert "data.batch_size: 4 in the run to resume, 6 on the command line" in printed


def test_a_start_that_fails_leaves_no_folder(train, shapes, tmp_path):
    train([*TINY, shapes, "model.backbone.weights=nowhere.pth"], tmp_path, expect=2)
    train([*TINY, shapes, "logger=wandb", "trainer.max_steps=-1"], tmp_path, expect=2)
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.slow
def test_a_run_that_cannot_be_resumed_keeps_its_folder(train, shapes, tmp_path):
    train([*TINY, shapes], tmp_path, kill={"at": "batch_end", "batch": 1})
    printed = train(["resume=last", "name=t", f"data.root={tmp_path}"], tmp_path, expect=1)
    assert "holds other files" in printed
    printed = train(["resume=last", "name=t", shapes], tmp_path)
    assert "config" not in printed  # only a new run prints its config
    assert f"resumed with a difference: data.root {tmp_path} -> " in printed
    assert "trained 10 steps" in printed


def test_resuming_a_missing_run_is_an_error(train, tmp_path):
    assert "no unfinished run" in train(["resume=last", "name=nothing"], tmp_path, expect=2)
    assert "no config.yaml" in train([f"resume={tmp_path}"], tmp_path, expect=2)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_it(train, shapes, tmp_path):
    printed = train([*TINY, shapes, "model.lr=1e30", "schedule.warmup=null"], tmp_path, expect=1)
    assert "the loss is not finite at step" in printed
    assert "loss_cls = " in printed
    assert "images [" in printed
    run = only_run(tmp_path)
    (batch,) = run.glob("nonfinite_step*.pt")
    assert torch.load(batch, weights_only=True)["images"].dtype == torch.uint8
    for file in (run / "checkpoints").glob("step_*.ckpt"):
        weights = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


def test_a_part_of_the_validation_images_is_not_reported_as_the_test(train, shapes, tmp_path):
    overrides = [o for o in TINY if not o.startswith("test=")]
    printed = train([*overrides, shapes, "trainer.max_steps=4", "trainer.limit_val_batches=1"], tmp_path)
    assert "test is the validation" not in printed
    results = json.loads((only_run(tmp_path) / "finished.json").read_text())
    objects = [int(line.split()[-1]) for line in printed.splitlines() if line.split()[:1] == ["disc"]]
    assert objects[-1] > objects[0]
    assert results["val"].keys() == results["test"].keys()
