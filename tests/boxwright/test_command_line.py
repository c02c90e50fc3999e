"""Mistakes in a command line are reported at once, before heavy imports, with what was expected."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from boxwright.config import files
from boxwright.config.command_line import command_line_problems, with_quotes
from boxwright.config.resolvers import register_resolvers

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    register_resolvers()
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def test_a_setting_of_some_data_sets_names_those_that_have_it() -> None:
    (problem,) = command_line_problems("train", ["data=imagefolder", "data.min_box=3"])
    assert "it belongs to data=cityscapes, data=coco, data=coco2014, " in problem


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
        ("data=voc,cooc -m", "no such choice; nearest is coco; there are cityscapes, coco, coco2014, "),
        ("model/backbone=resnet51", "nearest is resnet50; there are mobilenet_v2, mobilenet_v3_large, resnet101"),
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
def test_a_wrong_argument_is_named_with_the_nearest_valid_one(line: str, says: str) -> None:
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
def test_valid_arguments_and_those_of_hydra_pass(line: str) -> None:
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
def test_a_name_is_text_even_if_it_looks_like_a_number(line: str, read_as: str) -> None:
    assert with_quotes(line) == read_as


@pytest.mark.parametrize("line", ["name=", "name=../x", "name=..", "name=${x}", "name=/x", "name='a\"b'"])
def test_a_name_that_is_no_folder_below_runs_is_refused_before_a_folder_is_made(line: str) -> None:
    (problem,) = command_line_problems("train", ["data=shapes", line])
    assert f"(command line, {line}): expected the name of a folder below runs/" in problem


def test_a_setting_of_data_that_is_not_chosen_names_the_choices() -> None:
    (problem,) = command_line_problems("evaluate", ["data.resize=3"])
    assert "it belongs to data=cityscapes, data=coco, " in problem


@pytest.mark.parametrize(
    ("resume", "says"),
    [("last", "no unfinished run in"), ("elsewhere", "not a run's folder: it has no config.yaml")],
)
def test_a_run_that_cannot_be_resumed_is_reported_at_once(
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
def test_mistakes_in_a_recipe_are_reported_with_its_file(text, said, tmp_path, monkeypatch):
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
