import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_data import voc, voc_object, write_voc

from datamodules.voc import VocDataModule


def test_a_real_voc_folder_with_its_own_classes_needs_one_override(shared_data: Path) -> None:
    data = VocDataModule(
        root=str(shared_data / "bccd_voc"), classes=["RBC", "WBC", "Platelets"], num_classes=3,
        train_split="trainval", val_split="test", test_split="test",
    )  # fmt: skip
    data.setup()
    train, test = data.truth("train"), data.truth("test")
    assert (len(train.image_ids), len(test.image_ids)) == (292, 72)
    assert len(train.boxes) + len(test.boxes) == 4888
    counts = [sum((truth.labels == label).sum() for truth in (train, test)) for label in range(3)]
    assert counts == [4155, 372, 361]
    first = train.boxes[train.image_index == train.image_ids.tolist().index("BloodImage_00000")][:2]
    assert first.tolist() == [[259, 176, 491, 376], [77, 335, 184, 435]]
    assert train.voc
    assert data.category_ids == (1, 2, 3)
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape == (4, 3, 800, 1088)


def test_coordinates_go_from_inclusive_pixels_counted_from_one_to_edges(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("a", "1 1 40 30") + voc_object("b", "5.5 6.25 7 8", difficult=1)})
    data = voc(tmp_path)
    data.setup()
    truth = data.truth("val")
    assert truth.boxes.tolist() == [[0, 0, 40, 30], [4.5, 5.25, 7, 8]]
    assert truth.difficult.tolist() == [False, True]
    assert truth.image_ids.tolist() == ["x"]
    assert truth.sizes.tolist() == [[30, 40]]


def test_difficult_objects_train_only_when_asked_for(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9") + voc_object("b", "5 6 7 8", difficult=1)})
    for use, wanted in ((False, [[0, -1]]), (True, [[0, 1]])):
        data = voc(tmp_path, batch_size=1, use_difficult=use)
        data.setup()
        labels = next(iter(data.train_dataloader())).labels
        assert labels.tolist() == [[label for label in wanted[0] if label >= 0]]


def test_years_and_shorthands_name_the_same_splits(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007", {"p": "", "q": ""})
    write_voc(tmp_path / "VOC2012", {"r": ""})
    write_voc(tmp_path / "VOC2007", {"s": ""}, split="test")
    for split in ("2007_trainval+2012_trainval", "07_trainval+12_trainval", "07+12", "2007+12_trainval"):
        data = voc(tmp_path, train_split=split, val_split="07_test", test_split="2007_test")
        data.setup()
        assert data.truth("train").image_ids.tolist() == ["p", "q", "r"]
        assert data.truth("val").image_ids.tolist() == ["s"]
    with pytest.raises(ValueError, match="there are 2007_test, 2007_trainval, 2012_trainval"):
        voc(tmp_path, train_split="2007_train").setup()
    with pytest.raises(ValueError, match=r"none at all under .*data\.root"):
        voc(tmp_path / "nowhere").setup()


def test_a_list_of_the_folder_itself_comes_before_a_year(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": ""}, split="10_fold")
    data = voc(tmp_path, train_split="10_fold", val_split="10_fold", test_split="10_fold")
    data.setup()
    assert data.truth("train").image_ids.tolist() == ["x"]


def test_a_name_that_classes_lacks_is_an_error_or_dropped(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("c", "1 1 9 9") + voc_object("a", "1 1 9 9")})
    with pytest.raises(ValueError, match=r"objects of \['c'\].*\[a, b\] lacks them; .*other_classes=drop"):
        voc(tmp_path).setup()
    with pytest.raises(ValueError, match=r"lacks them \(nearest is cc\)"):
        voc(tmp_path, classes=["a", "cc"]).setup()
    with pytest.raises(ValueError, match=r"none of data\.classes=\[x, y\]; set 'data\.classes=\[a,c\]'"):
        voc(tmp_path, classes=["x", "y"]).setup()
    data = voc(tmp_path, other_classes="drop")
    data.setup()
    assert data.truth("train").labels.tolist() == [0]
    assert "1 of other classes" in data.describe()


def test_a_subset_of_vocs_own_classes_drops_the_others_without_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("dog", "1 1 9 9") + voc_object("cat", "1 1 9 9")})
    data = voc(tmp_path, classes=["cat", "person"])
    data.setup()
    assert data.truth("train").labels.tolist() == [0]
    assert data.class_names == ("cat", "person")


def test_a_size_of_zero_comes_from_the_image(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("a", "1 1 40 30")}, size="0,0")
    data = voc(tmp_path)
    with pytest.warns(UserWarning, match="image size 1 time"):
        data.setup()
    assert data.truth("train").sizes.tolist() == [[30, 40]]


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (voc_object("a", "9 1 3 5"), "negative width or height"),
        (voc_object("a", "41 1 45 5"), "outside the image"),
        (voc_object("a", "nan 1 3 5"), "not finite"),
        (voc_object("a", "x 1 3 5"), "not four numbers"),
        ("<object><name>a</name></object>", "not four numbers"),
    ],
)
def test_a_bad_object_is_named_by_file_and_number(tmp_path: Path, entry: str, rule: str) -> None:
    write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9") + entry})
    with pytest.raises(ValueError, match=rule) as error:
        voc(tmp_path).setup()
    assert "x.xml" in str(error.value)
    assert any(where in str(error.value) for where in ("object 2", "annotation 2"))
    data = voc(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match=rule):
        data.setup()
    assert data.truth("train").boxes.tolist() == [[0, 0, 9, 9]]


def test_entities_are_refused_and_the_declared_encoding_is_read(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": "", "y": ""})
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    (tmp_path / "Annotations" / "x.xml").write_text(bomb)
    latin = '<?xml version="1.0" encoding="ISO-8859-1"?><annotation>' + voc_object("Käfer", "1 1 9 9")
    (tmp_path / "Annotations" / "y.xml").write_bytes((latin + "</annotation>").encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.xml .*Entit.*not sound XML"):
        voc(tmp_path, classes=["Käfer"], num_classes=1).setup()
    data = voc(tmp_path, classes=["Käfer"], num_classes=1, on_error="skip")
    with pytest.warns(UserWarning, match="not sound XML: 1"):
        data.setup()
    assert data.truth("train").labels.tolist() == [0]


def test_a_changed_annotation_is_read_again(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9")})
    voc(tmp_path).setup()
    write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9") + voc_object("b", "1 1 5 5")})
    data = voc(tmp_path)
    data.setup()
    assert len(data.truth("train").boxes) == 2


def test_missing_annotation_or_image_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": "", "y": ""})
    (tmp_path / "Annotations" / "y.xml").unlink()
    with pytest.raises(ValueError, match=r"y\.xml: an image of the split has no annotation file"):
        voc(tmp_path).setup()
    write_voc(tmp_path, {"x": "", "y": ""})
    (tmp_path / "JPEGImages" / "y.jpg").unlink()
    with pytest.raises(ValueError, match=r"missing image files: 1 of 2\n  .*y\.jpg\n"):
        voc(tmp_path).setup()


def pictures(folder: Path, names: list[str], filename: str) -> None:
    """Writes one XML file x with that `<filename>`, and image files whose grey value is their place in the list."""
    write_voc(folder, {"x": voc_object("a", "1 1 9 9")})
    (folder / "JPEGImages" / "x.jpg").unlink()
    for place, name in enumerate(names):
        cv2.imwrite(str(folder / "JPEGImages" / name), np.full((30, 40, 3), 50 * place + 20, np.uint8))
    file = folder / "Annotations" / "x.xml"
    file.write_text(file.read_text().replace("<annotation>", f"<annotation><filename>{filename}</filename>"))


@pytest.mark.parametrize(
    ("names", "filename", "taken", "said"),
    [
        (["x.jpg", "x.png"], "x.png", 1, ""),
        (["x.jpg", "x.png"], "JPEGImages/x.jpg", 0, ""),
        (["x.png", "x.bmp"], r"C:\set\x.BMP", 1, ""),
        (
            ["x.png", "x.jpg"],
            "",
            1,
            r"several files, of which the \.jpg is taken: 1, first: .*x\.xml \(x\.jpg, x\.png\)",
        ),
        (["x.bmp", "x.JPG"], "old.jpg", 1, r"several files, of which the \.jpg is taken"),
        (["x.png"], "x.jpg", 0, ""),  # converted later
        (["x.png"], "IMG_1.jpg", 0, ""),  # renamed later
        (["x.jpg", "y.png"], "y.png", 0, r"<filename> names another picture .*'y\.png', 'x\.jpg' is taken"),
    ],
)
def test_the_image_has_the_xmls_stem_or_a_warning_says_which_is_taken(
    tmp_path: Path, names: list[str], filename: str, taken: int, said: str
) -> None:
    pictures(tmp_path, names, filename)
    data = voc(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    assert abs(int(data.image("train", "x").mean()) - (50 * taken + 20)) <= 1
    told = {str(warning.message) for warning in caught}  # train and val are the same split, so each warning comes twice
    assert len(told) == bool(said)
    assert re.search(said, told.pop() if told else "")


def test_several_possible_images_of_an_xml_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, ["x.png", "x.bmp"], "IMG_1.jpg")
    expected = r"x\.xml \(x\.bmp, x\.png; <filename> is 'IMG_1\.jpg'\): an image has several files; remove all but one"
    with pytest.raises(ValueError, match=expected):
        voc(tmp_path).setup("fit")
    (tmp_path / "JPEGImages" / "x.bmp").unlink()
    data = voc(tmp_path)
    data.setup("fit")  # the index is built again
    assert data.image("train", "x").mean() == 20


def test_stems_in_folders_are_ids_of_their_own(tmp_path: Path) -> None:
    """As CVAT exports images that were uploaded in folders, where two may have one name."""
    write_voc(tmp_path, {"one": ""})
    for folder, box in (("day", "1 1 9 9"), ("night", "2 2 9 9")):
        (tmp_path / "Annotations" / folder).mkdir()
        (tmp_path / "JPEGImages" / folder).mkdir()
        text = f"<annotation><filename>a.png</filename>{voc_object('a', box)}</annotation>"
        (tmp_path / "Annotations" / folder / "a.xml").write_text(text)
        cv2.imwrite(str(tmp_path / "JPEGImages" / folder / "a.png"), np.zeros((30, 40, 3), np.uint8))
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("night/a\nday/a\none\n")
    data = voc(tmp_path)
    data.setup()
    truth = data.truth("val")
    assert truth.image_ids.tolist() == ["night/a", "day/a", "one"]
    assert truth.boxes.tolist() == [[1, 1, 9, 9], [0, 0, 9, 9]]
    assert [info.image_id for batch in data.val_dataloader() for info in batch.infos] == ["night/a", "day/a", "one"]
