"""`python predict.py checkpoint=... source=...`: what it reads, writes and prints."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import sample_photo
import torch
from PIL import Image
from pycocotools.coco import COCO
from scripts import Script
from tiny_checkpoint import CATEGORY_IDS, CLASSES, write_checkpoint

from boxwright.checkpoints.detector import load_detector
from boxwright.predict.media import drawn_names
from boxwright.predict.sources import natural
from evaluation.coco_file import CocoFile
from evaluation.results import ImagePredictions

BEST = {name: 0.42 + 0.01 * k for k, name in enumerate(CLASSES)}


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Script("predict.py", tmp_path, monkeypatch, capfd)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return f"checkpoint={write_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'best.ckpt', thresholds=BEST)}"


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(sample_photo.photo(height, width, seed))


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with every kind of file that a folder may hold; its images in natural order are in `ORDER`."""
    folder = tmp_path / "photos"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    photo(60, 90).save(folder / "a.jpg")
    photo(60, 90, 1).save(folder / "a.png")
    photo(90, 60, 2).save(folder / "sub" / "img2.JPG", format="jpeg")
    photo(60, 90, 3).save(folder / "sub" / "img10.jpg")
    photo(200, 90, 4).save(folder / "sub" / "deep" / "фото 红.bmp")
    frames = [photo(50, 50, 5), photo(50, 50, 6)]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:], duration=100)
    exif = Image.Exif()
    exif[274] = 6
    photo(60, 100, 7).save(folder / "turned.jpg", exif=exif)
    (folder / "bad.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("x")
    (folder / "clip.mp4").write_text("x")
    (folder / ".hidden" / "b.jpg").write_text("x")
    (folder / ".DS_Store").write_text("x")
    return folder


ORDER = [
    "a.jpg", "a.png", "bad.jpg", "moves.gif", "sub/deep/фото 红.bmp", "sub/img2.JPG", "sub/img10.jpg", "turned.jpg",
]  # fmt: skip
SIZES = {"a.jpg": (90, 60), "moves.gif": (50, 50), "sub/img2.JPG": (60, 90), "turned.jpg": (60, 100)}


def test_a_folder_becomes_drawn_pictures_and_coco_json(predict, checkpoint, photos):
    ended = predict(checkpoint, "source=photos", "output=found", "score_threshold=0.3", "batch_size=2")
    assert ended.status == 0, ended.said

    content = json.loads(Path("found/predictions.json").read_text())
    named = {image["id"]: image["file_name"] for image in content["images"]}
    assert named == {number: name for number, name in enumerate(ORDER) if name != "bad.jpg"}
    for image in content["images"]:
        if image["file_name"] in SIZES:
            assert (image["width"], image["height"]) == SIZES[image["file_name"]]
    assert content["categories"] == [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASSES, strict=True)]
    found = content["annotations"]
    assert [one["id"] for one in found] == list(range(1, len(found) + 1))
    assert [one["image_id"] for one in found] == sorted(one["image_id"] for one in found)
    assert {one["image_id"] for one in found} == set(named)
    assert all(one.keys() == {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "score"} for one in found)
    assert all(one["area"] == one["bbox"][2] * one["bbox"][3] and one["iscrowd"] == 0 for one in found)
    assert min(one["score"] for one in found) >= 0.3
    assert len(COCO("found/predictions.json").getAnnIds(catIds=[90])) > 0

    drawn = {str(file.relative_to("found/drawn")) for file in Path("found/drawn").rglob("*.*")}
    assert drawn == {
        "a.jpg", "a.png", "moves.gif.png", "sub/img2.JPG", "sub/img10.jpg", "sub/deep/фото 红.bmp.png", "turned.jpg",
    }  # fmt: skip
    assert Image.open("found/drawn/turned.jpg").size == (60, 100)
    difference = np.asarray(Image.open("found/drawn/a.png")).astype(int) - np.asarray(Image.open(photos / "a.png"))
    assert (difference != 0).any(axis=2).mean() > 0.01

    assert "photos/bad.jpg can't be decoded" in ended.said
    assert "1 of 8 could not be read: bad.jpg" in ended.said
    assert "several pictures in a file (an animation, pages), the first was taken: moves.gif" in ended.said
    assert "skipped, since they are not pictures: 2 (clip.mp4, notes.txt)" in ended.said
    assert "images: 7 in" in ended.said
    assert f"detections: {len(found)}" in ended.said
    assert "saved in" in ended.said
    assert Path("found/log.txt").read_text() in ended.said


def test_the_json_holds_what_load_detector_finds(predict, checkpoint, photos):
    ended = predict(checkpoint, "source=photos", "output=found", "batch_size=1", "draw=false")
    assert not Path("found/drawn").exists()
    assert "score_threshold=best_f1" in ended.said
    content = json.loads(Path("found/predictions.json").read_text())
    assert content["info"]["score_thresholds"] == BEST
    detector = load_detector(checkpoint.removeprefix("checkpoint="), "cpu", score_threshold="best_f1")
    total = 0
    for image in content["images"]:
        detections = detector(photos / image["file_name"])
        found = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        assert [one["score"] for one in found] == detections.scores[0].tolist()
        assert [one["category_id"] for one in found] == [CATEGORY_IDS[label] for label in detections.labels[0]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in found)]
        np.testing.assert_allclose(np.array(corners).reshape(-1, 4), detections.boxes[0], atol=1e-6)
        total += len(found)
    assert 0 < total < 700


def test_without_stored_thresholds_the_used_score_is_logged(predict, photos, tmp_path):
    path = write_checkpoint(tmp_path / "early.ckpt")
    ended = predict(f"checkpoint={path}", "source=photos/a.jpg", "draw=false")
    assert "score_threshold=0.3, since the checkpoint has no best_f1" in ended.said
    (folder,) = Path("runs/predict").iterdir()
    assert str(folder) in ended.said
    ended = predict(f"checkpoint={path}", "source=photos/a.jpg", "score_threshold=best_f1", "output=x")
    assert ended.status == 2
    assert "the checkpoint has no thresholds" in ended.said
    assert not Path("x").exists()


def test_without_detections_thresholds_and_the_highest_score_are_logged(predict, checkpoint, photos):
    assert "the highest is" not in predict(checkpoint, "source=photos/a.jpg", "draw=false", "score_threshold=0").said
    ended = predict(checkpoint, "source=photos", "draw=false", "score_threshold=0.999", "output=none")
    assert ended.status == 0
    said = re.search(
        r"no score reaches its threshold \(0\.999\); the highest is (\S+) \((\w+)\).* (score_threshold=\S+)", ended.said
    )
    assert said, ended.said
    highest, name, remedy = said.groups()
    ended = predict(checkpoint, "source=photos", "draw=false", remedy, "output=some")
    content = json.loads(Path("some/predictions.json").read_text())
    best = max(content["annotations"], key=lambda one: one["score"])
    assert f"{best['score']:.3f}" == highest
    assert dict(zip(CATEGORY_IDS, CLASSES, strict=True))[best["category_id"]] == name


def test_thresholds_of_the_classes_are_logged_as_a_range(predict, photos, tmp_path):
    path = write_checkpoint(tmp_path / "high.ckpt", thresholds={**dict.fromkeys(CLASSES, 1.0), "disc": 0.99})
    ended = predict(f"checkpoint={path}", "source=photos/a.jpg", "draw=false")
    assert "no score reaches its threshold (0.99 to 1, depending on the class)" in ended.said


def test_classes_that_can_never_be_shown_are_named(predict, tmp_path, photos):
    path = write_checkpoint(tmp_path / "one.ckpt", thresholds={**BEST, "star": 1.0})
    ended = predict(f"checkpoint={path}", "source=photos/a.jpg", "draw=false")
    assert "nothing passes the threshold of 1 class, since validation found none of them right: star" in ended.said


def test_an_unreadable_source_exits_with_1_and_keeps_an_older_result(predict, checkpoint, photos):
    assert predict(checkpoint, "source=photos/a.jpg", "output=found").status == 0
    before = Path("found/predictions.json").read_bytes()
    for source in ("photos/bad.jpg", "photos/clip.mp4", "photos/notes.txt"):
        ended = predict(checkpoint, f"source={source}", "output=found")
        assert ended.status == 1
        assert re.search(rf"{source} (can't be decoded|.*neither as a picture nor as a video)", ended.said)
    assert Path("found/predictions.json").read_bytes() == before
    assert {file.name for file in Path("found").iterdir()} == {"predictions.json", "drawn", "log.txt"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=nowhere"], r"source=nowhere: /\S+/nowhere does not exist"),
        (["source=photos/*.jpg"], r"does not exist; patterns are not expanded, give the folder"),
        (["source=empty"], r"source=empty: no pictures in /\S+/empty or below.*Other files there: none\."),
        (["source=texts/list.json"], r"a JSON is no picture; give the folder of its images, or have evaluate\.py"),
        (["source=texts"], r"Other files there: a\.txt, b\.txt, list\.json\. Give a video by itself: source=VIDEO"),
        (["source=photos", "output=photos"], r"output=photos: drawn pictures would lie among those"),
        (["source=photos", "output=./photos/../photos/"], r"drawn pictures would lie among those"),
        (["source=photos", "checkpoint=none.ckpt"], r"checkpoint=none\.ckpt: no such file"),
        (["source=photos", "checkpoint=photos/notes.txt"], r"photos/notes\.txt can't be read as a checkpoint"),
        (["source=photos", "score_threshold=1.5"], r"score_threshold=1\.5: expected a number from 0 to 1, or best_f1"),
        (["source=photos", "score_threshold=best"], r"score_threshold='best'.*nearest is best_f1"),
        (["source=photos", "batch_size=0"], r"batch_size=0: expected 1 or more"),
        (["source=photos", "accelerator=gqu"], r"accelerator=gqu: expected one of auto, cpu, gpu"),
        (["sorce=photos"], r"sorce \(command line, sorce=photos\): no such setting; nearest is source"),
        ([], r"source is missing; give source=\.\.\. \(a picture, a folder of pictures, or a video\)"),
    ],
)
def test_mistakes_are_reported_and_leave_no_files(predict, checkpoint, photos, overrides, message, tmp_path):
    for name in ("empty", "texts"):
        (tmp_path / name).mkdir()
    for name in ("b.txt", "a.txt", "list.json"):
        (tmp_path / "texts" / name).touch()
    before = sorted(tmp_path.rglob("*"))
    given = [checkpoint] if not any(o.startswith("checkpoint=") for o in overrides) else []
    ended = predict(*given, *overrides)
    assert ended.status == 2
    assert "Traceback" not in ended.said
    assert re.search(message, ended.said), ended.said
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert all(path in (tmp_path / "runs", tmp_path / "runs/predict") for path in left)


def test_output_inside_the_source_is_not_read_again(predict, checkpoint, photos):
    for _ in range(2):
        predict(checkpoint, "source=photos", "output=photos/found")
        content = json.loads((photos / "found/predictions.json").read_text())
        assert len(content["images"]) == 7


def test_the_json_file_is_complete_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "predictions.json"
    path.write_text("older")
    one = ImagePredictions(5, np.array([[1.0, 2.0, 4.0, 8.0]]), np.array([0.5]), np.array([1]))

    def write() -> None:
        with CocoFile(path, {}, (3, 7), ("a", "b")) as file:
            file.add("x.jpg", (10, 20), one)
            assert path.read_text() == "older"

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match=r"can't write .*predictions\.json \(No space left on device\); free some"):
            write()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
    write()
    content = json.loads(path.read_text())
    assert content["images"] == [{"id": 5, "file_name": "x.jpg", "width": 20, "height": 10}]
    assert content["annotations"] == [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0, "score": 0.5}
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_names_sort_in_natural_order():
    names = ["b", "a10.jpg", "a9.jpg", "A11.jpg", "a/z.jpg", "a1/b2.jpg", "a1/b10.jpg", "01.jpg", "1.jpg"]
    ordered = sorted(names, key=natural)
    assert ordered == ["01.jpg", "1.jpg", "a/z.jpg", "a1/b2.jpg", "a1/b10.jpg", "a9.jpg", "a10.jpg", "A11.jpg", "b"]


def test_names_of_drawn_files_never_collide():
    names = ("a.gif", "a.gif.png", "A.GIF", "b.jpg", "b.png", "s/b.jpg", "é" * 124 + ".bmp", "é" * 124 + ".gif")
    drawn = drawn_names(names)
    assert len({name.casefold() for name in drawn}) == len(names)
    assert drawn[3:6] == ["b.jpg", "b.png", "s/b.jpg"]
    assert all(len(os.fsencode(name)) <= 200 for name in drawn)
    assert all(name.endswith((".jpg", ".png")) for name in drawn)
