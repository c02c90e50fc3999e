import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_image

from datamodules.index import AnnotationIndex, cached
from datamodules.records import ImageRecord, Records


class Reader:
    """Reads two images with one box each, and counts its calls."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder, self.seconds, self.calls = folder, seconds, 0
        self.source = folder / "source.txt"
        self.source.write_text("x")
        for i in range(2):
            write_image(folder / f"{i}.png", (10, 20), i)

    def __call__(self) -> Records:
        self.calls += 1
        time.sleep(self.seconds)
        records = Records(lambda box: box.tolist(), "box")
        records.class_names, records.category_ids = ["a"], [1]
        images = [ImageRecord(str(self.folder / f"{i}.png"), "source", i, (10, 20)) for i in range(2)]
        for row in records.add_images(images):
            if row >= 0:
                records.add_box(row, 0, (1, 2, 3, 5), annotation_id=row)
        return records

    def index(self) -> AnnotationIndex:
        return cached("test", [str(self.source)], [self.source], self, self.folder / "cache")

    @property
    def file(self) -> Path:
        (file,) = (self.folder / "cache").glob("*.index")
        return file


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_arrays_come_back_from_the_file_as_they_were(reader: Reader) -> None:
    for _ in range(2):
        index = reader.index()
        assert len(index) == 2
        assert index.boxes.tolist() == [[1, 2, 3, 5]] * 2
        assert index.areas.tolist() == [6, 6]
        assert index.offsets.tolist() == [0, 1, 2]
        assert index.sizes.tolist() == [[10, 20]] * 2
        assert index.image_path(1) == str(reader.folder / "1.png")
        assert index.image_id(1) == 1
        assert index.class_names == ("a",)
        assert not index.boxes.flags.writeable
    assert reader.calls == 1


def test_index_is_rebuilt_when_its_source_changes(reader: Reader) -> None:
    reader.index()
    os.utime(reader.source, ns=(1, 1))
    reader.index()
    assert reader.calls == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "payload", "text"])
def test_a_damaged_cache_file_is_rebuilt(reader: Reader, damage: str) -> None:
    reader.index()
    whole = reader.file.read_bytes()
    flip = {"header": 100, "payload": len(whole) - 70}.get(damage)
    if flip:
        broken = whole[:flip] + bytes([whole[flip] ^ 1]) + whole[flip + 1 :]
    else:
        broken = {"cut": whole[:-64], "empty": b"", "text": b"hello"}[damage]
    reader.file.write_bytes(broken)
    assert reader.index().boxes.tolist() == [[1, 2, 3, 5]] * 2
    assert reader.calls == 2
    assert reader.file.read_bytes() == whole


def test_missing_images_are_found_without_reading_the_annotations_again(reader: Reader) -> None:
    (reader.folder / "1.png").rename(reader.folder / "away")
    index = reader.index()
    assert index.missing(np.array([1, 0])) == [1]
    assert index.missing(np.array([0])) == []
    (reader.folder / "1.png").symlink_to("away")
    assert index.missing(np.arange(2)) == []
    (reader.folder / "away").unlink()
    assert index.missing(np.arange(2)) == [1]
    assert reader.calls == 1


def test_of_several_processes_at_once_one_builds_the_index(tmp_path: Path) -> None:
    reader = Reader(tmp_path, seconds=0.3)
    with ThreadPoolExecutor(4) as pool:  # flock is held per open file, so threads compete as processes do
        found = list(pool.map(lambda _: len(reader.index()), range(4)))
    assert found == [2] * 4
    assert reader.calls == 1
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".index", ".lock"]


def test_a_pickled_index_is_a_path_and_opens_the_same_file(reader: Reader) -> None:
    index = reader.index()
    data = pickle.dumps(index)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).boxes, index.boxes)


def test_a_pickled_index_of_replaced_annotations_is_refused(reader: Reader) -> None:
    data = pickle.dumps(reader.index())
    os.utime(reader.source, ns=(1, 1))
    reader.index()
    with pytest.raises(ValueError, match=r"replaced while in use.*Start again, or continue with resume=last"):
        pickle.loads(data)


def test_a_folder_that_cannot_be_written_is_named_with_the_setting(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(OSError, match=r"cache.*data\.cache_dir"):
        reader.index()


def test_the_users_cache_folder_is_the_default(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(reader.folder / "home"))
    index = cached("test", ["a"], [], reader)
    assert index.path.parent == reader.folder / "home" / "boxwright"
