"""`inspect_data.py` as a command: exit codes, the folder, and the command line of train.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from composing import A_FEW, beside_training
from PIL import Image
from running import Runner

from boxwright.config.files import CONF

SCRIPT = CONF.parent / "inspect_data.py"
SHAPES = ["data=shapes", "output=out"]


def test_a_run_leaves_its_page_and_log_and_exits_with_1_where_a_box_is_wrong(train: Runner, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 20]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [9, 9, -4, 5]},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (60, 40)).save(tmp_path / split / "1.png")
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    splits = [f"data.{role}_split={split}" for role, split in (("train", "train"), ("val", "val"), ("test", "val"))]
    overrides = ["data=coco", "data.root=.", "data.annotations='{split}.json'", "data.num_classes=1", "data.resize=64"]
    shown = train([*overrides, *splits, "output=out"], tmp_path, expect=1, script="inspect_data.py")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["inspection.html", "log.txt"]
    for printed in (shown, (tmp_path / "out" / "log.txt").read_text()):
        assert "2 problems (the box has a negative width or height: 2)" in printed
    assert "skipped" not in shown


STUBBED = """
import runpy, sys
from unittest.mock import MagicMock
inspection = sys.modules["boxwright.inspect_data.inspection"] = MagicMock()
inspection.save.return_value = {problems}
sys.argv = ["inspect_data.py", *{arguments}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize(("problems", "mode", "code"), [(0, [], 0), (3, [], 1), (3, ["-m", "data.resize=64,96"], 0)])
def test_exit_code_is_0_without_problems_and_in_sweeps(
    tmp_path: Path, problems: int, mode: list[str], code: int
) -> None:
    script = STUBBED.format(problems=problems, arguments=[*mode, *SHAPES], script=str(SCRIPT))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=shapes", "data.rezise=3"], "nearest is data.resize"),
        (["data=shapes", "sample=many"], "expected an integer or null"),
        (["data=coco", "data.root=nowhere"], "/nowhere does not exist"),
        (["data=imagefolder", "data.root=.", "model=classifier"], "no boxes to inspect"),
    ],
)
def test_exit_code_is_2_for_a_wrong_config_and_no_folder_is_left(
    train: Runner, tmp_path: Path, overrides: list[str], message: str
) -> None:
    printed = train(overrides, tmp_path, expect=2, script="inspect_data.py")
    assert message in printed
    assert "Traceback" not in printed
    assert {path.name for path in tmp_path.rglob("*")} <= {"runs", "inspect", "printed.txt"}


@pytest.mark.parametrize("recipe", A_FEW)
def test_takes_the_command_line_of_a_training_run(recipe: str) -> None:
    """The data settings of a recipe are the ones that are inspected."""
    train, ours = beside_training("inspect_data", f"experiment={recipe}", "data.root=somewhere", "trainer.devices=8")
    assert train.data == ours.data
