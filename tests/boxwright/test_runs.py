"""Scaling of a schedule to the batch size, and which settings may change when a run is resumed."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from boxwright.config import check, paths
from boxwright.config.compatible import refuse_uneven_batch
from boxwright.config.errors import ConfigError
from boxwright.config.paths import refuse_missing_paths
from boxwright.runs import names, resume
from boxwright.runs.folder import Run, _remember_command, failure_reason, keep_failure, leave_no_trace, resolved
from boxwright.runs.resume import finished_results, same_config, with_overrides
from boxwright.runs.scaling import scaled


def config(**changes) -> DictConfig:
    cfg = OmegaConf.create(
        {
            "scale_schedule": True,
            "seed": 0,
            "data": {"batch_size": 16, "resize": 800, "num_workers": 2, "augmentations": {"a": {"p": 0.5}}},
            "optimizer": {"_target_": "sgd", "momentum": 0.9},
            "schedule": {"_target_": "multistep", "milestones": [60000, 80000, 0.5], "warmup_steps": 500},
            "model": {"_target_": "fcos", "lr": 0.01, "optimizer": "${optimizer}", "schedule": "${schedule}"},
            "trainer": {"max_steps": 90000, "max_epochs": -1, "val_check_interval": 7500, "precision": None},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return resolved(cfg)


def test_eight_images_a_step_take_half_the_rate_and_twice_the_steps():
    cfg = scaled(config(data__batch_size=8))
    assert cfg.model.lr == pytest.approx(0.005)
    assert (cfg.trainer.max_steps, cfg.trainer.val_check_interval) == (180000, 15000)
    for schedule in (cfg.schedule, cfg.model.schedule):
        assert schedule.warmup_steps == 1000
        assert schedule.milestones == [120000, 160000, 0.5]  # a fraction of the run stays a fraction


@pytest.mark.parametrize(("at", "expected"), [(500, 1000), (0.5, 0.5), (None, None)])
@pytest.mark.parametrize(("callback", "key"), [("back_to_best", "at"), ("freezing", "until_step")])
def test_the_step_of_a_callback_is_scaled_but_not_a_fraction(callback, key, at, expected):
    cfg = scaled(config(data__batch_size=8, callbacks={callback: {key: at}}))
    assert cfg.callbacks[callback][key] == expected


def test_sixty_four_images_a_step_take_four_times_the_rate():
    cfg = scaled(config(data__batch_size=64))
    assert cfg.model.lr == pytest.approx(0.04)
    assert (cfg.trainer.max_steps, cfg.schedule.warmup_steps) == (22500, 125)


def test_unset_lengths_are_not_scaled():
    cfg = scaled(config(data__batch_size=4, trainer__max_steps=-1, trainer__val_check_interval=None))
    assert (cfg.trainer.max_steps, cfg.trainer.val_check_interval) == (-1, None)


def test_sixteen_images_or_scale_schedule_false_change_nothing():
    assert scaled(config()) == config()
    assert scaled(config(data__batch_size=2, scale_schedule=False)) == config(data__batch_size=2, scale_schedule=False)


def resumed(override: str, **changes) -> DictConfig:
    return with_overrides(config(), config(**changes), ["resume=last", override])


def test_a_harmless_difference_takes_effect_on_resume():
    assert resumed("trainer.max_steps=100000", trainer__max_steps=100000).trainer.max_steps == 100000
    milestones = resumed("schedule.milestones=[7]", schedule__milestones=[7])
    assert milestones.model.schedule.milestones == [7]


def test_a_setting_of_a_callback_that_the_runs_version_did_not_have_brings_all_of_it(monkeypatch):
    node = {"_target_": "Freezing", "parts": ["backbone"], "until_step": None}
    monkeypatch.setattr(resume, "reference", lambda: config(callbacks={"freezing": {**node, "parts": []}}))
    cfg = config(callbacks={"freezing": node})
    stored = with_overrides(config(), cfg, ["resume=last", "callbacks.freezing.parts=[backbone]"])
    assert stored.callbacks.freezing == node


@pytest.mark.parametrize(
    ("override", "changes", "says"),
    [
        ("data.resize=400", {"data__resize": 400}, "data.resize: 800 in the run to resume, 400 on the command line"),
        ("data.augmentations=null", {"data__augmentations": None}, "changes the data stream"),
        ("seed=1", {"seed": 1}, "changes the data stream"),
        ("model.lr=0.1", {"model__lr": 0.1}, "would not change"),
        ("optimizer.momentum=0", {"optimizer__momentum": 0}, "would not change"),
        ("schedule=cosine", {"schedule___target_": "cosine"}, "the run to resume has multistep"),
        ("init_from=a.ckpt", {"init_from": "a.ckpt"}, "a resumed run continues from its own last checkpoint"),
        (
            "init_classes={a: b}",
            {"init_classes": {"a": "b"}},
            "a resumed run continues from its own last checkpoint",
        ),
        ("trainer.max_stepz=1", {}, "no such key"),
    ],
)
def test_a_change_that_could_not_take_full_effect_is_refused_on_resume(override, changes, says):
    with pytest.raises(ConfigError, match=says):
        resumed(override, **changes)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("trainer.max_steps", 0, "expected 1 or more, or -1"),
        ("trainer.max_steps", "many", "expected an integer"),
        ("schedule.warmup_steps", None, "expected an integer"),
        ("schedule.milestones", 7, "expected a list"),
    ],
)
def test_a_value_that_a_new_run_would_refuse_is_refused_on_resume(key, value, says, monkeypatch):
    monkeypatch.setattr(check, "origin", lambda key: "here")
    with pytest.raises(ConfigError, match=rf"{key}={value!r} \(here\): {says}"):
        resumed(f"{key}={value}", **{key.replace(".", "__"): value})


def test_a_callback_removed_on_resume_is_gone():
    stored, chosen = (config(callbacks={"pictures": {"keep": 3}, "log": {}}) for _ in range(2))
    del chosen.callbacks.pictures
    assert list(with_overrides(stored, chosen, ["~callbacks.pictures"]).callbacks) == ["log"]


def test_the_same_command_finds_its_run_again_with_the_precision_that_was_chosen(tmp_path):
    stored = config(trainer__precision="32-true")
    assert same_config(stored, config(), tmp_path).trainer.precision == "32-true"
    with pytest.raises(ConfigError, match=r"model.lr: 0.01 there, 0.02 now.*another name"):
        same_config(stored, config(model__lr=0.02), tmp_path)


def test_a_run_of_an_earlier_version_continues_without_a_newer_key(tmp_path, monkeypatch):
    stored, now = config(), config()
    with open_dict(now):
        now.compile = False
    monkeypatch.setattr(resume, "reference", lambda: now)
    assert same_config(stored, now, tmp_path) == stored
    wanted = OmegaConf.merge(now, {"compile": True})
    with pytest.raises(ConfigError, match=r"compile: None there, True now.*another name"):
        same_config(stored, wanted, tmp_path)
    assert with_overrides(config(), wanted, ["compile=true"]).compile is True


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [({}, "trainer.max_steps"), ({"trainer__max_steps": -1, "trainer__max_epochs": 3}, "trainer.max_epochs")],
)
def test_a_finished_run_continues_only_when_it_is_made_longer(changes, remedy, tmp_path):
    file = tmp_path / "finished.json"
    file.write_text(json.dumps({"step": 90000, "epoch": 3}))
    with pytest.raises(ConfigError, match=f"a larger {remedy}"):
        finished_results(file, config(**changes), "last")
    longer = {"trainer__max_steps": 90001} if not changes else {**changes, "trainer__max_epochs": 4}
    assert finished_results(file, config(**longer), "last") is None
    assert finished_results(file, config(**longer), None) == {"step": 90000, "epoch": 3}


def test_a_refused_run_leaves_no_folder_but_never_removes_what_lies_there(tmp_path):
    for name, content, stays in (("empty", "", False), ("written", "a line", True)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "log.txt").write_text(content)
        leave_no_trace(folder)
        assert folder.exists() == stays
    other = tmp_path / "other"
    other.mkdir()
    for name in ("log.txt", "config.yaml"):
        (other / name).touch()
    leave_no_trace(other)
    assert len(list(other.iterdir())) == 2


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("error", [ValueError("weights=x: no such file"), KeyboardInterrupt()])
def test_a_new_run_that_fails_before_it_trains_leaves_no_folder(tmp_path, monkeypatch, begun, is_new, error):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "t" / "now"
    folder.mkdir(parents=True)
    for name in ("log.txt", "config.yaml", "wandb_id"):
        (folder / name).touch()
    if begun:
        (folder / "checkpoints").mkdir()
    run = Run(folder, config(), None, None, is_new)
    with pytest.raises(type(error)), run:
        raise error
    assert folder.exists() == folder.parent.exists() == Path("runs").exists() == (begun or not is_new)
    told = isinstance(error, ValueError) and folder.exists()
    assert (folder / "failed.json").exists() == told


def test_last_is_the_newest_unfinished_run_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a", "b", "c", "d")):
        folder = Path("runs", "t", name)
        (folder if name == "d" else folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        os.utime(folder / "config.yaml", (i, i))
    Path("runs/t/c/finished.json").touch()
    assert names.run_folder("t", "last", "now") == "runs/t/b"
    Path("runs/t/b/checkpoints/last.ckpt").touch()
    for given, meant in (("runs/t/a/checkpoints/last.ckpt", "runs/t/a"), ("elsewhere", "runs/t/b")):
        with pytest.raises(ConfigError, match=rf"is not a run's folder: it has no config\.yaml; .* resume={meant}$"):
            names.run_folder("t", given, "now")
    with pytest.raises(
        ConfigError, match=r"no unfinished run in .*; the newest that is not finished is resume=runs/t/b$"
    ):
        names.run_folder("other", "last", "now")
    for name in "ab":
        Path("runs/t", name, "finished.json").touch()
    with pytest.raises(ConfigError, match=r"no unfinished run in .* \(3 finished\)"):
        names.run_folder("t", "last", "now")


def test_ranks_of_a_scheduler_agree_on_the_folder_by_the_jobs_number(monkeypatch):
    assert names.run_folder("t", None, "now") == "runs/t/now"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert names.run_folder("t", None, "now") == "runs/t/job-17"


def test_a_batch_not_divisible_by_the_devices_is_refused_with_the_nearest_divisible_sizes():
    cfg = OmegaConf.create(
        {"data": {"batch_size": 15}, "trainer": {"devices": 2, "num_nodes": 1, "accumulate_grad_batches": 2}}
    )
    with pytest.raises(ConfigError, match=r"data\.batch_size=15.*= 4; the nearest that is: 12 or 16"):
        refuse_uneven_batch(cfg)
    cfg.data.batch_size = 16
    refuse_uneven_batch(cfg)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "data.root=dta/coco",
            r"data\.root=dta/coco \(here\): \S+/dta does not exist; nearest is data: give data\.root=data/coco$",
        ),
        ("data.root=dta/voc", r"\S+/dta does not exist; nearest is data; give data\.root=FOLDER, that of a data set"),
        ("data.root=x.json", r"\S+/x\.json is a file, where .*; give data\.root=\. data\.annotations=x\.json$"),
        ("data.root=x.zip", r"\S+/x\.zip is a file, where .*; unpack it, or give data\.root=\.$"),
        (
            "init_from=last.ckpt",
            r"init_from=last\.ckpt \(here\): \S+/last\.ckpt does not exist; the newest of the runs here is "
            r"init_from=runs/b/1/checkpoints/best\.ckpt, or a published one by its name \(docs/zoo\.md\), or hf://USER/REPO$",
        ),
        (
            "model.backbone.weights=data/r50.pth",
            r"weights=data/r50\.pth \(here\): \S+/data/r50\.pth does not exist; give model\.backbone\.weights=",
        ),
    ],
)
def test_a_missing_path_is_refused_before_anything_is_imported(monkeypatch, tmp_path, line, says):
    (tmp_path / "data" / "coco").mkdir(parents=True)
    for name in ("x.json", "x.zip"):
        (tmp_path / name).touch()
    for seconds, name in enumerate(("a", "b")):
        best = tmp_path / "runs" / name / "1" / "checkpoints" / "best.ckpt"
        best.parent.mkdir(parents=True)
        best.touch()
        os.utime(best, (seconds, seconds))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "origin", lambda key: "here")
    cfg = OmegaConf.create(
        {"data": {"_target_": "datamodules.coco.CocoDataModule", "root": "data/coco"}, "init_from": None}
        | {"model": {"backbone": {"weights": "imagenet"}}}
    )
    refuse_missing_paths(cfg)
    key, _, value = line.partition("=")
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ConfigError, match=says):
        refuse_missing_paths(cfg)


def test_a_generated_folder_and_weights_that_are_replaced_may_be_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.ckpt").touch()
    cfg = OmegaConf.create(
        {"data": {"_target_": "datamodules.shapes.ShapesDataModule", "root": "shapes"}, "init_from": "best.ckpt"}
        | {"model": {"backbone": {"weights": "gone.pth"}}}
    )
    refuse_missing_paths(cfg)


def test_a_folder_keeps_the_overrides_of_every_command_and_the_choices_of_the_first(tmp_path):
    config = OmegaConf.create({"model": {"_target_": "lit_modules.retinanet.RetinaNetModule"}})
    file = tmp_path / "overrides.json"
    config = OmegaConf.create({"model": {"_target_": "lit_modules.retinanet.RetinaNetModule"}})

    def command(*overrides: str, resumed: bool, model: str) -> None:
        hydra = {
            "overrides": {"task": list(overrides)},
            "runtime": {"choices": {"model": model, "hydra/launcher": "basic"}},
        }
        _remember_command(tmp_path, config, OmegaConf.create(hydra), resumed)

    command("model=retinanet", "data.resize=400", resumed=False, model="retinanet")
    command("model=retinanet", "data.resize=400", resumed=False, model="retinanet")
    command("resume=last", "trainer.max_steps=9", resumed=True, model="fcos")  # the default model, not chosen
    assert json.loads(file.read_text()) == {
        "overrides": ["model=retinanet", "data.resize=400", "trainer.max_steps=9"],
        "choices": {"model": "retinanet"},
    }
    file.write_text(json.dumps({"overrides": ["model.low_quality=false"], "choices": {"model": "retinanet"}}))
    command("resume=last", resumed=True, model="fcos")  # a run that an earlier version started
    assert json.loads(file.read_text())["overrides"] == ["model.loss.allow_low_quality=false"]


def test_the_first_reason_of_a_failure_is_kept_and_users_mistakes_need_no_class(tmp_path):
    assert failure_reason(ConfigError("a is wrong")) == "a is wrong"
    assert failure_reason(KeyError("a")) == "KeyError: 'a'"
    assert keep_failure(tmp_path, "the first") == "the first"
    assert keep_failure(tmp_path, "another rank's") == "the first"
