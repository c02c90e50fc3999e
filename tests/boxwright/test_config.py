"""What is wrong with a command line or a config is said at once, by name, with what would be right."""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from boxwright.config import files
from boxwright.config.check import check
from boxwright.config.command_line import command_line_problems, with_quotes
from boxwright.config.errors import ConfigError
from boxwright.config.resolvers import register_resolvers

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    register_resolvers()
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def problems_of(*overrides: str, config_name: str = "train", needed: tuple[str, ...] = ("data.root=x",)) -> str:
    """What the check says of a composed config, as inside `hydra.main`; empty when it passes."""
    with initialize_config_dir(str(files.CONF), version_base="1.3"):
        cfg = compose(config_name, [*needed, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        cfg = copy.deepcopy(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            check(cfg)
        except ConfigError as error:
            return str(error)
    return ""


# The composed config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+data.resiez=3", "data.resiez (): no such setting; nearest is data.resize"),
        ("++model.lrr=3", "model.lrr (): no such setting; nearest is model.lr"),
        ("+modle.lr=3", "modle (): no such setting; nearest is model"),
        ("+resize=3", "resize (): no such setting; nearest is data.resize"),
        ("data.resize=[3]", "data.resize=[3] (): expected an integer"),
        ("data.resize=8.5", "data.resize=8.5 (): expected an integer"),
        ("data.resize=true", "data.resize=True (): expected an integer"),
        ("data.resize=null", "data.resize=None (): expected an integer"),
        ("data.num_classes=x", "data.num_classes='x' (): expected an integer"),
        ("data.flip=often", "data.flip='often' (): expected a number"),
        ("channels_last=1", "channels_last=1 (): expected true or false"),
        ("data.multi_scale=1", "data.multi_scale=1 (): expected a list, each a number or null"),
        ("data.augmentations=[a]", "data.augmentations=['a'] (): expected a mapping of named nodes, or null"),
        ("+data.augmentations.a._target_=torch.A", "data.augmentations.a={'_target_': 'torch.A'} ():"),
        ("model.loss.center_sampling=x", "model.loss.center_sampling='x' (): expected a number or null"),
        (
            "model.loss.box_loss=gio",
            "model.loss.box_loss='gio' (): expected iou or linear_iou or giou; nearest is giou",
        ),
        ("data.rule=squar", "data.rule='squar' (): expected short_side or square; nearest is square"),
        ("schedule.warmup=liner", "expected linear or constant or null; nearest is linear"),
        ("trainer.precision=bf16-true", "expected 32-true or bf16-mixed or 16-mixed or null"),
        ("trainer.max_time=900", "trainer.max_time=900 (): expected a text or null"),
        ("data.root=${nothing}", "data.root=${nothing} (): Interpolation key 'nothing' not found"),
        ("callbacks.averaging=null", "callbacks.averaging=None (): expected a mapping with _target_, decay"),
        ("model._target_=torch.nn.Linear", "model._target_='torch.nn.Linear' (): expected lit_modules.fcos."),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0 (): expected 1 or more"),
        ("trainer.num_nodes=0", "trainer.num_nodes=0 (): expected 1 or more"),
        ("trainer.devices=0", "trainer.devices=0 (): expected 1 or more, -1 or auto for all there are, or a list of"),
        ("trainer.devices=[]", "trainer.devices=[] (): expected 1 or more"),
        ("trainer.devices=all", "trainer.devices='all' (): expected 1 or more"),
        ("trainer.max_steps=0", "trainer.max_steps=0 (): expected 1 or more, or -1 to train until trainer.max_epochs"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 (): expected 1 or more, or -1 to train until trainer.max_steps"),
        ("trainer.limit_train_batches=0", "limit_train_batches=0 (): expected 1 or more batches, or a fraction"),
        ("trainer.limit_train_batches=-1", "limit_train_batches=-1 (): expected 1 or more batches, or a fraction"),
        (
            "trainer.limit_val_batches=0.0",
            "limit_val_batches=0.0 (): expected 1 or more batches, or a fraction of them",
        ),
        (
            "trainer.limit_val_batches=1.5",
            "limit_val_batches=1.5 (): expected 1 or more batches, or a fraction of them",
        ),
        ("trainer.limit_test_batches=0", "up to 1.0; test=false leaves the test out"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0 (): expected 1 or more optimizer steps"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0 (): expected 1 or more"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1 (): expected 0 or more, or null"),
        ("trainer.max_time=abc", "trainer.max_time='abc' (): expected days:hours:minutes:seconds"),
        ("seed=-1", "seed=-1 (): expected 0 to 4294967295"),
        ("seed=4294967296", "seed=4294967296 (): expected 0 to 4294967295"),
        ("name=", "name='' (): expected the name of a folder below runs/"),
        ("name=../x", "name='../x' (): expected the name of a folder below runs/"),
        ("name=/x", "name='/x' (): expected the name of a folder below runs/"),
        ("data.train_split=2017", "data.train_split=2017 (): expected a text: \"data.train_split='2017'\""),
    ],
)
def test_a_mistake_is_named_with_its_origin_and_what_was_expected(override: str, says: str) -> None:
    assert says.replace("()", f"(command line, {override})") in problems_of(override)


@pytest.mark.parametrize(
    "override",
    [
        "model.lr=1",
        "model.loss.center_sampling=2",
        "model.loss.center_sampling=null",
        "model.head_norm=null",
        "data.multi_scale=[0.8,1]",
        "data.classes=[cat,dog]",
        "schedule.milestones=[0.5,8000]",
        "schedule.warmup=null",
        "trainer.devices=8",
        "trainer.devices=[0,1]",
        "trainer.val_check_interval=null",
        "trainer.max_time='00:00:15:00'",
        "trainer.gradient_clip_val=1",
        "model.lr=${optimizer.weight_decay}",
        "model.backbone.weights=weights.pth",
        "+data.augmentations.blur={_target_:albumentations.Blur,p:0.1}",
        "~callbacks.averaging",
        "callbacks.checkpoints.monitor=val/loss callbacks.checkpoints.mode=min",
        "callbacks.checkpoints.monitor=val/AP_class/anything",
        "data=voc callbacks.checkpoints.monitor=val/mAP_voc07",
        "data=voc callbacks.checkpoints.monitor=val/AP_class/sheep",
        "resume=last",
        "trainer.devices=-1 trainer.max_steps=-1 trainer.max_epochs=1",
        "trainer.devices=auto trainer.limit_val_batches=1 trainer.limit_train_batches=0.5",
        "trainer.devices='0,1' seed=4294967295 trainer.gradient_clip_val=0",
        "name=a/b_1.2",
        "model=classifier data=imagefolder",
        "model=classifier data=imagefolder callbacks.checkpoints.monitor=val/top5",
    ],
)
def test_what_is_legal_passes(override: str) -> None:
    assert problems_of(*override.split(" ")) == ""


def test_a_run_without_an_end_is_refused() -> None:
    assert "trainer.max_steps=-1 and trainer.max_epochs=-1: the schedule follows" in problems_of("trainer.max_steps=-1")


def test_all_mistakes_are_listed_at_once() -> None:
    said = problems_of("model.lr=x", "data.flip=x", "+seeed=3").splitlines()
    assert [line.split("=")[0].split(" (")[0] for line in said[1:]] == [
        "  - model.lr",
        "  - data.flip",
        "  - seeed",
    ]


def test_a_missing_value_is_asked_for_with_the_words_of_its_file() -> None:
    assert "data.root is missing; give data.root=... (folder that" in problems_of(needed=())


@pytest.mark.parametrize(
    ("data", "monitor", "says"),
    [
        (
            "imagefolder model=classifier",
            "val/AP",
            "no metric of this data set; there are val/loss, val/top1, val/top5, val/loss_*",
        ),
        (
            "coco",
            "val/ap",
            "no metric of this data set; nearest is val/AP; there are val/loss, val/AP, val/AP50",
        ),
        ("coco", "val/mAP_voc", "no metric of this data set"),
        (
            "voc",
            "val/AP_class/sheeep",
            "no metric of this data set; nearest is val/AP_class/sheep; there are",
        ),
        (
            "coco",
            "val/loss",
            "mode='max' (conf/callbacks/default.yaml): expected min, where val/loss is best",
        ),
    ],
)
def test_a_monitor_that_no_validation_will_produce_is_refused(data: str, monitor: str, says: str) -> None:
    assert says in problems_of(*f"data={data}".split(" "), f"callbacks.checkpoints.monitor={monitor}")


def test_boxes_and_classes_of_whole_images_are_not_mixed() -> None:
    assert (
        "data=imagefolder has a class for each image and no boxes: give model=classifier, or a data set with boxes"
        in (problems_of("data=imagefolder"))
    )
    assert "model=classifier needs a class for each image: give data=imagefolder" in problems_of("model=classifier")
    found = problems_of("predictions=x.json", "data=imagefolder", config_name="evaluate")
    assert "a results file has boxes, and an image folder has none" in found


def test_a_setting_of_some_data_sets_names_those_that_have_it() -> None:
    (problem,) = command_line_problems("train", ["data=imagefolder", "data.min_box=3"])
    assert "it belongs to data=coco, data=shapes, data=voc" in problem


def test_a_config_without_data_or_callbacks_passes() -> None:
    assert problems_of("checkpoint=best.ckpt", config_name="evaluate", needed=()) == ""
    assert "expected val or test" in problems_of("split=tst", config_name="evaluate", needed=())


# Files


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ to write into."""
    copied = tmp_path / "conf"
    shutil.copytree(files.CONF, copied)
    monkeypatch.setattr(files, "CONF", copied)
    return copied


HEAD = "# @package _global_\ndefaults:\n  - override /data: voc\n\n"


def test_a_mistake_in_a_recipe_names_the_recipe(conf: Path) -> None:
    (conf / "experiment/mine.yaml").write_text(f"{HEAD}data:\n  resiez: 3\n  flip: often\n")
    said = problems_of("experiment=mine")
    assert "data.resiez (conf/experiment/mine.yaml): no such setting; nearest is data.resize" in said
    assert "data.flip='often' (conf/experiment/mine.yaml): expected a number" in said


def test_a_mistake_in_the_recipe_that_a_recipe_starts_from_names_that_one(conf: Path) -> None:
    (conf / "experiment/base.yaml").write_text(f"{HEAD}data:\n  resiez: 3\n")
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - base\n  - _self_\n\ndata:\n  flip: 0.1\n"
    )
    assert "data.resiez (conf/experiment/base.yaml)" in problems_of("experiment=mine")


def test_a_recipe_without_its_first_line_is_told_to_have_it(conf: Path) -> None:
    (conf / "experiment/mine.yaml").write_text("data:\n  flip: 0.1\n")
    assert "must begin with the line `# @package _global_`" in problems_of("experiment=mine")


def test_a_group_file_of_ones_own_is_held_against_the_signature(conf: Path) -> None:
    text = (conf / "data/voc.yaml").read_text()
    (conf / "data/mine.yaml").write_text(
        f"{text}use_dificult: true\nother_classes: keep\n".replace("other_classes: raise", "")
    )
    said = problems_of("data=mine")
    assert "data.use_dificult=True (conf/data/mine.yaml): datamodules.voc.VocDataModule has no such parameter" in said
    assert "nearest is use_difficult" in said
    assert "data.other_classes='keep' (conf/data/mine.yaml): expected raise or drop" in said


def test_a_target_that_does_not_exist_is_refused(conf: Path) -> None:
    (conf / "schedule/mine.yaml").write_text("_target_: lit_modules.schedules.cosin\n_partial_: true\n")
    assert "schedule._target_='lit_modules.schedules.cosin' (conf/schedule/mine.yaml)" in problems_of("schedule=mine")


# The command line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "data.resiez=3",
            "data.resiez (command line, data.resiez=3): no such setting; nearest is data.resize",
        ),
        (
            "+data.resiez=3",
            "data.resiez (command line, +data.resiez=3): no such setting; nearest is data.resize",
        ),
        ("resize=3", "nearest is data.resize"),
        ("modle=fcos", "nearest is model"),
        ("data.resiez=3,4 -m", "nearest is data.resize"),
        ("model=fcoz", "model (command line, model=fcoz): no such choice; nearest is fcos; there are classifier, "),
        ("data=voc,cooc -m", "no such choice; nearest is coco; there are coco, imagefolder, shapes, voc"),
        ("model/backbone=resnet51", "nearest is resnet50; there are mobilenet_v2, resnet101, resnet18"),
        ("model/backbon=resnet50", "no such group; nearest is model/backbone"),
        ("experiment=fcos_r51_1x", "no such choice; nearest is fcos_r"),
        ("logger=null", "no such choice; there are all, csv, mlflow, tensorboard, wandb"),
        (
            "schedule.final_factor=0.1",
            "the chosen file has no such setting; it belongs to schedule=cosine",
        ),
        (
            "model/backbone=mobilenet_v2 model.backbone.depth=18",
            "it belongs to model/backbone=resnet101",
        ),
        ("~callbacks.pictuers", "no such setting; nearest is callbacks.pictures"),
        (
            "~callbacks",
            "~callbacks (command line): there is no run without its checkpoints; leave single callbacks out",
        ),
        ("~callbacks.checkpoints", "there is no run without its checkpoints"),
        ("~callbacks.checkpoints.keep", "there is no run without callbacks.checkpoints.keep; give it another value"),
        ("~logger", "~logger (command line): there is no run without logger; give it another value"),
        ("~model", "there is no run without model"),
        ("~trainer.precision", "there is no run without trainer.precision"),
        ("-sc", "expected one of install=SHELL, uninstall=SHELL, query=SHELL, with bash, fish, zsh for SHELL"),
        ("-sc install=cmd", "expected one of install=SHELL"),
    ],
)
def test_a_wrong_word_on_the_command_line_is_named_with_the_nearest(line: str, says: str) -> None:
    problems = command_line_problems("train", line.split())
    assert len(problems) == 1
    assert says in problems[0]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "data=voc data.root=x",
        "-m data.resize=400,500 model/backbone=resnet18,resnet50",
        "-m data=glob(*)",
        "schedule=cosine schedule.final_factor=0.1",
        "+data.augmentations.blur._target_=albumentations.Blur",
        "experiment=shapes_demo data.train_images=10",
        "logger=[csv,wandb] ~callbacks.averaging hydra.run.dir=x",
        "--help",
        "--hydra-help",
        "-sc install=bash",
        "logger=all ~logger.wandb ~callbacks.pictures",
    ],
)
def test_what_is_right_or_another_program_s_matter_passes(line: str) -> None:
    assert command_line_problems("train", line.split()) == []


@pytest.mark.parametrize(
    ("line", "read_as"),
    [
        ("name=2024", "name='2024'"),
        ("name=1.5", "name='1.5'"),
        ("name=true", "name='true'"),
        ("name=it's", r"name='it\'s'"),
        ("name=ä", "name='ä'"),
        ("name=a", "name=a"),
        ("name=null", "name=null"),
        ("name=a,b", "name=a,b"),
        ("seed=2024", "seed=2024"),
    ],
)
def test_a_name_is_a_text_whatever_it_looks_like(line: str, read_as: str) -> None:
    assert with_quotes(line) == read_as


def test_settings_of_data_that_was_not_chosen_say_what_to_choose() -> None:
    (problem,) = command_line_problems("evaluate", ["data.resize=3"])
    assert "it belongs to data=coco, data=imagefolder, data=shapes, data=voc" in problem


@pytest.mark.parametrize(
    ("resume", "says"),
    [("last", "no unfinished run in"), ("elsewhere", "not a run's folder: it has no config.yaml")],
)
def test_a_run_that_cannot_be_resumed_is_told_from_the_start(
    resume: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = command_line_problems("train", [f"resume={resume}"])
    assert problem.startswith(f"resume={resume}: ")
    assert says in problem


# The whole program


def run(*arguments: str, folder: Path, python: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("argument", ["data.resiez=3", "model.lr=fast"])
def test_the_script_answers_a_mistake_before_heavy_imports_without_a_traceback(argument: str, tmp_path: Path) -> None:
    answer = run(argument, folder=tmp_path, python=["-X", "importtime"])
    imported = set(re.findall(r"^import time:[\s\d|]+\| +(\S+)$", answer.stderr, re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "numpy", "pytorch_lightning", "albumentations", "cv2"}
    assert answer.returncode == 2
    assert f"command line, {argument}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_nothing_heavy_is_imported() -> None:
    heavy = "{'torch', 'numpy', 'pytorch_lightning', 'albumentations', 'cv2', 'jaxtyping'}"
    light = "boxwright.config.command_line, boxwright.config.check, boxwright.runs.folder"
    code = f"import {light}, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True)


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        ("data=shapes model.num_classes=6", (6, 5)),
        ("model.num_classes=79", (79, 80)),
        ("data.classes=[a,b] model.num_classes=3", (3, 2)),
        ("model=retinanet data=voc model.num_classes=21", (21, 20)),
        ("model=faster_rcnn data=voc model.num_classes=19", (19, 20)),
        ("model=classifier data=imagefolder model.num_classes=10", (10, 1000)),
    ],
)
def test_a_model_of_other_classes_than_its_data_is_refused(overrides: str, numbers: tuple[int, int]) -> None:
    model, data = numbers
    line = f"model.num_classes={model}"
    said = problems_of(*overrides.split(" "))
    assert f"{line} (command line, {line}), but data.num_classes={data}: " in said


def test_a_model_of_as_many_classes_as_its_data_passes() -> None:
    assert problems_of("data.num_classes=3", "model.num_classes=3") == ""
    assert problems_of("data.classes=[a,b]", "model.num_classes=2") == ""


def test_num_classes_follows_the_list_of_classes() -> None:
    cfg = OmegaConf.create({"classes": None, "n": "${num_classes:${.classes},80}"})
    assert cfg.n == 80
    cfg.classes = ["a", "b"]
    assert cfg.n == 2


@pytest.mark.parametrize("line", ["data.root=[", "data.images=images/{split}"])
def test_a_line_that_hydra_cannot_read_is_named_with_the_quotes_it_needs(line: str) -> None:
    (problem,) = command_line_problems("train", ["model=fcos", line])
    key, _, value = line.partition("=")
    assert problem.startswith(f"{line} (command line): can't be parsed")
    assert problem.endswith(f"\"{key}='{value}'\"")
    assert command_line_problems("train", [f"{key}='{value}'"]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n data:\n", "not valid YAML: mapping values are not allowed here"),
        ("defaults:\n  - override /model/backbone: mobilenetv2\n", "no such choice; nearest is mobilenet_v2"),
        ("defaults:\n  - override model/backbone: resnet18\n", "write override /model/backbone"),
        ("defaults:\n  - override /model/backbone: resnet18\n", None),
    ],
)
def test_mistakes_in_a_recipe_are_told_with_its_file(text, said, tmp_path, monkeypatch):
    conf = shutil.copytree(files.CONF, tmp_path / "conf")
    (conf / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    monkeypatch.setattr(files, "CONF", conf)
    problems = command_line_problems("train", ["experiment=mine"])
    assert len(problems) == (said is not None)
    if said is not None:
        assert problems[0].startswith("conf/experiment/mine.yaml")
        assert said in problems[0]


def test_a_path_that_exists_needs_no_quotes_for_hydra(tmp_path, monkeypatch):
    (tmp_path / "data.resize=64").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_quotes("checkpoint=data.resize=64") == "checkpoint='data.resize=64'"
    assert with_quotes("checkpoint=data.resize=65") == "checkpoint=data.resize=65"
    assert with_quotes("data.resize=64") == "data.resize=64"
