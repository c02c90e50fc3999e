"""The command that downloads data sets, its catalogue and its line of progress."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from composing import composed
from hydra.utils import instantiate
from miniature_site import Site, offered, serving, tarred, zipped
from tiny_data import voc_object

from datamodules.download import catalogue, command
from datamodules.download.catalogue import DATA_SETS, Part
from datamodules.download.progress import Progress, duration, written
from datamodules.errors import DataError
from datamodules.named_splits import SPLITS

TREE = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(monkeypatch) as found:
        yield found


def test_two_downloads_into_one_folder_are_not_at_once(tmp_path: Path) -> None:
    second = command._folder(tmp_path)
    with command._folder(tmp_path), pytest.raises(DataError, match=r"another download into .* is running"):
        second.__enter__()


# The catalogue


def test_every_split_with_a_public_source_has_a_command_that_downloads_it() -> None:
    served = [split for parts in DATA_SETS.values() for part in parts.values() for split in part.splits]
    assert set(SPLITS) - set(served) == {
        "voc_2012_test", *(name for name in SPLITS if name.startswith("cityscapes"))
    }  # fmt: skip
    assert set(served) <= set(SPLITS)
    assert set(DATA_SETS) <= {file.stem for file in (TREE / "conf" / "data").glob("*.yaml")}


@pytest.mark.parametrize("name", DATA_SETS)
def test_what_shows_that_an_archive_is_there_is_what_its_splits_read(name: str) -> None:
    for part in DATA_SETS[name].values():
        shown = [path for one in part.archives for path in (*one.files, *one.lists, *(key for key, _ in one.folders))]
        for split in part.splits:
            listed, *others = SPLITS[split].files
            assert (
                listed in shown
                or split in ("voc_2007_train", "voc_2007_val", "voc_2012_train", "voc_2012_val")
                or (split.startswith("keypoints_coco_2014_") and "minival" in split)
            )
            assert all(path in shown or path.startswith("VOC") for path in others)


def test_digests_are_whole() -> None:
    for archive in {one for parts in DATA_SETS.values() for part in parts.values() for one in part.archives}:
        if archive.digest:
            assert re.fullmatch(r"[0-9a-f]+", archive.digest.first)
            assert len(archive.digest.first) == {"sha256": 64, "md5": 32}[archive.digest.algorithm]


def test_members_go_where_their_splits_read_them() -> None:
    assert catalogue._without_devkit("VOCdevkit/VOC2007/JPEGImages/1.jpg") == "VOC2007/JPEGImages/1.jpg"
    assert catalogue._to_annotations("x/instances_minival2014.json") == "annotations/instances_minival2014.json"
    assert catalogue._to_annotations("annotations/._instances_minival2014.json") is None
    assert catalogue._to_years("PASCAL_VOC/pascal_test2007.json") == "VOC2007/Annotations/pascal_test2007.json"
    assert catalogue._to_years("PASCAL_VOC/readme.txt") is None


# The command


def picture() -> bytes:
    return cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes()


def miniature_of_coco(site: Site) -> dict[str, Part]:
    annotations: dict[str, bytes] = {}
    parts: dict[str, Part] = {}
    for number, split in enumerate(("train", "val"), 1):
        file = f"{number}.jpg"
        content = {
            "images": [{"id": number, "file_name": file, "height": 30, "width": 40}],
            "annotations": [{"id": 1, "image_id": number, "category_id": 1, "bbox": [4, 5, 20, 10], "area": 200}],
            "categories": [{"id": 1, "name": "person"}],
        }
        annotations[f"annotations/instances_{split}2017.json"] = json.dumps(content).encode()
        images = offered(
            site, f"{split}2017.zip", zipped({f"{split}2017/{file}": picture()}), folders=((f"{split}2017", 1),)
        )
        parts[split] = Part((images,), (f"coco_2017_{split}",))
    both = offered(site, "annotations.zip", zipped(annotations), files=tuple(annotations), folders=())
    return {key: Part((both, *part.archives), part.splits) for key, part in parts.items()}


def test_after_the_command_the_data_set_opens_by_its_name(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATA_SETS, "coco2017", miniature_of_coco(site))
    assert command.main(["coco2017", "--root", str(tmp_path), "--parts", "val"]) == 0
    assert not (tmp_path / "train2017").exists()
    assert command.main(["coco2017", "--root", str(tmp_path)]) == 0
    assert f"python train.py data=coco2017 data.root={tmp_path}" in capsys.readouterr().out
    assert [name for name, _ in site.asked] == ["annotations.zip", "val2017.zip", "train2017.zip"]
    assert command.main(["coco2017", "--root", str(tmp_path)]) == 0
    assert len(site.asked) == 3
    options = ["data=coco2017", f"data.root={tmp_path}", "data.num_classes=1", "data.num_workers=0"]
    data = instantiate(composed("model=fcos", *options).data)
    data.setup("fit")
    assert data.truth("train").boxes.tolist() == [[4, 5, 24, 15]]
    assert data.image("val", 2).shape == (30, 40, 3)


def test_the_devkits_tar_opens_by_its_name(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = "<annotation><size><width>40</width><height>30</height><depth>3</depth></size>{}</annotation>"
    home = "VOCdevkit/VOC2007/"
    content = tarred(
        {
            f"{home}ImageSets/Main/trainval.txt": b"000005\n", f"{home}JPEGImages/000005.jpg": picture(),
            f"{home}Annotations/000005.xml": xml.format(voc_object("dog", "5 6 24 15")).encode(),
        }
    )  # fmt: skip
    published = DATA_SETS["voc2007"]["trainval"].archives[0]
    one = offered(site, "a.tar", content, folders=(), lists=published.lists, place=published.place)
    monkeypatch.setitem(DATA_SETS, "voc2007", {"trainval": Part((one,), ("voc_2007_trainval",))})
    assert command.main(["voc2007", "--root", str(tmp_path)]) == 0
    splits = [f"data.{role}_split=voc_2007_trainval" for role in ("train", "val", "test")]
    data = instantiate(composed("model=fcos", "data=voc2007", f"data.root={tmp_path}", *splits).data)
    data.setup("fit")
    assert data.truth("train").boxes.tolist() == [[4, 5, 24, 15]]
    (tmp_path / "VOC2007" / "JPEGImages" / "000005.jpg").unlink()
    assert not one.is_unpacked(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["coco2071", "--root", "x"], "no data set 'coco2071'; did you mean coco2017?"),
        (["coco2017", "--root", "x", "--parts", "vals"], "coco2017 has no part 'vals'; did you mean val?"),
        (["coco2017", "--root", "x", "--parts", ","], "coco2017 has no part ''; there are train, val, test"),
    ],
)
def test_a_wrong_name_gets_the_nearest(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 1
    assert said in capsys.readouterr().err


def test_a_folder_that_can_not_be_made_is_an_error_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert command.main(["voc2007", "--root", str(tmp_path / "file")]) == 1
    assert "see that the folder can be written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command.main(["voc2007"])
    assert ended.value.code == 2


def test_the_list_has_every_data_set_part_and_size() -> None:
    lines = command.listed().splitlines()
    assert "coco2017: 20.4 GB" in lines
    assert len(lines) == sum(1 + len(parts) for parts in DATA_SETS.values())
    assert "  minival       coco_annotations_minival.tgz about 75.0 MB, val2014.zip 6.6 GB" in lines


def test_documented_commands_name_data_sets_and_parts_that_exist() -> None:
    pages = "\n".join(page.read_text() for page in [TREE / "README.md", *(TREE / "docs").glob("*.md")])
    commands = re.findall(r"python -m datamodules\.download ([^`\n]*)", pages)
    assert len(commands) >= 2
    for words in commands:
        options = command.parser().parse_args(words.split())
        assert options.list or command.chosen(options.data_set, options.parts)


# Progress


def test_a_log_gets_a_line_a_tenth_and_a_terminal_one_line_in_all() -> None:
    now = iter(float(second) for second in range(1000))
    log = io.StringIO()
    progress = Progress("downloading a.zip", 1000 * MIB, stream=log, clock=lambda: next(now))
    for done in range(0, 1000 * MIB + 1, 10 * MIB):
        progress(done)
    progress.close()
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "downloading a.zip:  10 %, 105 MB of 1.0 GB, 9.5 MB/s, 99 s left".replace("99 s", "2 min")
    assert lines[-1].startswith("downloading a.zip: 100 %, 1.0 GB of 1.0 GB, ")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    progress = Progress("a", 100, done=50, stream=terminal, clock=lambda: next(now))
    progress(75)
    progress(100)
    progress.close()
    first, second = terminal.getvalue().split("\r")[1:]
    assert first == "a:  75 %, 75 bytes of 100 bytes, 25 bytes/s, 1 s left"
    assert second.rstrip() == "a: 100 %, 100 bytes of 100 bytes, 25 bytes/s"
    assert second.endswith("\n")
    assert len(second.rstrip("\n")) >= len(first)  # nothing of the longer line stays visible


def test_numbers_are_written_short() -> None:
    assert [written(n) for n in (999, 1000, 99_960, 999_600, 19_336_861_798)] == [
        "999 bytes", "1.0 kB", "100 kB", "1.0 MB", "19.3 GB"
    ]  # fmt: skip
    assert [duration(s) for s in (40, 89, 720, 11_100)] == ["40 s", "89 s", "12 min", "3 h 05 min"]
