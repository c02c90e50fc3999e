"""A run whose test split has no annotations, and both scripts on files whose ids can't be matched."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import REPORTED, Runner, only_run

OF_SHAPES = ("data=", "test=", "trainer.max_steps=", "data.train_images=", "data.val_images=", "data.image_size=")
RUN = [
    *(override for override in REPORTED if not override.startswith(OF_SHAPES)), "data=coco", "data.root=set",
    "data.classes=[disc,star]", "data.train_split=train", "data.val_split=val", "data.test_split=test",
    "trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.checkpoints.every_steps=2",
]  # fmt: skip


def write_set(root: Path) -> None:
    """Splits of four images, of which `test` lists images and nothing else."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (root / split).mkdir()
        images, boxes = [], []
        for row in range(4):
            pixels = np.random.default_rng(row).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{row}.png")
            images.append({"id": f"{split}_{row}", "file_name": f"{row}.png", "height": 64, "width": 64})
            boxes.append({"id": row, "image_id": f"{split}_{row}", "category_id": 9, "bbox": [9, 9, 30, 30]})
        content = {"images": images}
        if split != "test":
            content |= {"annotations": boxes, "categories": [{"id": 9, "name": "star"}, {"id": 4, "name": "disc"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_a_run_ends_with_what_its_best_checkpoint_finds_on_images_alone(train: Runner, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    printed = train([*RUN, "model.prior=0.3"], tmp_path)
    run = only_run(tmp_path)
    assert "the test split 'test' has no annotations, so that there is nothing to score" in printed
    assert "test: nothing to score, since its split has no object in its annotations; found: " in printed
    assert "-100" not in printed
    assert "test: AP" not in printed
    found = json.loads((run / "predictions.json").read_text())
    assert {entry["image_id"] for entry in found} == {f"test_{row}" for row in range(4)}
    assert {entry["category_id"] for entry in found} <= {9, 4}
    assert json.loads((run / "finished.json").read_text())["test"] == {}
    assert "test/AP" not in (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "test AP" not in (run / "report.html").read_text()


def test_no_run_begins_on_images_alone(train: Runner, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    for role in ("train", "val"):
        printed = train([*RUN, f"data.{role}_split=test"], tmp_path, expect=1)
        assert "instances_test.json has no list 'annotations'" in printed
        assert "Traceback" not in printed
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("script", ["train.py", "inspect_data.py"])
def test_both_scripts_say_where_ids_are_text_on_one_side(train: Runner, tmp_path: Path, script: str) -> None:
    write_set(tmp_path / "set")
    for split in ("train", "val"):
        file = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for row in range(4):
            content["images"][row]["id"], content["annotations"][row]["image_id"] = row, str(row)
        file.write_text(json.dumps(content))
    printed = train(RUN, tmp_path, expect=1 if script == "train.py" else 2, script=script)
    says = (
        "instances_train.json: its images have integers as ids (0, 1, 2, 3), its annotations name them by text ('0', "
    )
    assert printed.count(says) == 1
    assert "Traceback" not in printed
