"""Data sets are downloaded whole or not at all, continue after a break, and open by their names. No network is used."""

import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from miniature_site import IMAGES, Site, files, offered, serving, zipped

from datamodules.download import command, fetching
from datamodules.download.transfer import Digest
from datamodules.errors import DataError

MIB = 1 << 20


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(monkeypatch) as found:
        yield found


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
