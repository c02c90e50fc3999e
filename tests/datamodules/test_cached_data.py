"""A cached index never hides later changes of the data, and finds a folder whatever is read-only."""

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from corpus_coco import changed, sound_coco, write_content
from corpus_voc import SOUND, write_xml, xml
from tiny_data import coco, voc, voc_object, write_image

from datamodules import index
from datamodules.base import DetectionDataModule

TWO = [[1, 1, 10, 10], [2, 2, 11, 11]]


def boxes(data: DetectionDataModule) -> list[list[float]]:
    data.setup("fit")
    return data.truth("train").boxes.tolist()


# Data that change


def test_annotations_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    write_content(tmp_path, sound_coco())
    assert boxes(coco(tmp_path)) == TWO
    file = write_content(tmp_path, changed("annotations.1.bbox", [3, 3, 9, 9]))  # of the same size
    assert boxes(coco(tmp_path)) == [TWO[0], [3, 3, 12, 12]]

    new = file.with_suffix(".new")
    new.write_text(json.dumps(sound_coco()))
    os.utime(new, ns=(os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns))  # `mv` of a copy made by `cp -p`
    new.rename(file)
    assert boxes(coco(tmp_path)) == TWO


def test_an_xml_that_was_edited_is_read_again(tmp_path: Path) -> None:
    file = write_xml(tmp_path, xml(SOUND))
    assert boxes(voc(tmp_path)) == [[0, 0, 9, 9]] * 2
    file.write_bytes(xml(voc_object("a", "2 2 9 9")))
    assert boxes(voc(tmp_path)) == [[0, 0, 9, 9], [1, 1, 9, 9]]


def test_a_list_that_changed_is_read_again(tmp_path: Path) -> None:
    write_xml(tmp_path, xml(SOUND))
    assert len(boxes(voc(tmp_path))) == 2
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("x\n")
    assert len(boxes(voc(tmp_path))) == 1


def test_a_file_that_was_only_touched_gives_the_same(tmp_path: Path) -> None:
    file = write_content(tmp_path, sound_coco())
    assert boxes(coco(tmp_path)) == TWO
    os.utime(file, ns=(1, 1))
    assert boxes(coco(tmp_path)) == TWO


def test_missing_annotations_are_noticed_despite_a_cached_index(tmp_path: Path) -> None:
    file = write_content(tmp_path, sound_coco())
    boxes(coco(tmp_path))
    file.unlink()
    with pytest.raises(
        ValueError, match=r"instances_train\.json does not exist; there is no JSON file in .*data\.root"
    ):
        boxes(coco(tmp_path))
    (tmp_path / "annotations").rmdir()
    with pytest.raises(ValueError, match=r"instances_train\.json does not exist"):
        boxes(coco(tmp_path))


def test_missing_images_are_noticed_despite_a_cached_index(tmp_path: Path) -> None:
    write_content(tmp_path, sound_coco())
    boxes(coco(tmp_path))
    (tmp_path / "train" / "train_1.png").rename(tmp_path / "away")
    with pytest.raises(
        ValueError, match=r"missing image files: 1 of 2\n  .*train_1\.png\nRestore .* or set data\.on_error=skip"
    ):
        boxes(coco(tmp_path))
    (tmp_path / "away").rename(tmp_path / "train" / "train_1.png")
    assert boxes(coco(tmp_path)) == TWO
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"none of the 2 images .* exists; .*data\.root.*mounted"):
        boxes(coco(tmp_path))


def test_an_image_of_another_size_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    write_content(tmp_path, sound_coco())
    boxes(coco(tmp_path))
    write_image(tmp_path / "train" / "train_1.png", (50, 60))
    data = coco(tmp_path)
    boxes(data)
    with pytest.raises(ValueError, match=r"train_1\.png is 60 x 50 pixels, but its annotation says 60 x 40"):
        list(data.train_dataloader())


# Damaged cache files


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_each(file: Path) -> None:
    """Flips one bit of the last byte that is not padding: of the last annotation id."""
    data = bytearray(file.read_bytes())
    place = max(i for i, byte in enumerate(data) if byte)
    data[place] ^= 1
    file.write_bytes(data)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [cut, flip_each, folder])
def test_a_damaged_index_is_built_again(tmp_path: Path, damage: Any) -> None:
    write_content(tmp_path, sound_coco())
    options = {"cache_dir": str(tmp_path / "cache")}
    assert boxes(coco(tmp_path, **options)) == TWO
    (file,) = (tmp_path / "cache").glob("*.index")
    before = file.read_bytes()
    damage(file)
    assert boxes(coco(tmp_path, **options)) == TWO
    assert file.read_bytes() == before


def test_a_folder_in_the_place_of_an_index_that_holds_files_is_named(tmp_path: Path) -> None:
    write_content(tmp_path, sound_coco())
    options = {"cache_dir": str(tmp_path / "cache")}
    boxes(coco(tmp_path, **options))
    (file,) = (tmp_path / "cache").glob("*.index")
    folder(file)
    (file / "precious").touch()
    with pytest.raises(OSError, match=rf"can't write {file} .*not empty.*data\.cache_dir=FOLDER"):
        boxes(coco(tmp_path, **options))
    assert (file / "precious").exists()


def test_an_index_of_another_version_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_content(tmp_path, sound_coco())
    options = {"cache_dir": str(tmp_path / "cache")}
    boxes(coco(tmp_path, **options))
    (old,) = (tmp_path / "cache").glob("*.index")
    old_bytes = old.read_bytes()
    monkeypatch.setattr(index, "READER_VERSION", index.READER_VERSION + 1)
    assert boxes(coco(tmp_path, **options)) == TWO
    assert len(list((tmp_path / "cache").glob("*.index"))) == 2
    assert old.read_bytes() == old_bytes


# Places that can't be written


def test_nothing_is_written_under_the_data_root(tmp_path: Path) -> None:
    write_content(tmp_path / "coco", sound_coco())
    write_xml(tmp_path / "voc", xml(SOUND))

    def everything() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    before = everything()
    for data in (coco(tmp_path / "coco"), voc(tmp_path / "voc")):
        data.setup()
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert list(loader)
        assert os.fspath(tmp_path) not in os.fspath(data._split("train").index.path)
    assert everything() == before


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for indexes where no other can be used."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    index._warn_once.cache_clear()
    return tmp_path / "tmp" / f"boxwright-{os.getuid()}"


def no_folder_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")  # not even root can write there


def a_file_is_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def the_user_has_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id without an account


def nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user = tmp_path / "user"
    monkeypatch.setenv("XDG_CACHE_HOME", str(user))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *mode, **how: user not in path.parents and access(path, *mode, **how)
    )


@pytest.mark.parametrize(
    "obstacle", [no_folder_can_be_made, a_file_is_in_the_way, the_user_has_no_home, nothing_can_be_written]
)
def test_an_index_goes_to_the_temporary_folder_where_the_users_cache_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path, obstacle: Any
) -> None:
    write_content(tmp_path, sound_coco())
    obstacle(monkeypatch, tmp_path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            data = coco(tmp_path)
            assert boxes(data) == TWO
            assert data._split("train").index.path.parent == temporary
    (message,) = [str(warning.message) for warning in told]
    assert f"annotation indexes are kept in {temporary}, since the user's cache folder can't be used (" in message
    assert "data.cache_dir=FOLDER" in message
    assert temporary.stat().st_mode & 0o077 == 0


def test_a_temporary_folder_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    write_content(tmp_path, sound_coco())
    no_folder_can_be_made(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(
        OSError, match=r"no place to keep annotation indexes \(.*boxwright-4711 belongs to another user"
    ):
        boxes(coco(tmp_path))


def test_a_configured_cache_folder_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_content(tmp_path, sound_coco())
    with pytest.raises(OSError, match=r"can't keep annotation indexes in /proc/nothing .*set data\.cache_dir"):
        boxes(coco(tmp_path, cache_dir="/proc/nothing"))
    nothing_can_be_written(monkeypatch, tmp_path)
    with pytest.raises(OSError, match=r"can't write to .*user, where annotation indexes are kept; set data\.cache_dir"):
        boxes(coco(tmp_path, cache_dir=str(tmp_path / "user" / "user")))


def test_an_index_in_a_cache_folder_that_is_read_only_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_content(tmp_path, sound_coco())
    options = {"cache_dir": str(tmp_path / "user" / "cache")}
    boxes(coco(tmp_path, **options))
    nothing_can_be_written(monkeypatch, tmp_path)
    assert boxes(coco(tmp_path, **options)) == TWO
