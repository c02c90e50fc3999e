"""Data sets are downloaded whole or not at all, go on after a break, and open by their names. No network is used."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from composing import composed
from hydra.utils import instantiate
from miniature_site import Site, serving, tarred, zipped
from tiny_data import voc_object

from datamodules.download import catalogue, command, fetching
from datamodules.download.catalogue import DATA_SETS, Archive, Part
from datamodules.download.progress import Progress, duration, written
from datamodules.download.transfer import Digest
from datamodules.errors import DataError
from datamodules.named_splits import SPLITS

TREE = Path(__file__).parents[2]
IMAGES = {f"val2017/{number}.jpg": bytes([number]) * 5000 for number in range(4)}
MIB = 1 << 20


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "_WAIT", 0.0)
    with serving() as found:
        yield found


def offered(site: Site, name: str, content: bytes, tag: str | None = '"one"', **options: object) -> Archive:
    """Puts an archive on the server; the entry of it states its true size and digest, unless told otherwise."""
    site.files[name] = content
    if tag:
        site.tags[name] = tag
    known = {"size": len(content), "digest": Digest("sha256", hashlib.sha256(content).hexdigest())}
    return Archive(f"{site.address}{name}", **{**known, "folders": (("val2017", 4),), **options})  # pyright: ignore[reportArgumentType]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_archive_is_downloaded_unpacked_and_removed_and_a_second_time_nothing_happens(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, root = offered(site, "val2017.zip", zipped(IMAGES)), tmp_path / "new" / "coco"
    command.download([archive], root)
    assert files(root) == IMAGES
    assert [path.name for path in root.iterdir()] == ["val2017"]
    said = capsys.readouterr().out
    assert re.search(r"^downloading val2017\.zip: 100 %, (\d+) bytes of \1 bytes, .*/s$", said, re.MULTILINE)
    assert "4 files are in" in said
    site.asked.clear()
    command.download([archive], root)
    assert site.asked == []
    assert "already in" in capsys.readouterr().out
    (root / "val2017" / "2.jpg").unlink()
    command.download([archive], root, keep=True)
    assert files(root) == {**IMAGES, "archives/val2017.zip": site.files["val2017.zip"]}
    capsys.readouterr()
    command.download([archive], root)
    assert f"{root / 'archives' / 'val2017.zip'} is no longer needed" in capsys.readouterr().out


@pytest.mark.parametrize("tag", ['"one"', None])
def test_a_broken_download_goes_on_where_it_broke(site: Site, tmp_path: Path, tag: str | None) -> None:
    content = zipped({name: os.urandom(MIB) for name in IMAGES})
    archive = offered(site, "val2017.zip", content, tag)
    site.breaks_at = [MIB + 7, MIB]
    command.download([archive], tmp_path)
    assert [wanted for _, wanted in site.asked] == [None, f"bytes={MIB + 7}-", f"bytes={2 * MIB + 7}-"]
    assert len(files(tmp_path)) == 4


def test_a_killed_download_goes_on_in_another_start(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = offered(site, "val2017.zip", zipped({name: os.urandom(MIB) for name in IMAGES}))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    site.breaks_at = [100]
    monkeypatch.setattr(fetching, "time", SimpleNamespace(sleep=stop))
    with pytest.raises(KeyboardInterrupt):
        command.download([archive], tmp_path)
    assert set(files(tmp_path)) == {"archives/val2017.zip.part", "archives/val2017.zip.part.version"}
    command.download([archive], tmp_path)
    assert site.asked[-1] == ("val2017.zip", "bytes=100-")
    assert len(files(tmp_path)) == 4


@pytest.mark.parametrize("why", ["no ranges", "another version", "nothing would tell"])
def test_where_the_rest_would_be_of_another_file_it_starts_anew(site: Site, tmp_path: Path, why: str) -> None:
    known = {"digest": None, "size": None} if why == "nothing would tell" else {}
    archive = offered(site, "val2017.zip", zipped(IMAGES), None if known else '"two"', **known)
    part = tmp_path / "archives" / "val2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"?" * 100)
    if not known:
        part.with_name(f"{part.name}.version").write_text('"one"')
    site.has_ranges = why != "no ranges"
    command.download([archive], tmp_path)
    assert site.asked == [("val2017.zip", None if known else "bytes=100-")]
    assert files(tmp_path) == IMAGES


@pytest.mark.parametrize("extra", [0, 50])
def test_a_part_as_long_as_the_file_or_longer_ends_well(site: Site, tmp_path: Path, extra: int) -> None:
    """Where the size is not published, the server tells by its 416."""
    content = zipped(IMAGES)
    archive = offered(site, "val2017.zip", content, None, size=None)
    part = tmp_path / "archives" / "val2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(content + b"?" * extra)
    command.download([archive], tmp_path)
    assert len(site.asked) == (2 if extra else 1)
    assert files(tmp_path) == IMAGES


def test_a_wrong_checksum_removes_what_came_and_says_so(site: Site, tmp_path: Path) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES), digest=Digest("md5", "0" * 32))
    with pytest.raises(
        DataError, match=rf"its MD5 begins with [0-9a-f]{{32}}, not {'0' * 32}.*It was removed"
    ) as raised:
        command.download([archive], tmp_path / "coco")
    assert archive.url in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_put_there_by_hand_is_checked_and_used_or_left(site: Site, tmp_path: Path) -> None:
    archive, file = offered(site, "val2017.zip", zipped(IMAGES)), tmp_path / "archives" / "val2017.zip"
    file.parent.mkdir()
    file.write_bytes(b"half of it")
    with pytest.raises(DataError, match=rf"{file} is not the published .*: it has 10 bytes, not \d+\. Remove it"):
        command.download([archive], tmp_path)
    file.write_bytes(site.files["val2017.zip"])
    command.download([archive], tmp_path)
    assert site.asked == []
    assert files(tmp_path) == IMAGES


def test_another_size_is_refused_before_the_body_and_a_page_by_name(site: Site, tmp_path: Path) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES))
    site.files["val2017.zip"] = b"<html>sign in</html>"
    with pytest.raises(DataError, match=r"the server has a file of 20 bytes, the published one has \d+"):
        command.download([archive], tmp_path / "coco")
    with pytest.raises(DataError, match=r"page of HTML, perhaps of a proxy\. It was removed"):
        command.download([replace(archive, size=None, digest=None)], tmp_path / "coco")
    assert list(tmp_path.iterdir()) == []


def test_where_no_sum_is_published_a_line_says_so(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.states_length = False
    command.download([offered(site, "val2017.zip", zipped(IMAGES), size=None, digest=None)], tmp_path)
    assert "val2017.zip: no checksum of it is published" in capsys.readouterr().out
    assert files(tmp_path) == IMAGES


@pytest.mark.parametrize("url", ["gone.zip", "http://127.0.0.1:9/val2017.zip"])
def test_a_download_that_fails_says_what_to_do_by_hand_and_leaves_nothing(site: Site, tmp_path: Path, url: str) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES))
    archive = replace(archive, url=url if ":" in url else site.address + url)
    with pytest.raises(DataError, match="HTTP Error 404" if "gone" in url else "refused") as raised:
        command.download([archive], tmp_path / "new" / "coco")
    said = str(raised.value)
    assert archive.digest
    for word in (archive.url, f"{archive.size} bytes", f"SHA-256 {archive.digest.first}"):
        assert word in said
    assert f"put it at {tmp_path / 'new' / 'coco' / 'archives' / archive.name}" in said
    assert list(tmp_path.iterdir()) == []


def with_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_space_is_asked_for_before_the_first_byte(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = offered(site, "a.zip", b"a" * 1000, folders=(("a", 1),))
    two = offered(site, "b.zip", b"b" * 5000, folders=(("b", 1),), growth=4)
    # a.zip is unpacked (1000) and gone when b.zip comes (5000 and 20000)
    for keep, needed in ((False, 26_000), (True, 27_000)):
        with_space(monkeypatch, needed - 1)
        with pytest.raises(
            DataError, match=r"needs 2\d\.0 kB of free space.*b\.zip 5\.0 kB and unpacked up to 20\.0 kB"
        ):
            command._check_all([one, two], tmp_path, keep)
        with_space(monkeypatch, needed)
        command._check_all([one, two], tmp_path, keep)
    with_space(monkeypatch, 10_000)
    with pytest.raises(DataError, match=r"Free some, give a --root on another disk, or fewer --parts"):
        command.download([one, two], tmp_path / "coco")
    assert site.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_came(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES))

    def full(answer: object, file: io.BufferedWriter, *_: object) -> None:
        file.write(b"12345")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fetching, "receive", full)
        with pytest.raises(DataError, match=r"no space is left for .*val2017\.zip\.part, of which 5 bytes have come"):
            command.download([archive], tmp_path)
    assert (tmp_path / "archives" / "val2017.zip.part").read_bytes() == b"12345"


def link_in_zip() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        info = zipfile.ZipInfo("val2017/link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "member", "why"),
    [
        ("a.zip", zipped({**IMAGES, "../outside": b""}), "../outside", "leads out"),
        ("a.zip", zipped({**IMAGES, "/outside": b""}), "/outside", "absolute path"),
        ("a.zip", zipped({**IMAGES, "..\\outside": b""}), "..\\outside", "no path has"),
        ("a.zip", link_in_zip(), "val2017/link.jpg", "is a link"),
        ("a.tar", tarred({**IMAGES, "val2017/../../outside": b""}), "val2017/../../outside", "leads out"),
        ("a.tgz", tarred({**IMAGES, "/outside": b""}, "w:gz"), "/outside", "absolute path"),
        ("a.tar", tarred(IMAGES, links={"val2017/link.jpg": "0.jpg"}), "val2017/link.jpg", "is a link"),
    ],
)
def test_a_member_that_would_lie_outside_is_refused_by_name_before_any_is_written(
    site: Site, tmp_path: Path, name: str, content: bytes, member: str, why: str
) -> None:
    archive = offered(site, name, content)
    with pytest.raises(DataError, match=why) as raised:
        command.download([archive], tmp_path / "coco")
    assert f"its member {member!r} " in str(raised.value)
    assert set(files(tmp_path)) == {f"coco/archives/{name}"}


def test_a_killed_unpacking_goes_on_and_shows_no_half(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES))
    staging = tmp_path / "archives" / "val2017.zip.unpacking" / "val2017"
    opened, copied = shutil.copyfileobj, list[object]()

    def killed(source: object, target: io.BufferedWriter, length: int) -> None:
        if len(copied) == 2:
            target.write(b"half")
            raise KeyboardInterrupt
        copied.append(source)
        opened(source, target, length)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            command.download([archive], tmp_path)
    assert not (tmp_path / "val2017").exists()
    assert {path.name for path in staging.iterdir()} == {"0.jpg", "1.jpg", "2.jpg"}
    first = (staging / "0.jpg").stat().st_mtime_ns
    site.asked.clear()
    command.download([archive], tmp_path)
    assert site.asked == []
    assert files(tmp_path) == IMAGES
    assert (tmp_path / "val2017" / "0.jpg").stat().st_mtime_ns == first


def test_a_users_file_in_the_way_is_not_overwritten(site: Site, tmp_path: Path) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES))
    mine = tmp_path / "val2017" / "1.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match=rf"{mine} has 4 bytes, and that in the archive has 5000 bytes\. Remove or"):
        command.download([archive], tmp_path)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_a_damaged_archive_is_named(site: Site, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"archives/{name} can't be unpacked .*; remove it"):
        command.download([offered(site, name, b"no archive" * 100)], tmp_path)


def test_an_archive_without_what_it_should_hold_is_said(site: Site, tmp_path: Path) -> None:
    archive = offered(site, "val2017.zip", zipped(IMAGES), files=("annotations/instances_val2017.json",))
    with pytest.raises(DataError, match=r"should be annotations/instances_val2017\.json, val2017 with 4 files"):
        command.download([archive], tmp_path)


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
