"""Lists of paths with boxes, in the forms of several tools, are read; lines that are none are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import write_image

from datamodules.errors import DataError
from datamodules.text_list import TextListDataModule


def data(root: Path, text: str, **options: Any) -> TextListDataModule:
    for name in ("a.jpg", "b c.jpg", "sub/d.PNG"):
        write_image(root / name, (40, 80))
    (root / "train.txt").write_text(text)
    defaults: dict[str, Any] = {
        "num_classes": 2, "resize": 32, "num_workers": 0, "batch_size": 2, "val_split": "train", "check_boxes": False,
    }  # fmt: skip
    module = TextListDataModule(root=str(root), **{**defaults, **options})
    module.setup("fit")
    return module


ROWS = [[1, 2, 30, 20], [0, 0, 80, 40], [10, 10, 20, 20]]
FORMS = {
    "a line for each image": "a.jpg 1 2 30 20 cat 0 0 80 40 dog\nb c.jpg 10 10 20 20 cat\nsub/d.PNG\n",
    "commas, a line for each box": (
        "a.jpg,1,2,30,20,cat\na.jpg,0,0,80,40,dog\nb c.jpg,10,10,20,20,cat\nsub/d.PNG,,,,,\n"
    ),
    "commas within a box": "a.jpg 1,2,30,20,cat 0,0,80,40,dog\nb c.jpg 10,10,20,20,cat\n\n# a remark\nsub/d.PNG\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read(form: str, tmp_path: Path) -> None:
    module = data(tmp_path, FORMS[form])
    truth = module.truth("train")
    assert truth.image_ids.tolist() == ["a", "b c", "d"]
    assert truth.image_index.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(truth.boxes, ROWS)
    assert module.class_names == ("cat", "dog")
    assert truth.labels.tolist() == [0, 1, 0]


def test_rows_before_columns_by_choice(tmp_path: Path) -> None:
    flipped = "a.jpg 2 1 20 30 0 0 0 40 80 1\nb c.jpg 10 10 20 20 0\n"
    module = data(tmp_path, flipped, order="y1 x1 y2 x2")
    np.testing.assert_array_equal(module.truth("train").boxes, ROWS)
    with pytest.raises(ValueError, match=r"data\.order='yxyx': expected 'x1 y1 x2 y2' or"):
        data(tmp_path, flipped, order="yxyx")


def test_numbers_count_the_names(tmp_path: Path) -> None:
    module = data(tmp_path, "a.jpg 1 2 30 20 1 0 0 80 40 2\n", classes=["cat", "dog"], first_class=1)
    assert module.truth("train").labels.tolist() == [0, 1]
    assert module.category_ids == (1, 2)
    with pytest.raises(DataError, match=r"a class is not a number from 0 to 1.*|.*line 1, a\.jpg .*class 2"):
        data(tmp_path, "a.jpg 1 2 30 20 1 0 0 80 40 2\n", classes=["cat", "dog"])
    module = data(tmp_path, "a.jpg 1 2 30 20 10 0 0 80 40 9\n")
    assert module.class_names == ("9", "10")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a 1 2 30 20 cat", "a line does not begin with the path of an image"),
        ("a.jpg 1 2 30 20", "not four numbers and a class for each box"),
        ("a.jpg 1 2 30 20 cat 5", "not four numbers and a class for each box"),
        ("a.jpg 1 2 x 20 cat", "a box is not four numbers (x1 y1 x2 y2)"),
        ("a.jpg 1 2 inf 20 cat", "a box is not four numbers (x1 y1 x2 y2)"),
        ("a.jpg 30 20 1 2 cat", "the box has a negative width or height"),
        ("a.jpg 100 20 130 30 cat", "the box lies outside the image"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    text = f"b c.jpg 1 2 30 20 dog 0 0 5 5 cat\n{line}\n"
    with pytest.raises(DataError) as raised:
        data(tmp_path, text)
    assert says in str(raised.value)
    assert f"{tmp_path}/train.txt" in str(raised.value)
    assert len(data(tmp_path, text, on_error="skip").truth("train").boxes) == 2


def test_a_list_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trian\.txt does not exist; lists in .*: train\.txt"):
        data(tmp_path, FORMS["a line for each image"], train_split="trian")


def test_images_lie_elsewhere_by_choice_and_missing_ones_are_named(tmp_path: Path) -> None:
    text = "d.PNG 1 2 30 20 cat 0 0 5 5 dog\n"
    assert len(data(tmp_path, text, images="sub").truth("train").boxes) == 2
    with pytest.raises(DataError, match=r"d\.PNG"):
        data(tmp_path, text)
