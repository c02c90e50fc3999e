"""docs/adding_a_detector.md: its four files, in a folder outside this project, work without edits elsewhere."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from running import assert_equal_bits, curves, last_checkpoint, only_run, state

from boxwright.config import trusted

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_detector.md"
FILES = dict(re.findall(r"`([\w./]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL))
TRUSTED = "trusted_packages=[centernet,centernet_module]"
SMALL = [
    "--config-dir=mine", TRUSTED, "model=centernet", "model/backbone=mobilenet_v2", "data=shapes", "logger=csv",
    "model.backbone.weights=null", "model.backbone.norm=gn", "model.backbone.frozen_stages=0", "model.channels=16",
    "data.image_size=64", "data.resize=64", "data.train_images=16", "data.val_images=4", "data.batch_size=4",
    "data.num_workers=0", "trainer.max_steps=6", "trainer.val_check_interval=3", "callbacks.checkpoints.every_steps=2",
    "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1", "scale_schedule=false",
    "schedule.warmup_steps=3", "test=false", "data.root=shapes", "~callbacks.report",
]  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four files, where the page puts them."""
    monkeypatch.setattr(trusted, "_trusted", set())
    for name, content in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return tmp_path


def test_the_page_has_four_files():
    assert list(FILES) == ["centernet.py", "centernet_module.py", "mine/model/centernet.yaml", "test_centernet.py"]


def test_its_own_tests_pass(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    tests = importlib.import_module("test_centernet")
    names = [name for name in vars(tests) if name.startswith("test_")]
    assert len(names) == 4
    for name in names:
        getattr(tests, name)()
    for name in ("test_centernet", "centernet"):
        del sys.modules[name]


@pytest.mark.slow
def test_it_trains_resumes_bit_for_bit_and_is_scored(own, train):
    where = {"folder": own, "path": own}
    train([*SMALL, "name=whole"], **where)
    train([*SMALL, "name=killed"], **where, kill={"at": "batch_end", "batch": 5})
    train(["resume=last", "name=killed"], **where)
    whole, killed = only_run(own, "whole"), only_run(own, "killed")
    assert [row["step"] for row in curves(killed) if "train/loss" in row] == list("123456")
    assert curves(killed) == curves(whole)
    assert_equal_bits(state(killed), state(whole))

    scored = train(
        [f"checkpoint={last_checkpoint(killed)}", TRUSTED, "accelerator=cpu", "split=val", "output=scored"],
        **where,
        script="evaluate.py",
    )
    assert "val: AP" in scored
    finished = json.loads((killed / "finished.json").read_text())
    metrics = json.loads((own / "scored" / "metrics.json").read_text())["scalars"]
    assert metrics["AP"] == finished["val"]["AP"] or finished["best_step"] != 6


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("model.chanels=3", "nearest is model.channels"),
        (
            "model.loss.size_weight=much",
            "model.loss.size_weight='much' (command line, model.loss.size_weight=much): expected a number",
        ),
    ],
)
def test_its_knobs_are_checked(own, train, line, says):
    assert says in train([*SMALL, line], folder=own, path=own, expect=2)
