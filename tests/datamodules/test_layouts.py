"""Folders as annotation tools export them: the message names the format, and its command reads the data."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from exports import NAMES, NOT_READ, READ, coco_json, devkit, images, label_studio_json, plain_coco
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from tiny_data import coco, voc, write_coco

from boxwright.config.files import CONF
from datamodules.coco import CocoDataModule
from datamodules.errors import DataError
from datamodules.layouts.layout import typed
from datamodules.voc import VocDataModule

DOCUMENTED = ("roboflow_coco", "cvat_coco", "cvat_voc", "label_studio_coco")
"""Layouts whose settings are in docs/data.md."""


def documented() -> list[list[str]]:
    """The settings after `data.root` of each command in docs/data.md."""
    text = re.sub(r" *\\\n *", " ", (CONF.parent / "docs" / "data.md").read_text())
    return [shlex.split(rest) for rest in re.findall(r"data\.root=/data/cells (.+)", text)]


def refusal(reader: str, root: Path) -> str:
    """The message of `data=coco` or `data=voc` for a folder without further settings."""
    make = {"coco": CocoDataModule, "voc": VocDataModule}[reader]
    with pytest.raises(DataError) as error:
        make(root=str(root)).setup("fit")
    return str(error.value)


def opened(overrides: list[str]) -> Any:
    """The data module of a command line, set up for training."""
    module = instantiate(composed(*overrides, "data.num_workers=0", "data.resize=64").data)
    module.setup("fit")
    return module


@pytest.mark.parametrize("layout", READ)
def test_the_command_in_the_message_reads_the_data(layout: str, tmp_path: Path) -> None:
    make, what, reader = READ[layout]
    make(tmp_path)
    said_of_others = [refusal(other, tmp_path) for other in ("coco", "voc") if other != reader]
    said = refusal(reader, tmp_path) if reader in ("coco", "voc") else said_of_others[0]
    assert f"{tmp_path} holds {what}" in said
    *steps, typed = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    words = shlex.split(typed.removeprefix(f"data={reader} "))
    for said_of_other in said_of_others:
        assert said_of_other.endswith(f"\n  data={reader} {typed.removeprefix(f'data={reader} ')}")
    if layout in DOCUMENTED:
        assert shlex.split(typed.removeprefix(f"data={reader} ")) in documented()
    for step in steps:
        subprocess.run(step, shell=True, check=True)
    module = opened([f"data={reader}", f"data.root={tmp_path}", *words])
    train, val = module.truth("train"), module.truth("val")
    assert module.class_names == (tuple(sorted(NAMES)) if reader != "text_list" else ("nucleus", "wall"))
    assert len(train.boxes) == 2 * len(train.image_ids) > 0
    assert len(val.boxes) == 2 * len(val.image_ids) > 0
    assert module.survey("train").missing == module.survey("val").missing == []


@pytest.mark.parametrize("reader", ["coco", "voc"])
@pytest.mark.parametrize("layout", NOT_READ)
def test_an_unsupported_layout_is_named_with_a_way_to_convert_it(layout: str, reader: str, tmp_path: Path) -> None:
    make, what = NOT_READ[layout]
    make(tmp_path)
    expected = re.escape(f"{tmp_path} holds {what}").replace(r"\.\*", ".*")
    assert re.search(expected, refusal(reader, tmp_path))


def test_an_export_whose_images_are_not_there_is_told_so(tmp_path: Path) -> None:
    coco_json(tmp_path / "annotations" / "instances_default.json", ["sub/a.jpg"])
    says = (
        "a COCO export of CVAT, whose images are not where it says: there is no sub/a.jpg, export it with images; then"
    )
    assert f"{says}, to read it, add\n" in refusal("coco", tmp_path)
    images(tmp_path / "pictures", "A.jpg")
    assert f"nearest to {tmp_path}/sub/a.jpg is {tmp_path}/pictures/A.jpg: other letter case" in refusal(
        "coco", tmp_path
    )


def test_the_devkit_is_found_in_a_folder_further_down(tmp_path: Path) -> None:
    devkit(tmp_path)
    said = refusal("voc", tmp_path)
    assert said.endswith(
        f"data.root={tmp_path}/VOCdevkit data.train_split=2012_trainval data.val_split=2012_trainval "
        "data.test_split=2012_trainval data.val_fraction=0.1"
    )


def test_an_unknown_layout_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of ours")
    (tmp_path / "labels").mkdir()
    for reader in ("coco", "voc"):
        said = refusal(reader, tmp_path)
        assert " holds " not in said
        assert f"\n{tmp_path} has labels/, notes.txt; docs/data.md has the layouts that are read" in said
    assert f"\n{tmp_path / 'labels'} is empty; " in refusal("coco", tmp_path / "labels")
    assert "docs/data.md" not in refusal("coco", tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "says"), [
    ("cells.json", "set data.root={root} data.annotations=cells.json, and data.images"),
    ("cells.zip", "unpack it, or set data.root={root}"),
])  # fmt: skip
def test_a_file_in_the_place_of_the_folder_is_named(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    said = refusal("coco", tmp_path / name)
    assert f"{tmp_path / name} is a file, where a folder is expected; {says.format(root=tmp_path)}" in said


def test_a_file_of_another_format_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    label_studio_json(tmp_path)
    (file,) = tmp_path.glob("*.json")
    with pytest.raises(DataError, match=r"has no list 'images', it is a list itself(.|\n)*JSON export of Label Studio"):
        coco(tmp_path, annotations=file.name).setup("fit")


def test_a_valid_folder_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.layouts.recognise", lambda _: pytest.fail("looked through"))
    coco(write_coco(tmp_path, [(48, 64)], [[[1, 2, 10, 12]]])).setup("fit")


def test_a_misspelt_split_is_refused_with_the_existing_splits(tmp_path: Path) -> None:
    plain_coco(tmp_path)
    with pytest.raises(DataError, match=r"there are cells-train\.json, cells-val\.json"):
        coco(tmp_path / "my data", annotations="cells-{split}.json", train_split="trian").setup("fit")
    with pytest.raises(DataError, match="none at all"):
        voc(tmp_path).setup("fit")


@pytest.mark.parametrize(
    "text",
    [
        "train",
        "2012_trainval",
        "07",
        "1_000",
        "1e5",
        "null",
        "True",
        "a b",
        ".",
        "../a",
        "-",
        "it's",
        'say "so"',
        "{split}/$x",
        "C:\\x\\",
        "",
    ],
)
def test_a_setting_is_written_as_the_shell_and_hydra_read_it(text: str) -> None:
    words = shlex.split(typed({"train_split": text, "classes": ["a", text]}))
    split, classes = (parsed.value() for parsed in OverridesParser.create().parse_overrides(words))
    assert (split, classes) == (text, ["a", text])
