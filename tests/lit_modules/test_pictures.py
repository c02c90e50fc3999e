"""Pictures in a run's folder show the right images with the right boxes, and their errors never end a run."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from validated import BOX, FOUND, OBJECTS, OTHER, Run, analysed

from lit_modules.callbacks.pictures import Pictures, step_folders
from reports.drawing import class_color
from reports.validation_pictures import file_stem, resized

HEAD, GAP = 44, 8


def names(folder: Path, step: int) -> list[str]:
    return sorted(path.name for path in (folder / "pictures" / f"step_{step:07d}").iterdir())


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in step_folders(folder / "pictures")]


def share_of_color(pixels: np.ndarray, label: int) -> float:
    return float((np.abs(pixels.astype(int) - class_color(label)).max(axis=-1) < 40).mean())


def test_the_worst_images_by_rising_ap_and_all_others_are_drawn_under_their_names(tmp_path):
    Run(tmp_path, num_fixed=8, num_worst=2).validate(40)
    b = file_stem("b/ä.x")
    assert names(tmp_path, 40) == sorted(["0001.jpg", f"{b}.jpg", "c.jpg", "d.jpg", "e.jpg",
                                          "worst_1_e.jpg", "worst_2_d.jpg"])  # fmt: skip


def test_true_boxes_are_on_the_left_and_predicted_and_missed_ones_on_the_right_in_class_colours(
    tmp_path,
):
    Run(tmp_path, num_fixed=5, num_worst=0).validate(40)
    picture = np.asarray(Image.open(tmp_path / "pictures/step_0000040/d.jpg"))
    assert picture.shape == (HEAD + 450, 600 + GAP + 600, 3)  # 400 x 300, enlarged by 1.5
    left, right = picture[HEAD:, :600], picture[HEAD:, 608:]
    for half, box, label, dashed in ((left, BOX, 0, True), (left, OTHER, 1, True),
                                     (right, BOX, 0, False), (right, OTHER, 1, True)):  # fmt: skip
        x1, y1, x2, y2 = (int(1.5 * v) for v in box)
        middle = slice((y1 + y2) // 2 - 60, (y1 + y2) // 2 + 60)
        for edge in (half[middle, x1 - 2 : x1], half[middle, x2 : x2 + 2]):  # the line is outside the box
            share = share_of_color(edge, label)
            assert 0.25 < share < 0.75 if dashed else share > 0.9
        assert share_of_color(half[y1 + 20 : y2 - 20, x1 + 20 : x2 - 20], label) == 0
    e = np.asarray(Image.open(tmp_path / "pictures/step_0000040/e.jpg"))[HEAD:, 608:]
    x1, y1, x2, y2 = (int(1.5 * v) for v in OTHER)
    assert share_of_color(e[y1 + 60 : y2 - 60, x1 - 2 : x1], 0) > 0.9


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((600, 800), (600, 800)),
        ((3000, 4000), (600, 800)),
        ((48, 64), (450, 600)),
        ((1, 5000), (1, 800)),
        ((5000, 1), (800, 1)),
        ((1, 1), (600, 600)),
    ],
)
def test_pictures_have_a_bounded_size_and_every_form_of_image_can_be_drawn(size, shape, tmp_path):
    assert resized(np.zeros((*size, 3), np.uint8)).shape[:2] == shape
    height, width = size
    analysis = analysed([(0, [0.0, 0.0, width, height], 0)], [], ids=("a",), sizes=[size])
    Run(tmp_path, analysis, num_fixed=1, num_worst=0).validate(1)
    picture = Image.open(tmp_path / "pictures/step_0000001/a.jpg")
    assert picture.size[0] <= 2 * 800 + GAP
    assert picture.size[1] <= HEAD + 800


def test_a_run_without_detections_has_pictures_with_all_objects_missed(tmp_path):
    run = Run(tmp_path, analysed(OBJECTS, []), num_fixed=0, num_worst=1)
    run.validate(5)
    (name,) = names(tmp_path, 5)
    assert name == "worst_1_d.jpg"  # it has the most objects
    right = np.asarray(Image.open(tmp_path / "pictures/step_0000005" / name))[HEAD:, 608:]
    assert share_of_color(right[150:300, 58:60], 0) > 0.25


def test_every_second_validation_and_the_last_are_drawn_also_when_the_run_is_resumed_between(tmp_path):
    run = Run(tmp_path, num_fixed=1, num_worst=0, every=2, keep=-1)
    for step in (10, 20, 30):
        run.validate(step)
    assert steps(tmp_path) == [10, 30]
    resumed = Run(tmp_path, num_fixed=1, num_worst=0, every=2, keep=-1)
    resumed.callback.load_state_dict(run.callback.state_dict())
    for step in (40, 50, 60):
        resumed.validate(step)
    assert steps(tmp_path) == [10, 30, 50]
    resumed.validate(100)
    resumed.validate(100)  # the last step
    assert steps(tmp_path) == [10, 30, 50, 100]


def test_only_the_newest_folders_are_kept(tmp_path):
    run = Run(tmp_path, num_fixed=1, num_worst=0, keep=2)
    for step in (999_999, 1_000_000, 10_000_000):
        run.validate(step)
    assert steps(tmp_path) == [1_000_000, 10_000_000]


def test_a_repeated_validation_replaces_the_first_and_a_resumed_run_drops_later_ones(tmp_path):
    run = Run(tmp_path, num_fixed=2, num_worst=1)
    run.validate(10)
    run.validate(20)
    (tmp_path / "pictures/step_by_step").mkdir()  # a folder of the user
    again = Run(
        tmp_path, analysed(OBJECTS, [(0, OTHER, 0, 0.95), *FOUND[1:4], (4, BOX, 0, 0.9)]), num_fixed=0, num_worst=1
    )
    again.trainer.global_step = 10
    again.callback.on_train_start(again.trainer, again)
    assert steps(tmp_path) == [10]
    again.validate(10)
    assert names(tmp_path, 10) == ["worst_1_0001.jpg"]


def test_ids_of_any_kind_give_file_names_of_their_own():
    ids = ["a", "a/b", "a_b", "a\\b", "a:b", "..", ".", "", "/", "\0", "x" * 300, "x" * 299, "画像 1", "画" * 200,
           "worst_1_a", 17, "-rf", "a\nb", "\ud800"]  # fmt: skip
    stems = [file_stem(image_id) for image_id in ids]
    assert len(set(stems)) == len(ids)
    for stem in stems:
        assert not set(stem) & set('/\\:\0\n*?"<>|')
        assert len(f"worst_100_{stem}.jpg".encode()) <= 255
        assert not stem.startswith((".", "-", "worst_"))
    assert (stems[0], stems[2], stems[15]) == ("a", "a_b", "17")


def test_a_missing_image_is_named_once_and_the_others_are_drawn(tmp_path, caplog):
    run = Run(tmp_path, num_fixed=5, num_worst=1)
    run.trainer.datamodule.gone = {"e"}
    run.validate(10)
    run.validate(20)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("picture of image e: FileNotFoundError: e.jpg does not exist; replace the file")
    assert len(names(tmp_path, 20)) == 4


def test_a_full_disk_gives_one_warning_and_keeps_the_earlier_pictures(tmp_path, caplog, monkeypatch):
    run = Run(tmp_path, num_fixed=2, num_worst=1)
    run.validate(10)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pictures/step_0000010").iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run.validate(10)
    run.validate(20)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pictures/step_0000010").iterdir()} == before
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["step_0000010"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "No space left on device; the run continues without" in message


def test_pictures_do_not_affect_training(tmp_path):
    """No global random generator is used, and ranks other than 0 do nothing."""
    run = Run(tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    run.validate(10)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    other = Run(tmp_path / "other")
    other.trainer.is_global_zero = False
    other.analysis = None
    other.validate(10)
    assert not (tmp_path / "other").exists()


def test_without_pictures_and_dashboard_nothing_is_computed(tmp_path, caplog):
    run = Run(tmp_path, num_fixed=0, num_worst=0)
    run.analysis = None  # using it would give a warning
    run.validate(10)
    assert not (tmp_path / "pictures").exists()
    assert not caplog.records


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"num_fixed": -1}, "callbacks.pictures.num_fixed=-1: expected 0 or more"),
        ({"every": 0}, "callbacks.pictures.every=0: expected 1 or more"),
        ({"every_steps": 0}, "callbacks.pictures.every_steps=0: expected 1 or more"),
        ({"keep": 0}, "callbacks.pictures.keep=0: expected -1 for all, or 1 or more"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting, says):
    with pytest.raises(ValueError, match=says):
        Pictures(**setting)
