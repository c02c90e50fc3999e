"""Commands, settings and files named in README, docs, heads of scripts and comments of conf/ exist."""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose

from boxwright.config import command_line, files
from boxwright.config.command_line import command_line_problems
from boxwright.config.files import CONF, keys, loaded
from boxwright.config.resolvers import register_resolvers

SCRIPTS = ("train", "evaluate", "predict", "inspect_data", "benchmark", "push")
GROUPS = ("model", "data", "trainer", "optimizer", "schedule", "callbacks", "logger")
TREE = CONF.parent
TEXTS = [TREE / "README.md", *sorted((TREE / "docs").glob("*.md")), *sorted((TREE / "measurements").glob("*.md"))]
FILES = {"data.yaml"}
MEANT_WRONG = {"data.resiez", "model.center_samplin", "trainer.max_step"}
"""Misspelt on purpose, to show the answer."""


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Composes once for all commands what depends only on group choices."""
    register_resolvers()
    cached = functools.cache(lambda name, overrides: compose(name, list(overrides)))
    monkeypatch.setattr(command_line, "compose", lambda name, overrides, **_: cached(name, tuple(overrides)))
    yield
    files.use_folders("train", [])


def documented() -> dict[str, tuple[str, list[str]]]:
    """Script and arguments of each documented command, by its file and text."""
    found: dict[str, tuple[str, list[str]]] = {}
    for file in [*TEXTS, *sorted(CONF.rglob("*.yaml")), *(TREE / f"{script}.py" for script in SCRIPTS)]:
        text = re.sub(r" *\\\n[# ]*", " ", file.read_text())  # continued lines
        for script, rest in re.findall(rf"(?:python|torchrun) [^`\n]*?({'|'.join(SCRIPTS)})\.py\b([^`|;\n]*)", text):
            words = [word for word in shlex.split(rest, comments=True) if word != "..."]
            found[f"{file.relative_to(TREE)}: {script} {' '.join(words)}"] = (script, words)
    return found


COMMANDS = documented()


def test_there_are_documented_commands() -> None:
    assert len(COMMANDS) > 80
    assert {script for script, _ in COMMANDS.values()} == set(SCRIPTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_names_settings_that_exist(command: str) -> None:
    script, words = COMMANDS[command]
    if any(word.startswith("--config-dir") for word in words):
        pytest.skip("needs a folder of the user; test_your_own_*.py and test_adding_a_detector.py test it")
    if script == "evaluate" and not any(word.startswith("data=") for word in words):
        words = [*words, "data=coco"]  # a checkpoint would give the data set
    # no such run is there, nor a folder to recognise
    words = ["data=coco" if word == "data=auto" else word for word in words if not word.startswith("resume=")]
    assert command_line_problems(script, words) == []


@pytest.mark.parametrize(
    ("words", "nearest"),
    [(["data=coco", "data.batchsize=8"], "data.batch_size"), (["experiment=fcos_r50"], "fcos_r50_1x")],
)
def test_a_misspelt_command_would_be_found(words: list[str], nearest: str) -> None:
    (problem,) = command_line_problems("train", words)
    assert f"nearest is {nearest}" in problem


@functools.cache
def settings() -> frozenset[str]:
    """Dotted keys of all files of conf/, whatever is chosen with them."""
    every: set[str] = set()
    for file in CONF.rglob("*.yaml"):
        group = "".join(f"{part}." for part in file.parent.relative_to(CONF).parts)
        every |= {f"{group}{key}" for key in keys(loaded(file))}
    return frozenset(every)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(rf"`\+?((?:{'|'.join(GROUPS)})\.[a-z0-9_.]*[a-z0-9_])(?:=[^`]*)?`", page.read_text())
    assert {key for key in named if key not in settings()} <= MEANT_WRONG | FILES


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_scripts_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"python ((?:\w+/)?\w+\.py)", page.read_text()):
        assert (TREE / name).exists()


def test_files_that_the_architecture_names_exist() -> None:
    """A file is named with its folder, or after one that was named on the same line."""
    page = (TREE / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|yaml))`", page)
    assert len(named) > 25
    every = {str(file.relative_to(TREE)) for file in TREE.rglob("*.py")}
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in every)] == []
