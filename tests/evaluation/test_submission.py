"""The files that evaluation servers take."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluation.submission import write_submission
from evaluation.truth import Predictions, Truth

FOUND = Predictions(
    image_index=np.array([1, 0, 1]),
    boxes=np.array([[0, 0, 9, 9.5], [4, 5, 20, 30], [1, 1, 3, 3]], np.float32),
    scores=np.array([0.25, 0.5, 0.75], np.float32),
    labels=np.array([0, 1, 0]),
)


def unlabelled(truth_of: Callable[..., Truth], voc: bool) -> Truth:
    return truth_of(
        [], image_ids=("000001", "000002"), class_names=("cat", "a/b 50%", "dog"), category_ids=(5, 9, 2), voc=voc
    )


def test_vocs_files_hold_a_line_for_each_box_in_inclusive_pixels_from_1(
    truth_of: Callable[..., Truth], tmp_path: Path
) -> None:
    line = write_submission(tmp_path, unlabelled(truth_of, voc=True), FOUND)
    assert {file.name: file.read_text() for file in tmp_path.glob("*.txt")} == {
        "comp4_det_test_cat.txt": (
            "000002 0.750000 2.000000 2.000000 3.000000 3.000000\n000002 0.250000 1.000000 1.000000 9.000000 9.500000\n"
        ),
        "comp4_det_test_a%2Fb 50%25.txt": "000001 0.500000 5.000000 6.000000 20.000000 30.000000\n",
        "comp4_det_test_dog.txt": "",
    }
    assert "3 boxes on 2 images" in line
    assert "comp4_det_test_cat.txt" in line


def test_cocos_file_is_written_of_every_data_set(truth_of: Callable[..., Truth], tmp_path: Path) -> None:
    write_submission(tmp_path, unlabelled(truth_of, voc=False), FOUND)
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in found] == [
        ("000002", 5),
        ("000001", 9),
        ("000002", 5),
    ]
    assert found[1]["bbox"] == [4, 5, 16, 25]
