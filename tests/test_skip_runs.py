"""Whole runs on a data set with broken files: `data.on_error=skip` completes, lists them, and scores the rest."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import TINY, curves, only_run

from datamodules.shapes import ShapesDataModule

ROOT = Path(__file__).parents[1]
BROKEN = {
    "train": {2: "is empty", 5: "a truncated JPEG", 11: "can't be decoded", 20: "is empty"},
    "val": {3: "is empty"},
}
"""Broken rows by split, and the expected message."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, dict[str, dict[str, str]]]:
    """The data set of `TINY` with five broken images and a broken annotation, and the expected message per image id."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    ShapesDataModule(root=str(root), train_images=24, val_images=6, image_size=64).prepare_data()
    says: dict[str, dict[str, str]] = {}
    for split, rows in BROKEN.items():
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        says[split] = {str(content["images"][row]["id"]): words for row, words in rows.items()}
        for row, words in rows.items():
            image = root / split / content["images"][row]["file_name"]
            data = image.read_bytes()
            image.write_bytes({"is empty": b"", "a truncated JPEG": data[:-50]}.get(words, b"not a picture"))
        if split == "train":
            content["annotations"][0]["bbox"] = [1, 1, -5, 4]
            file.write_text(json.dumps(content))
    return root, says


def run(train, folder: Path, root: Path, *overrides: str, **options) -> tuple[str, Path]:
    folder.mkdir(exist_ok=True)
    printed = train([*TINY, f"data.root={root}", *overrides], folder, **options)
    return printed, only_run(folder)


@pytest.mark.slow
def test_a_run_skips_lists_and_counts_what_is_broken_also_when_it_was_killed(train, drawn, tmp_path):
    root, says = drawn
    overrides = ["data.on_error=skip", "data.num_workers=1"]
    first, folder = run(train, tmp_path, root, *overrides, kill={"at": "batch_end", "batch": 7})
    second = train(["resume=last", "name=t"], tmp_path)
    assert only_run(tmp_path) == folder

    skipped = json.loads((folder / "skipped.json").read_text())
    for split in ("train", "val"):
        assert skipped[split].keys() == says[split].keys()
        assert all(words in skipped[split][image_id] for image_id, words in says[split].items())
    assert skipped["test"] == {}
    assert skipped["annotation_counts"] == {"the box has a negative width or height": 1}
    assert "bbox [1" in skipped["annotations"][0]
    assert first.count("1 image of val could not be read and count for nothing") == 1
    assert "1 image of val could not be read, left" not in second  # though the split was validated again
    assert "skipped (data.on_error=skip): 4 images of train could not be read; 1 image of val could not" in second
    assert "1 problem in the annotations (the box has a negative width or height: 1)" in second
    finished = json.loads((folder / "finished.json").read_text())
    assert finished["step"] == 10

    command = [sys.executable, str(ROOT / "evaluate.py"), f"checkpoint={folder / 'checkpoints/best.ckpt'}"]
    scored = subprocess.run(
        [*command, f"output={tmp_path / 'scored'}"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "1 image of test could not be read" in scored.stdout  # the test split is val here
    assert json.loads((tmp_path / "scored" / "metrics.json").read_text())["scalars"] == finished["val"]


def test_without_skip_the_run_ends_with_one_clear_line(train, drawn, tmp_path):
    root = shutil.copytree(drawn[0], tmp_path / "shapes")  # the copy's annotations are valid
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [1, 1, 5, 4]
    file.write_text(json.dumps(content))
    printed, folder = run(train, tmp_path / "run", root, "data.num_workers=2", expect=1)
    clear = [line for line in printed.splitlines() if "image " in line and "data.on_error=skip" in line]
    assert ["stopped after step" in line for line in clear] == [True]
    assert "Traceback" not in printed
    assert "in DataLoader worker process" not in printed
    assert "stopped after step" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_two_ranks_skip_as_one(train, drawn, tmp_path):
    """Each rank has one image, so that a broken one leaves its rank with none. The rate is low, so that rounding stays
    small.
    """
    overrides = ["data.on_error=skip", "data.batch_size=2", "model.lr=2e-5", "trainer.max_steps=12",
                 "trainer.val_check_interval=12"]  # fmt: skip
    one, two = (
        run(train, tmp_path / str(devices), drawn[0], *overrides, f"trainer.devices={devices}")[1] for devices in (1, 2)
    )
    rows, other_rows = ([row for row in curves(folder) if "train/loss" in row] for folder in (one, two))
    assert len(rows) == 12
    for a, b in zip(rows, other_rows, strict=True):
        for name in ("train/loss", "train/loss_cls", "train/loss_box", "train/loss_centerness"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5)
    first, second = (json.loads((folder / "skipped.json").read_text()) for folder in (one, two))
    assert first == second
    assert len(first["train"]) == 4
