"""Missing images: the message names the file that fits, how its path differs, and what to do."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tiny_data import coco, voc, voc_object, write_coco, write_image, write_voc

from datamodules.errors import DataError
from datamodules.nearest import nearest

NFC, NFD = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))

CASES = {  # file_name, path of the file from the root, expected message
    "backslashes": (r"sub\a.png", "train/sub/a.png", "backslashes in place of slashes"),
    "Windows' absolute path": (
        r"C:\Users\bob\cells\a.png", "train/a.png",
        "backslashes in place of slashes, an absolute path of another machine",
    ),
    "absolute path": ("/home/bob/train/a.png", "train/a.png", "an absolute path of another machine"),
    "URL quotes": ("a%20b.png", "train/a b.png", "URL quotes, as %20 for a space"),
    "URL quotes on the disk": ("a b.png", "train/a%20b.png", "URL quotes in the name of the file itself"),
    "letter case": ("A.PNG", "train/a.png", "other letter case"),
    "letter case of a folder": ("Sub/a.png", "train/sub/a.png", "other letter case"),
    "composed": (NFC, f"train/{NFD}", "another Unicode form of a letter (NFC, NFD)"),
    "decomposed": (NFD, f"train/{NFC}", "another Unicode form of a letter (NFC, NFD)"),
    "folder too many": ("train/a.png", "train/a.png", "the folder train is one too many"),
    "folder too few": ("a.png", "train/images/a.png", "the folder images is lacking"),
    "other folder": ("a.png", "val/a.png", "the folder val in place of train"),
    "no ending": ("a", "train/a.png", "the ending .png is lacking"),
    "a URL": ("https://bucket.org/x/a.png", "train/a.png", "the folder https://bucket.org/x is one too many"),
    "other ending": ("a.jpg", "train/a.png", "the ending .png in place of .jpg"),
    "a URL's query": ("a.png?X-Amz-Date=1&sig=ab", "train/a.png", "a URL's query behind the name"),
    "zeros": ("img_7.png", "train/img_0007.png", "zeros before a number"),
    "zeros in the annotations": ("000000000139.jpg", "train/139.jpg", "zeros before a number"),
    "the same folder": ("./sub/a.PNG", "train/sub/a.png", "other letter case"),
    "space": ("a.png ", "train/a.png", "spaces around a name"),
    "several": (
        r"Images\A%20B.PNG", "images/a b.png",
        "backslashes in place of slashes, URL quotes, as %20 for a space, other letter case, "
        "the folder train is one too many",
    ),
}  # fmt: skip


def with_name(root: Path, name: str, file: str, size: bool = True) -> Path:
    """A data set of one image whose annotations call it `name`, while its file is at `file`."""
    write_coco(root, [(40, 60)], [[[1, 2, 10, 12]]])
    annotations = root / "annotations" / "instances_train.json"
    content: Any = json.loads(annotations.read_text())
    content["images"][0]["file_name"] = name
    if not size:
        del content["images"][0]["width"]
    annotations.write_text(json.dumps(content))
    (root / "train" / "train_0.png").unlink()
    write_image(root / file, (40, 60))
    return root


@pytest.mark.parametrize("case", CASES)
def test_coco_names_the_nearest_file_and_how_it_differs(case: str, tmp_path: Path) -> None:
    name, file, cause = CASES[case]
    root = with_name(tmp_path, name, file)
    with pytest.raises(DataError) as error:
        coco(root).setup("fit")
    told = next(line for line in str(error.value).splitlines() if line.startswith("nearest to "))
    assert f" is {tmp_path / file}: {cause}; " in told or f" is {str(tmp_path / file)!r}: {cause}; " in told
    assert not coco(root, **typed(str(error.value))).survey("train").missing


def typed(said: str) -> dict[str, Any]:
    """Types the commands in a message: runs those of the shell, and returns the settings."""
    for command in re.findall(r"^  (?:python|mv|mkdir|ln|sed) (?:.*)$", said, re.MULTILINE):
        subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    return dict(re.findall(r"data\.(annotations|images)='?([^'\s]+)", said))


@pytest.mark.parametrize(("name", "file"), [("a.png", "pictures/train/a.png"), ("train/a.png", "train/a.png")])
def test_the_message_has_the_override_that_finds_the_images_where_one_exists(
    name: str, file: str, tmp_path: Path
) -> None:
    root = with_name(tmp_path, name, file)
    with pytest.raises(DataError) as error:
        coco(root).setup("fit")
    images = {"a.png": "pictures/{split}", "train/a.png": "."}[name]
    assert str(error.value).endswith("set \"data.images='pictures/{split}'\"" if "{" in images else "set data.images=.")
    coco(root, images=images).setup("fit")


def test_the_cause_is_named_where_the_size_is_read_from_the_image(tmp_path: Path) -> None:
    root = with_name(tmp_path, "A.png", "train/a.png", size=False)
    with pytest.raises(DataError, match=r"no usable size(.|\n)*nearest to .*A\.png is .*a\.png: other letter case"):
        coco(root).setup("fit")


@pytest.mark.parametrize(
    ("stem", "file", "cause"),
    [
        ("a", "JPEGImages/A.jpg", "other letter case"),
        ("a", "images/a.jpg", "the folder images in place of JPEGImages"),
        (NFC.removesuffix(".png"), f"JPEGImages/{NFD.removesuffix('.png')}.jpg", "another Unicode form"),
    ],
)
def test_voc_names_the_nearest_file_too(stem: str, file: str, cause: str, tmp_path: Path) -> None:
    root = write_voc(tmp_path, {stem: voc_object("a", "1 1 9 9"), "other": voc_object("b", "1 1 9 9")})
    (root / "JPEGImages" / f"{stem}.jpg").unlink()
    write_image(root / file, (30, 40))
    with pytest.raises(
        DataError, match=f"missing image files: 1 of 2(.|\n)*{cause}.*; images lie in JPEGImages"
    ) as error:
        voc(root).setup("fit")
    assert voc(root, on_error="skip").survey("train").explained.startswith("nearest to ")
    typed(str(error.value))
    assert not voc(root).survey("train").missing


def test_a_folder_of_voc_by_another_name_is_linked(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9"), "y": voc_object("b", "1 1 9 9")})
    for name, other in (("JPEGImages", "pictures of cells"), ("Annotations", "annotations")):
        (root / name).rename(root / other)
        with pytest.raises(DataError, match=f"so\n  ln -s '?{other}'? .*{name}$") as error:
            voc(root).setup("fit")
        typed(str(error.value))
        voc(root).setup("fit")


def test_a_list_of_voc_whose_names_have_endings_is_corrected(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9"), "y": voc_object("b", "1 1 9 9")})
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("x.jpg\ny.jpg\n")
    with pytest.raises(DataError, match=r"their names end in \.jpg, as those of images do; so") as error:
        voc(root).setup("fit")
    typed(str(error.value))
    voc(root).setup("fit")


def test_links_to_nothing_are_told_and_not_taken_for_files(tmp_path: Path) -> None:
    root = write_coco(tmp_path, [(40, 60)], [[[1, 2, 10, 12]]])
    file = root / "train" / "train_0.png"
    file.unlink()
    file.symlink_to("/nowhere/train_0.png")
    with pytest.raises(DataError) as error:
        coco(root).setup("fit")
    assert f"{file}, a link to /nowhere/train_0.png, which does not exist. Check" in str(error.value)
    assert "nearest" not in str(error.value)
    file.unlink()
    write_coco(root, [(40, 60)] * 2, [[[1, 2, 10, 12]]] * 2)
    (root / "train" / "train_1.png").unlink()
    (root / "train" / "train_1.png").symlink_to("/nowhere/1.png")
    with pytest.raises(DataError, match=r"1 of 2\n  .*train_1\.png, a link to /nowhere/1\.png, which does not exist"):
        coco(root).setup("fit")


def test_only_some_missing_names_are_not_rewritten(tmp_path: Path) -> None:
    root = write_coco(tmp_path, [(40, 60)] * 2, [[[1, 2, 10, 12]]] * 2)
    annotations = root / "annotations" / "instances_train.json"
    content: Any = json.loads(annotations.read_text())
    for image, name in zip(content["images"], ("sub/train_0.png", r"sub\x.png"), strict=True):
        image["file_name"] = name
    annotations.write_text(json.dumps(content))
    for name in ("train_0.png", "x.png"):
        write_image(root / "train" / "sub" / name, (40, 60))
    with pytest.raises(DataError, match=r"backslashes") as error:
        coco(root).setup("fit")
    assert not coco(root, **typed(str(error.value))).survey("train").missing


def test_of_files_with_equal_names_the_one_sharing_most_folders_is_nearest(tmp_path: Path) -> None:
    for file in ("a.png", "val/x/a.png", "train/x/a.png", "train/a.jpg"):
        write_image(tmp_path / file, (4, 4))
    near = nearest(["/home/bob/train/x/a.png"], tmp_path)
    assert near is not None
    assert near.found == str(tmp_path / "train/x/a.png")


def test_a_missing_file_without_a_similar_one_is_skipped_for_the_next(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png", (4, 4))
    near = nearest([f"{tmp_path}/a.png", f"{tmp_path}/B.png"], tmp_path)
    assert near is not None
    assert near.missing.endswith("B.png")
    assert nearest([f"{tmp_path}/a.png"], tmp_path) is None


def test_where_no_image_is_missing_no_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.nearest._files", lambda _: pytest.fail("looked through"))
    data = coco(write_coco(tmp_path, [(40, 60)], [[[1, 2, 10, 12]]]))
    assert data.survey("train").explained == ""
