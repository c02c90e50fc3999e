"""Every VOC annotation is read correctly, or named with file, number and remedy, and skipped where asked for."""

import re
from pathlib import Path

import pytest
from corpus_voc import BAD_OBJECTS, BAD_XML, GOOD_XML, ONE, SOUND, Reading, write_xml, xml
from reading import REMEDY, boxes_by_image, read, refused, skipped
from tiny_data import voc, voc_object, write_voc


@pytest.mark.parametrize("reading", GOOD_XML.values(), ids=GOOD_XML)
def test_voc_xml_in_any_form_is_read(tmp_path: Path, reading: Reading) -> None:
    write_xml(tmp_path, reading.data)
    names = sorted({"a", *reading.classes})
    data = voc(tmp_path, classes=names, num_classes=len(names))
    truth = read(data, f"{reading.filled} 1 time" if reading.filled else "")
    here = truth.image_index == truth.image_ids.tolist().index("x")
    assert truth.boxes[here].tolist() == reading.boxes
    assert truth.difficult[here].tolist() == list(reading.difficult)
    assert [data.class_names[label] for label in truth.labels[here]] == list(reading.classes)[: len(reading.boxes)]
    assert truth.sizes.tolist() == [[30, 40]] * 2


@pytest.mark.parametrize(("content", "says"), BAD_XML.values(), ids=BAD_XML)
def test_voc_xml_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    file = write_xml(tmp_path, content)
    message = refused(voc(tmp_path), says)
    assert message.count(f"{file} (") == 1
    assert REMEDY in message
    assert boxes_by_image(skipped(voc(tmp_path, on_error="skip"), says)) == {"sound": ONE}


@pytest.mark.parametrize(("entry", "says"), BAD_OBJECTS.values(), ids=BAD_OBJECTS)
def test_a_bad_object_of_a_voc_file_is_named_by_its_number(tmp_path: Path, entry: str, says: str) -> None:
    file = write_xml(tmp_path, xml(SOUND + entry + SOUND))
    assert REMEDY in refused(voc(tmp_path), f"{re.escape(str(file))}: object 2[ ,:].*{says}")
    assert boxes_by_image(skipped(voc(tmp_path, on_error="skip"), says)) == {"sound": ONE, "x": ONE * 2}


def test_a_folder_in_place_of_a_voc_file_is_named(tmp_path: Path) -> None:
    write_xml(tmp_path, b"").unlink()
    (tmp_path / "Annotations" / "x.xml").mkdir()
    refused(voc(tmp_path), r"x\.xml .*Is a directory")


def test_a_voc_file_with_twenty_thousand_nested_elements_is_read(tmp_path: Path) -> None:
    write_xml(tmp_path, xml("<a>" * 20_000 + SOUND + "</a>" * 20_000))
    assert boxes_by_image(read(voc(tmp_path)))["x"] == ONE


def test_an_object_of_an_unknown_class_is_named_by_image_and_number(tmp_path: Path) -> None:
    write_xml(tmp_path, xml(SOUND + voc_object("zebra", "1 1 9 9")))
    for on_error in ("raise", "skip"):
        message = refused(voc(tmp_path, on_error=on_error), r"objects of \['zebra'\].*the first is object 2 of x\.")
        assert "data.other_classes=drop" in message


def test_a_class_whose_objects_are_all_skipped_is_not_an_unknown_class(tmp_path: Path) -> None:
    write_xml(tmp_path, xml(SOUND + voc_object("zebra", "41 1 45 5")))
    assert boxes_by_image(skipped(voc(tmp_path, on_error="skip"), "outside the image"))["x"] == ONE


def test_an_xml_that_is_missing_is_named_and_found_again(tmp_path: Path) -> None:
    file = write_xml(tmp_path, xml(SOUND))
    says = re.escape(f"{file}: an image of the split has no annotation file; write one, {REMEDY}")
    file.rename(tmp_path / "away")
    refused(voc(tmp_path), says)
    assert boxes_by_image(skipped(voc(tmp_path, on_error="skip"), says)) == {"sound": ONE}
    (tmp_path / "away").rename(file)
    assert boxes_by_image(read(voc(tmp_path))) == {"sound": ONE, "x": ONE}


@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".jpeg"])
def test_a_stem_finds_its_image_whatever_the_suffix_also_when_it_comes_later(tmp_path: Path, suffix: str) -> None:
    write_xml(tmp_path, xml(SOUND))
    (tmp_path / "JPEGImages" / "x.jpg").rename(tmp_path / "away")
    refused(voc(tmp_path), r"missing image files: 1 of 2\n  .*x\.jpg\n")
    (tmp_path / "away").rename(tmp_path / "JPEGImages" / f"x{suffix}")
    read(voc(tmp_path))


LISTS = {
    "blank lines and Windows line ends": b"\r\nx\r\n\r\n  sound \r\n\r\n",
    "columns of a class list": b"x  1\nsound -1\n",
    "a column of zeros": b"x  0\nsound\t0",
    "an image twice": b"x\nsound\nx\nx 1\n",
    "UTF-8 with its mark": "x\nsound\n".encode("utf-8-sig"),
    "UTF-16 as PowerShell writes": "x\r\nsound\r\n".encode("utf-16"),
}


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS)
def test_a_split_list_in_any_form_is_read(tmp_path: Path, content: bytes) -> None:
    write_xml(tmp_path, xml(SOUND))
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_bytes(content)
    assert boxes_by_image(read(voc(tmp_path))) == {"x": ONE, "sound": ONE}


def test_image_names_with_spaces_and_in_any_script_are_read(tmp_path: Path) -> None:
    names = {"my cells 07", "my cells 1", "my cells -1", "血液", "Käfer 1.5"}
    write_voc(tmp_path, dict.fromkeys(sorted(names), SOUND))
    assert boxes_by_image(read(voc(tmp_path))).keys() == names


def test_a_split_list_that_is_not_text_is_named(tmp_path: Path) -> None:
    write_xml(tmp_path, xml(SOUND))
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_bytes("Käfer\n".encode("latin-1"))
    refused(voc(tmp_path), r"trainval\.txt is not text in UTF-8.*save it as UTF-8")


def test_a_root_that_is_wrong_or_lacks_folders_is_reported_with_what_is_there(tmp_path: Path) -> None:
    refused(voc(tmp_path / "none"), r"none at all under .*none, which does not exist: check data\.root")
    root = tmp_path / "root"
    write_xml(root, xml(SOUND))
    refused(voc(root / "ImageSets"), r"none at all under .*, which has no ImageSets/Main/\*\.txt.*check data\.root")
    refused(
        voc(root, train_split="trian"),
        "VOC split 'trian': .*trian.txt does not exist; there are trainval\n.*data.train_split=trainval",
    )
    for folder, says in (
        (
            "Annotations",
            r"none of the 2 annotation files of the split exists; the first would be .*sound\.xml.*data\.root",
        ),
        ("JPEGImages", r"none of the 2 images of split 'trainval' exists; the first would be .*sound\.jpg.*data\.root"),
    ):
        (root / folder).rename(root / "away")
        for on_error in ("raise", "skip"):
            refused(voc(root, on_error=on_error), says)
        (root / "away").rename(root / folder)
