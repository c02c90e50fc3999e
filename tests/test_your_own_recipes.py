"""Recipes and primary configs in a folder of the user's: where they are found, and what is said of mistakes in them."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from checked import checked
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from running import TINY, assert_equal_bits, curves, only_run, state
from tiers import slow_but

from boxwright.config import defaults, files
from boxwright.config.command_line import command_line_problems
from boxwright.config.errors import listed
from boxwright.config.places import in_order, parsed
from boxwright.config.resolvers import register_resolvers

RECIPE = "# @package _global_\n"
FILES = {
    "experiment/small.yaml": f"{RECIPE}defaults:\n  - override /logger: [csv, tensorboard]\n\nseed: 5\n",
    "experiment/deep/two.yaml": f"{RECIPE}defaults:\n  - small\n  - deep/flip\n  - _self_\n\nseed: 6\n",
    "experiment/deep/flip.yaml": f"{RECIPE}data:\n  flip: 0.25\n",
    "experiment/below.yaml": f"{RECIPE}defaults:\n  - /experiment/deep/flip\n  - _self_\n\nseed: 7\n",
    "experiment/several.yaml": f"{RECIPE}defaults:\n  - override /callbacks: [default, stop]\n",
    "experiment/mixed.yaml": f"{RECIPE}defaults:\n  - /parts: wide\n",
    "callbacks/stop.yaml": "stop:\n  _target_: pytorch_lightning.callbacks.Timer\n  duration: null\n",
    "parts/wide.yaml": f"{RECIPE}data:\n  vertical_flip: 0.5\n",
    "model/quick.yaml": "defaults:\n  - fcos\n  - _self_\n\nlr: 0.5\n",
    "primary.yaml": "defaults:\n  - train\n  - override model: retinanet\n  - override logger: [csv, tensorboard]\n"
    "  - _self_\n\nseed: 8\n",
}


def write(folder: Path, given: dict[str, str]) -> None:
    for name, text in given.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder `mine` with `FILES`, in the working folder."""
    register_resolvers()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", FILES)
    yield tmp_path / "mine"
    files.use_folders("train", [])
    HydraConfig.instance().cfg = None
    defaults._composed.cache_clear()  # by names, and the files of the same name differ


def problems(*argv: str, script: str = "train") -> list[str]:
    return command_line_problems(script, in_order(argv))


def composed(*argv: str) -> tuple[DictConfig, str]:
    """The config of `python train.py ARGV`, and what is wrong with it; empty where it is refused before it is made."""
    words = in_order(argv)
    if found := command_line_problems("train", words):
        return OmegaConf.create(), listed(found)
    given = parsed(words)
    with initialize_config_dir(str(files.folders()[0].absolute()), version_base="1.3"):
        return checked(compose(given.config_name or "train", given.overrides, return_hydra_config=True))


FOUND = {
    "--config-dir=DIR": (["--config-dir=mine", "experiment=small"], {"seed": 5}),
    "--config-dir DIR": (["--config-dir", "mine", "experiment=small"], {"seed": 5}),
    "-cd DIR, between overrides": (["experiment=small", "-cd", "mine", "data.flip=0.5"], {"seed": 5}),
    "-cd=DIR": (["experiment=small", "-cd=mine"], {"seed": 5}),
    "a part of the option": (["--config-d", "mine", "experiment=small"], {"seed": 5}),
    "a base, and one below a folder": (["-cd", "mine", "experiment=deep/two"], {"seed": 6, "data.flip": 0.25}),
    "an absolute base": (["-cd", "mine", "experiment=below"], {"seed": 7, "data.flip": 0.25}),
    "a list of files": (["-cd", "mine", "experiment=several"], {"callbacks.stop.duration": None}),
    "a group of the user's": (["-cd", "mine", "experiment=mixed"], {"data.vertical_flip": 0.5}),
    "a file of a group": (["-cd", "mine", "model=quick"], {"model.lr": 0.5}),
    "-cn": (["-cd", "mine", "-cn", "primary"], {"seed": 8, "model.num_convs": 4}),
    "--config-name with an ending": (["--config-dir=mine", "--config-name=primary.yaml"], {"seed": 8}),
    "--config-path": (
        ["--config-path=mine", "--config-name=primary", "experiment=deep/flip"],
        {"seed": 8, "data.flip": 0.25},
    ),
    "-cp alone": (["-cp", "mine", "experiment=small"], {"seed": 5}),
    "hydra.searchpath": (["hydra.searchpath=[file://mine]", "experiment=small"], {"seed": 5}),
    "hydra.searchpath without file://": (["hydra.searchpath=[mine]", "experiment=small"], {"seed": 5}),
    "hydra.searchpath in a primary config": (["-cp", "searching", "-cn", "primary", "experiment=small"], {"seed": 5}),
    "a folder with spaces": (["--config-dir", "it's my own", "experiment=small"], {"seed": 5}),
}


def searching(folder: Path) -> None:
    """More folders: `searching`, whose primary config names `mine`, and a copy of `mine` with spaces in its name."""
    write(folder / "it's my own", FILES)
    text = "hydra:\n  searchpath: [file://mine]\ndefaults:\n  - train\n  - _self_\n"
    write(folder / "searching", {"primary.yaml": text})


@pytest.mark.parametrize(
    "case", slow_but("--config-dir DIR", "--config-path", "-cn", "hydra.searchpath", "a list of files", of=FOUND.keys())
)
def test_it_is_found_and_its_settings_are_legal(case: str, mine: Path) -> None:
    searching(mine.parent)
    words, expected = FOUND[case]
    config, said = composed(*words, "data=shapes")
    assert said == ""
    for key, value in expected.items():
        assert OmegaConf.select(config, key) == value, key


WHOLE = ("-cd DIR, between overrides", "hydra.searchpath in a primary config")


@pytest.mark.parametrize("case", slow_but(WHOLE[1], of=WHOLE))
def test_the_whole_program_finds_it(case: str, mine: Path, train) -> None:
    """`max_steps=x` ends the command at the check, after all else has been found and was right."""
    searching(mine.parent)
    printed = train([*FOUND[case][0], "data=shapes", "trainer.max_steps=x"], mine.parent, expect=2)
    assert printed.startswith(
        "Invalid config:\n  - trainer.max_steps='x' (command line, trainer.max_steps=x): expected"
    )
    assert printed.count("\n") == 2
    assert not (mine.parent / "runs").exists()


MISTAKES = {
    "a typo": (
        "a",
        {"a": "data:\n  resiez: 3\n"},
        "data.resiez (mine/experiment/a.yaml): no such setting; nearest is ",
    ),
    "a type": ("a", {"a": "model:\n  lr: fast\n"}, "model.lr='fast' (mine/experiment/a.yaml): expected a number"),
    "in the second base": (
        "a",
        {"a": "defaults:\n  - b\n  - c\n", "b": "seed: 1\n", "c": "seed: x\n"},
        "seed='x' (mine/experiment/c.yaml): expected an integer",
    ),
    "in an absolute base": (
        "a",
        {"a": "defaults:\n  - /experiment/b/c\n", "b/c": "seed: x\n"},
        "seed='x' (mine/experiment/b/c.yaml): expected an integer",
    ),
    "what a base has and the recipe replaces": (
        "a",
        {"a": "defaults:\n  - b\n  - _self_\nseed: y\n", "b": "seed: 1\n"},
        "seed='y' (mine/experiment/a.yaml): expected an integer",
    ),
    "below a folder": (
        "b/a",
        {"b/a": "sede: 1\n"},
        "sede (mine/experiment/b/a.yaml): no such setting; nearest is seed",
    ),
    "in a file of a list": (
        "a",
        {"a": "defaults:\n  - override /callbacks: [default, b]\n", "../callbacks/b": "log:\n  evry: 1\n"},
        "callbacks.log.evry=1 (mine/callbacks/b.yaml): lit_modules.callbacks.log.Log has no such parameter",
    ),
    "beside a list of files": (
        "a",
        {"a": "defaults:\n  - override /callbacks: [default, stop]\ncallbacks:\n  stop:\n    durration: 1\n"},
        "callbacks.stop.durration (mine/experiment/a.yaml): no such setting; nearest is callbacks.stop.duration",
    ),
    "in a group of the user's": (
        "a",
        {"a": "defaults:\n  - /parts: b\n", "../parts/b": "data:\n  flipp: 1\n"},
        "data.flipp (mine/parts/b.yaml): no such setting; nearest is data.flip",
    ),
    "in a group that only the recipe chooses": (
        "a",
        {"a": "defaults:\n  - /model/neck: b\n", "../model/neck/b": "width: 3\n"},
        "model.neck (mine/model/neck/b.yaml): no such setting",
    ),
    "a base that starts from its recipe": (
        "a",
        {"a": "defaults:\n  - b\n", "b": "defaults:\n  - a\n"},
        "mine/experiment/b.yaml, defaults: experiment/a starts from this file itself",
    ),
    "an order, in a file with a space": (
        "'my own'",
        {"my own": "defaults:\n  - override /model: fcos\n  - small\n"},
        "mine/experiment/my own.yaml: Override 'model : fcos' is defined before",
    ),
    "a misspelt base": (
        "a",
        {"a": "defaults:\n  - smal\n"},
        "mine/experiment/a.yaml, defaults, smal: there is no experiment/smal.yaml in conf, mine; nearest is small",
    ),
    "a misspelt base of a base": (
        "a",
        {"a": "defaults:\n  - b\n", "b": "defaults:\n  - deep/flipp\n"},
        "mine/experiment/b.yaml, defaults, deep/flipp: there is no experiment/deep/flipp.yaml in conf, mine; "
        "nearest is deep/flip",
    ),
    "a base as from the root": (
        "deep/a",
        {"deep/a": "defaults:\n  - experiment/small\n"},
        "mine/experiment/deep/a.yaml, defaults, experiment/small: there is no experiment/experiment/small.yaml in "
        "conf, mine; write /experiment/small",
    ),
    "a group that does not exist": (
        "a",
        {"a": "defaults:\n  - override /modle: fcos\n"},
        "mine/experiment/a.yaml, defaults, override /modle: there is no group modle in conf, mine; nearest is model",
    ),
    "a choice that does not exist": (
        "a",
        {"a": "defaults:\n  - override /logger: [csv, tensorbord]\n"},
        "mine/experiment/a.yaml, defaults, override /logger: tensorbord: no such choice; nearest is tensorboard",
    ),
    "no choice": (
        "a",
        {"a": "defaults:\n  - override /model: null\n"},
        "mine/experiment/a.yaml, defaults, override /model: null: no such choice; there are ",
    ),
    "a group without override": (
        "a",
        {"a": "defaults:\n  - /model: retinanet\n"},
        "mine/experiment/a.yaml, defaults, /model: write override /model: retinanet",
    ),
    "the same file without override": (
        "a",
        {"a": "defaults:\n  - /model: fcos\n"},
        "mine/experiment/a.yaml, defaults, /model: write override /model: fcos",
    ),
    "a group without its stroke": (
        "a",
        {"a": "defaults:\n  - model: fcos\n"},
        "mine/experiment/a.yaml, defaults, model: write override /model",
    ),
    "an override before a base": (
        "a",
        {"a": "defaults:\n  - override /model: fcos\n  - small\n"},
        "mine/experiment/a.yaml: Override 'model : fcos' is defined before",
    ),
    "a mapping of defaults": (
        "a",
        {"a": "defaults:\n  override /model: fcos\n"},
        "mine/experiment/a.yaml, defaults: expected a list",
    ),
    "two groups in one entry": (
        "a",
        {"a": "defaults:\n  - override /model: fcos\n    override /data: voc\n"},
        "mine/experiment/a.yaml, defaults, {'override /model': 'fcos', 'override /data': 'voc'}: expected a file's ",
    ),
    "no choice behind a group": (
        "a",
        {"a": "defaults:\n  - override /model\n"},
        "mine/experiment/a.yaml, defaults, override /model: expected `override /model: CHOICE`",
    ),
    "no YAML": (
        "a",
        {"a": "seed: 1\n  data: 3\n"},
        "mine/experiment/a.yaml, line 3, column 7: not valid YAML: mapping",
    ),
    "a key twice": (
        "a",
        {"a": "seed: 1\nseed: 2\n"},
        "mine/experiment/a.yaml, line 3, column 1: not valid YAML: found dup",
    ),
    "a value for a group": (
        "a",
        {"a": "model: 3\n"},
        "model=3 (mine/experiment/a.yaml): expected a mapping with a _tar",
    ),
    "a class that is no name": (
        "a",
        {"a": "data:\n  _target_: 3\n"},
        "data._target_=3 (mine/experiment/a.yaml): expected",
    ),
    "a name that can't be made": (
        "a",
        {"a": "name: ${nothing}\n"},
        "name=${nothing} (mine/experiment/a.yaml): Interpolation key 'nothing' not found",
    ),
    "a recipe with the name of one of conf/": (
        "overfit",
        {"overfit": "seed: 1\n"},
        "mine/experiment/overfit.yaml is not read, since conf/experiment/overfit.yaml comes first: give it another ",
    ),
}


def with_mistake(case: str, mine: Path) -> tuple[list[str], str]:
    """Writes the files of a case; returns the command line and what it says."""
    recipe, given, says = MISTAKES[case]
    for name, text in given.items():
        is_recipe = not name.startswith("../") or name.startswith("../parts")
        write(mine / "experiment", {f"{name}.yaml": f"{RECIPE}{text}" if is_recipe else text})
    return ["--config-dir=mine", f"experiment={recipe}", "data=shapes"], f"Invalid config:\n  - {says}"


@pytest.mark.parametrize(
    "case",
    slow_but("a typo", "in the second base", "a class that is no name", "beside a list of files", of=MISTAKES.keys()),
)
def test_a_mistake_is_blamed_on_the_users_file(case: str, mine: Path) -> None:
    words, says = with_mistake(case, mine)
    _, said = composed(*words)
    assert said.startswith(says)
    assert said.count("\n") == 1


@pytest.mark.parametrize("case", slow_but("in the second base", of=["in the second base", "a name that can't be made"]))
def test_the_whole_program_ends_with_it_and_leaves_no_folder(case: str, mine: Path, train) -> None:
    words, says = with_mistake(case, mine)
    printed = train(words, mine.parent, expect=2)
    assert printed.startswith(says)
    assert printed.count("\n") == 2
    assert not (mine.parent / "runs").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a", "experiment (mine/experiment/a.yaml)"),
        ("deep/a", "experiment (mine/experiment/deep/a.yaml)"),
        ("base", "deep (mine/experiment/deep/a.yaml)"),
    ],
)
def test_a_recipe_without_its_first_line_is_named(name: str, says: str, mine: Path) -> None:
    text = "data:\n  flip: 0.1\n"
    base = f"{RECIPE}defaults:\n  - deep/a\n"
    write(mine / "experiment", {"a.yaml": text, "deep/a.yaml": text, "base.yaml": base})
    _, said = composed("--config-dir=mine", f"experiment={name}", "data=shapes")
    assert f"  - {says}: a recipe must begin with the line `# @package _global_`" in said


def test_a_recipe_in_another_encoding_or_of_another_form_is_named(mine: Path) -> None:
    (mine / "experiment/latin.yaml").write_bytes(f"{RECIPE}# Größe\nseed: 1\n".encode("latin-1"))
    write(mine, {"experiment/list.yaml": "- a\n- b\n"})
    (said,) = problems("-cd", "mine", "experiment=latin")
    assert said.startswith("mine/experiment/latin.yaml: not UTF-8 (")
    (said,) = problems("-cd", "mine", "experiment=list")
    assert said == "mine/experiment/list.yaml: expected settings, each as `key: value`, and not a list"


@pytest.mark.parametrize("option", ["--config-dir=mine", "--config-path=mine"])
def test_a_mistake_in_a_primary_config_is_blamed_on_it(option: str, mine: Path) -> None:
    write(mine, {"wrong.yaml": "defaults:\n  - train\n  - _self_\n\nsede: 1\ndata:\n  flip: often\n"})
    _, said = composed(option, "-cn", "wrong", "data=shapes")
    file = mine / "wrong.yaml" if option.startswith("--config-path") else "mine/wrong.yaml"
    assert f"  - sede ({file}): no such setting; nearest is seed" in said
    assert f"  - data.flip='often' ({file}): expected a number" in said


def test_a_primary_config_of_the_scripts_name_stands_in_for_it(mine: Path) -> None:
    """By `--config-path`, which comes first; its settings are held against those of conf/ all the same."""
    write(mine, {"train.yaml": f"{(files.CONF / 'train.yaml').read_text()}\nsede: 1\n"})
    _, said = composed("--config-path=mine", "data=shapes")
    assert f"sede ({mine / 'train.yaml'}): no such setting; nearest is seed" in said
    (said,) = problems("--config-dir=mine", "data=shapes")
    assert said.startswith("mine/train.yaml is not read, since conf/train.yaml comes first: give it another name, and ")


WORDS = {
    "no such folder": (["--config-dir=mnie"], "--config-dir=mnie: {0}/mnie is not a folder; nearest is mine"),
    "nor the one above": (["--config-path=a/b"], "--config-path=a/b: {0}/a is not a folder"),
    "no name": (["--config-dir="], "--config-dir=: expected a folder with model/, data/ or experiment/ in it"),
    "a recipe": (
        ["--config-dir", "mine/experiment/small.yaml"],
        "--config-dir=mine/experiment/small.yaml: {0}/mine/experiment/small.yaml is a file, not a folder; give "
        "--config-dir=mine experiment=small",
    ),
    "a primary config": (
        ["--config-path=mine/primary.yaml"],
        "--config-path=mine/primary.yaml: {0}/mine/primary.yaml is a file, not a folder; give "
        "--config-path={0}/mine --config-name=primary",
    ),
    "two folders": (
        ["--config-dir=mine", "--config-dir=other"],
        "--config-dir=mine --config-dir=other: only the last would count; give one, and further folders by "
        "'hydra.searchpath=[FOLDER,FOLDER]'",
    ),
    "the group's folder": (
        ["--config-dir=mine/experiment", "experiment=small"],
        "experiment (command line, experiment=small): no such choice; small.yaml lies in mine/experiment itself: give "
        "--config-dir=mine; there are ",
    ),
    "a group of recipes": (
        ["--config-dir=mine", "experiment/deep=two"],
        "experiment/deep (command line, experiment/deep=two): recipes have one group: experiment=deep/two",
    ),
    "no such recipe": (
        ["-cd", "mine", "experiment=smal"],
        "experiment (command line, experiment=smal): no such choice; n",
    ),
    "no such primary config": (
        ["--config-dir=mine", "--config-name=primray"],
        "--config-name=primray: there is no primray.yaml in conf, mine; nearest is primary",
    ),
    "no folder to search": (
        ["hydra.searchpath=[file://mnie]"],
        "hydra.searchpath (command line, hydra.searchpath=[file://mnie]): file://mnie: {0}/mnie is not a folder",
    ),
    "no folder to search, in a file": (
        ["-cp=lost", "-cn=primary"],
        "hydra.searchpath ({0}/lost/primary.yaml): file://mnie: {0}/mnie is not a folder",
    ),
    "a group twice, in a primary config": (
        ["-cp=lost", "-cn=twice"],
        "{0}/lost/twice.yaml, defaults, model: write override /model: rpn",
    ),
    "an override": (
        ["-cd", "mine", "experiment=small", "seeed=1"],
        "seeed (command line, seeed=1): no such setting; nea",
    ),
}


@pytest.mark.parametrize("script", ["train", "evaluate"])
@pytest.mark.parametrize("case", WORDS)
def test_a_wrong_place_is_named_with_what_to_type(case: str, script: str, mine: Path) -> None:
    words, says = WORDS[case]
    if script == "evaluate" and ("experiment" in str(words) or "-cn=twice" in words):
        pytest.skip("it has no recipes")
    text = "hydra:\n  searchpath: [file://mnie]\ndefaults:\n  - train\n  - _self_\n"
    twice = "defaults:\n  - train\n  - model: rpn\n  - _self_\n"
    write(mine.parent / "lost", {"primary.yaml": text, "twice.yaml": twice})
    (said,) = problems(*words, script=script)
    assert said.startswith(says.format(mine.parent))


def test_other_files_of_the_folder_may_be_broken(mine: Path) -> None:
    write(mine, {"experiment/broken.yaml": "a: b: c\n", "model/broken.yaml": "- a\n", "data/broken.yaml": "\tx: 1\n"})
    assert problems("-cd", "mine", "experiment=small", "data=shapes") == []
    (said,) = problems("-cd", "mine", "experiment=small", "model.lrr=3")
    assert said.startswith("model.lrr (command line, model.lrr=3): no such setting")


def test_the_options_come_first_however_they_are_given() -> None:
    """Hydra's parser takes overrides in one piece, and the processes of other ranks get more of them at the end."""
    assert in_order(["a=1", "-cd", "b", "-m", "c=2"]) == ["-cd", "b", "-m", "a=1", "c=2"]
    assert in_order(["a=1", "--config-dir=a=1", "-i"]) == ["--config-dir=a=1", "-i", "--info=all", "a=1"]
    assert in_order(["-c", "job", "a=1"]) == ["-c", "job", "a=1"]


def test_the_folder_of_config_path_is_below_the_working_folder_or_beside_the_scripts(mine: Path) -> None:
    assert in_order(["--config-path=mine"])[-1] == f"--config-path={mine}"
    assert in_order(["-cp", "conf"])[-1] == f"--config-path={files.CONF}"
    assert in_order(["-cp", "pkg://x.y"]) == ["-cp", "pkg://x.y"]


def test_the_page_shows_what_can_be_typed(mine: Path) -> None:
    """docs/your_own_recipes.md: its files in their places, its commands, and the settings of its recipe."""
    page = (files.CONF.parent / "docs/your_own_recipes.md").read_text()
    shown = dict(re.findall(r"`mine/([\w./]+\.yaml)`[^\n]*:\n\n```yaml\n(.*?)```", page, re.DOTALL))
    assert shown.keys() == {"experiment/cells.yaml", "primary.yaml"}
    write(mine, {**shown, "experiment/cells/large.yaml": shown["experiment/cells.yaml"]})
    commands = [
        shlex.split(line, comments=True) for line in re.findall(r"^    python train\.py (.*)", page, re.MULTILINE)
    ]
    assert len(commands) == 3
    for words in [*commands, ["--config-dir=mine", "--config-name=primary"]]:
        config, said = composed(*(word for word in words if word != "-m" and "," not in word))
        assert said == ""
        assert problems(*words) == []
        assert config["model"]["_target_"].endswith("RetinaNetModule")
        assert config["data"]["root"] == "/data/cells"


SWEEPS = {
    "--config-dir DIR": (["--config-dir", "mine"], "experiment=small"),
    "-cd=DIR": (["-cd=mine"], "experiment=deep/two"),
    "--config-path and --config-name": (["--config-path=mine", "--config-name=primary"], "experiment=small"),
    "-cp and -cn": (["-cp", "mine", "-cn", "primary"], "experiment=small"),
    "hydra.searchpath": (["hydra.searchpath=[file://mine]"], "experiment=small"),
}


@pytest.mark.parametrize("case", slow_but("-cp and -cn", of=SWEEPS.keys()))
def test_each_job_of_a_sweep_finds_them(case: str, mine: Path, train) -> None:
    """Refused by the last check before a job's own process, so that all else was found and was right."""
    places, recipe = SWEEPS[case]
    words = ["-m", recipe, *places, "data=shapes", "name=s", "trainer.devices=3", "seed=1,2", "data.batch_size=4"]
    printed = train(words, mine.parent, expect=1)
    for job, seed in enumerate((1, 2), start=1):
        assert f"job {job} of 2: seed={seed} failed: data.batch_size=4, the images of one optimizer step" in printed
    assert "Traceback" not in printed
    assert not (mine.parent / "runs").exists()  # as all were refused


@pytest.mark.slow
@pytest.mark.parametrize(("case", "ranks"), [("--config-dir DIR", 1), ("-cp and -cn", 2), ("hydra.searchpath", 1)])
def test_the_processes_of_a_job_and_its_ranks_find_them(case: str, ranks: int, mine: Path, shapes: str, train) -> None:
    places, recipe = SWEEPS[case]
    given = [line for line in TINY if not line.startswith(("logger", "trainer.max_steps", "trainer.val_check"))]
    short = [*given, "model=fcos", shapes, "trainer.max_steps=2", "trainer.val_check_interval=2"]
    train(["-m", recipe, *short, f"trainer.devices={ranks}", *places], mine.parent)
    (finished,) = (mine.parent / "runs/sweeps/t").glob("*/finished.json")
    assert json.loads(finished.read_text())["step"] == 2
    seed = 8 if "primary" in str(places) else 6 if recipe == "experiment=deep/two" else 5
    assert f"seed: {seed}\n" in finished.with_name("config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("places", "again"), [(["--config-dir", "mine"], False), (["-cp", "mine", "-cn", "primary"], True)]
)
def test_a_killed_run_is_resumed(places: list[str], again: bool, mine: Path, shapes: str, train) -> None:
    small = [line for line in TINY if not line.startswith(("logger", "model."))]
    command = ["experiment=deep/two", *small, "model=fcos", "model.backbone.weights=null", "model.num_convs=1",
               "model.backbone.norm=gn", "model.backbone.frozen_stages=0", shapes, *places]  # fmt: skip
    runs = []
    for folder in ("whole", "cut"):
        (mine.parent / folder).mkdir()
        (mine.parent / folder / "mine").symlink_to(mine)
        if folder == "whole":
            train(command, mine.parent / folder)
        else:
            train(command, mine.parent / folder, kill={"at": "batch_end", "batch": 7})
            train([*(command if again else ["name=t"]), "resume=last"], mine.parent / folder)
        runs.append(only_run(mine.parent / folder))
    assert f"seed: {8 if '-cn' in places else 6}" in (runs[1] / "config.yaml").read_text()
    assert curves(runs[1]) == curves(runs[0])
    assert_equal_bits(state(runs[1]), state(runs[0]))
