"""YOLO's labels become the boxes that Ultralytics' own reader makes of them; what it can't mean is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import write_image

from datamodules.errors import DataError
from datamodules.yolo import YoloDataModule, label_file

SIZE = (40, 80)
"""Height and width."""


def write(root: Path, labels: dict[str, str | None], split: str = "train", yaml: str | None = None) -> Path:
    """Writes images/SPLIT, labels/SPLIT (None: no file) and a data.yaml with two classes."""
    for stem, text in labels.items():
        write_image(root / "images" / split / f"{stem}.jpg", SIZE)
        file = root / "labels" / split / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            file.write_text(text)
    text = "names: [cat, dog]\ntrain: images/train\nval: images/train\n" if yaml is None else yaml
    (root / "data.yaml").write_text(text)
    return root


def data(root: Path, **options: Any) -> YoloDataModule:
    defaults: dict[str, Any] = {"num_classes": 2, "resize": 32, "num_workers": 0, "batch_size": 2, "check_boxes": False}
    module = YoloDataModule(root=str(root), **{**defaults, **options})
    module.setup("fit")
    return module


def test_boxes_polygons_and_empty_images(tmp_path: Path) -> None:
    labels = {
        "a": "1 0.5 0.5 0.5 0.25\n0 0.1 0.2 0.3 0.2 0.2 0.6\n", "b": "", "c": None, "d": "0 0.25 0.25 0.5 0.5 \r\n\n",
    }  # fmt: skip
    module = data(write(tmp_path, labels))
    truth = module.truth("train")
    assert truth.image_ids.tolist() == ["a", "b", "c", "d"]
    assert truth.image_index.tolist() == [0, 0, 3]
    np.testing.assert_allclose(truth.boxes, [[20, 15, 60, 25], [8, 8, 24, 24], [0, 0, 40, 20]], atol=1e-9)
    assert truth.labels.tolist() == [1, 0, 0]
    assert module.class_names == ("cat", "dog")
    assert module.category_ids == (0, 1)
    assert "2 of them without objects" in module.describe()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0.5 0.5 0.1", "neither `class x y w h` nor a class and a polygon"),
        ("0 0.5 0.5 0.1 0.1 0.9", "neither `class x y w h` nor a class and a polygon"),
        ("2 0.5 0.5 0.1 0.1", "a class is not a number from 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "a class is not a number from 0 to 1"),
        ("cat 0.5 0.5 0.1 0.1", "a line of labels is not numbers"),
        ("0 40 20 10 10", "not in fractions of its image; divide x and w by its width"),
        ("0 nan 0.5 0.1 0.1", "a number that is not finite"),
        ("0 0.5 0.5 -0.1 0.1", "not in fractions of its image"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(tmp_path: Path, line: str, says: str) -> None:
    write(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n{line}\n"})
    with pytest.raises(DataError) as raised:
        data(tmp_path)
    assert says in str(raised.value)
    assert f"{tmp_path}/labels/train/a.txt: line 2, {line}" in str(raised.value)
    assert len(data(tmp_path, on_error="skip").truth("train").boxes) == 1


def test_a_doubled_line_counts_once_and_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"a": "0 0.5 0.5 0.1 0.1\n0 0.5 0.5  0.1 0.1\n"})
    with pytest.warns(UserWarning, match=r"a line of labels is there twice.*: 1, first: .*a\.txt: line 2"):
        module = data(tmp_path)
    assert len(module.truth("train").boxes) == 1


def test_splits_are_folders_lists_or_both(tmp_path: Path) -> None:
    box = "0 0.5 0.5 0.5 0.5\n"
    write(tmp_path, {"a": box, "b": box})
    write(tmp_path, {"c": box, "deep/d": box}, "more")
    listed = f"./images/train/b.jpg\n{tmp_path}/images/more/c.jpg\n"
    (tmp_path / "lists").mkdir()
    (tmp_path / "val.txt").write_text(listed)
    (tmp_path / "data.yaml").write_text(
        "path: .\nnames: {0: cat, 1: dog}\ntrain: [images/train, images/more]\nval: val.txt\n"
    )
    module = data(tmp_path)
    assert module.truth("train").image_ids.tolist() == ["a", "b", "c", "d"]
    assert module.truth("val").image_ids.tolist() == ["b", "c"]
    assert len(module.truth("val").boxes) == 2
    (batch, _) = module.train_dataloader()
    assert len(batch.images) == 2


def test_images_of_one_stem_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    box = "0 0.5 0.5 0.5 0.5\n"
    write(tmp_path, {"one/a": box, "two/a": box})
    assert data(tmp_path).truth("val").image_ids.tolist() == ["one/a", "two/a"]


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("train: images/train\n", "has no data.yaml with `names`"),
        ("names: 3\ntrain: images/train\n", "expected a list of names"),
        ("names: {1: a, 2: b}\ntrain: images/train\n", "a name for each number from 0"),
        ("names: [a, a]\ntrain: images/train\n", "has a twice"),
        ("names: [a, b]\nnc: 3\ntrain: images/train\n", "nc is 3, but `names` has 2"),
        ("names: [a, b]\nval: images/train\n", "has no 'train', it has val"),
        ("names: [a, b]\ntrain: images/trian\n", "train=images/trian is at none of"),
        ("names: [a, b\ntrain: images/train\n", "can't be read as YAML"),
    ],
)
def test_a_description_that_is_not_sound_is_refused(tmp_path: Path, yaml: str, says: str) -> None:
    write(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n"}, yaml=yaml)
    with pytest.raises(DataError, match=r"data\.yaml") as raised:
        data(tmp_path)
    assert says in str(raised.value)


def test_without_any_file_of_labels_the_first_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a": None, "b": None})
    with pytest.raises(
        DataError, match=r"none of the 2 files of labels exists; the first would be .*labels/train/a\.txt"
    ):
        data(tmp_path)


def test_labels_lie_beside_the_last_images_of_a_path_else_beside_the_image() -> None:
    assert label_file(Path("/images/x/images/train/a.b.jpg")) == Path("/images/x/labels/train/a.b.txt")
    assert label_file(Path("/data/train/a.jpg")) == Path("/data/train/a.txt")


def test_a_new_image_or_changed_label_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n"})
    assert len(data(tmp_path).truth("train").boxes) == 1
    write(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n", "b": "0 0.5 0.5 0.5 0.5\n"})
    assert len(data(tmp_path).truth("train").boxes) == 3


def test_a_subset_of_classes(tmp_path: Path) -> None:
    write(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n"})
    module = data(tmp_path, classes=["dog"], num_classes=1)
    assert module.truth("train").labels.tolist() == [0]
    assert module.category_ids == (1,)
    with pytest.raises(DataError, match=r"names 'cow', which .*data\.yaml does not have"):
        data(tmp_path, classes=["cow"], num_classes=1)
