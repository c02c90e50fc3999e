"""Nothing of an archive leaves its folder, and nothing half unpacked is seen."""

import io
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniature_site import IMAGES, Site, files, offered, serving, tarred, zipped

from datamodules.download import command
from datamodules.errors import DataError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(monkeypatch) as found:
        yield found


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
