"""`python predict.py` with a video as `source`: frames, orientation, and files that cannot be read or written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import sample_photo
import torch
from PIL import Image
from scripts import Script
from tiny_checkpoint import CLASSES, write_checkpoint

from boxwright.checkpoints.detector import load_detector
from boxwright.predict.media import Film, Read
from boxwright.predict.sources import Source

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


def write_video(path: Path, frames: int, size: tuple[int, int] = (96, 64), codec: str = "mp4v", rate: float = 12.5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size)
    still = np.asarray(photo(size[1] + frames, size[0] + frames))
    for number in range(frames):
        writer.write(np.ascontiguousarray(still[number : number + size[1], number : number + size[0], ::-1]))
    writer.release()
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_a_video_becomes_a_drawn_video_of_the_same_size_and_rate(predict, checkpoint, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=13)
    ended = predict(checkpoint, "source=clip.mp4", "output=found", "batch_size=4", "score_threshold=0.3")
    assert ended.status == 0, ended.said
    frames, rate = read_video(Path("found/drawn/clip.mp4"))
    assert len(frames) == 13
    assert frames[0].shape == (64, 96, 3)
    assert rate == 12.5
    plain, _ = read_video(tmp_path / "clip.mp4")
    assert all(np.abs(a.astype(int) - b).mean() > 5 for a, b in zip(frames, plain, strict=True))
    content = json.loads(Path("found/predictions.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(13))
    assert content["images"][12] == {"id": 12, "file_name": "clip.mp4#12", "width": 96, "height": 64}
    detector = load_detector(checkpoint.removeprefix("checkpoint="), "cpu", score_threshold=0.3)
    last = detector([np.ascontiguousarray(frame[..., ::-1]) for frame in plain[8:12]])  # the frames that shared a batch
    for number, detections in enumerate(last, 8):
        scores = [one["score"] for one in content["annotations"] if one["image_id"] == number]
        np.testing.assert_allclose(scores, detections.scores[0], atol=1e-4)
    assert "frames: 13 in" in ended.said
    assert "states" not in ended.said


def test_a_video_is_rotated_as_its_metadata_says(predict, checkpoint, tmp_path):
    data = write_video(tmp_path / "clip.mp4", frames=3).read_bytes()
    matrix = data.index(b"tkhd") + 44  # after version, times, track, duration, layer and volume
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    assert data[matrix : matrix + 36] == upright
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    (tmp_path / "turned.mp4").write_bytes(data[:matrix] + turned + data[matrix + 36 :])
    predict(checkpoint, "source=turned.mp4", "output=found")
    frames, _ = read_video(Path("found/drawn/turned.mp4"))
    assert [frame.shape for frame in frames] == [(96, 64, 3)] * 3
    assert json.loads(Path("found/predictions.json").read_text())["images"][0]["width"] == 64


def test_a_drawn_video_has_every_frame_also_of_odd_or_changing_size(tmp_path):
    write_video(tmp_path / "clip.mp4", frames=2)
    film = Film(Source(tmp_path, ("clip.mp4",), is_video=True), tmp_path / "drawn")
    for number, size in enumerate([(65, 97), (65, 97), (120, 80)]):
        frame = np.full((*size, 3), 90 * number, np.uint8)
        film.write(Read(number, "", frame), frame)
    film.close()
    film.discard()
    frames, _ = read_video(tmp_path / "drawn/clip.mp4")
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3
    assert [round(frame.mean(), -1) for frame in frames] == [0, 90, 180]


def test_the_readable_part_of_a_truncated_video_is_written_with_a_warning(predict, checkpoint, tmp_path):
    data = write_video(tmp_path / "whole.avi", frames=12, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    ended = predict(checkpoint, "source=cut.avi", "output=found")
    frames, _ = read_video(Path("found/drawn/cut.mp4"))
    assert 3 <= len(frames) <= 9
    assert len(json.loads(Path("found/predictions.json").read_text())["images"]) == len(frames)
    assert f"the video states 12 frames; {len(frames)} could be read" in ended.said
    assert ended.status == 0


def test_a_video_that_cannot_be_written_is_an_error_and_keeps_the_older_one(tmp_path):
    write_video(tmp_path / "clip.mp4", frames=2)
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/clip.mp4").write_bytes(b"older")
    film = Film(Source(tmp_path, ("clip.mp4",), is_video=True), tmp_path / "drawn")
    read = next(film.readings())()
    film.write(read, read.pixels)
    film._partial.unlink()  # has the effect of a full disk, which OpenCV's writer does not report
    with pytest.raises(OSError, match=r"can't write \S+drawn/clip\.mp4; free some space on its disk"):
        film.close()
    film.discard()
    assert (tmp_path / "drawn/clip.mp4").read_bytes() == b"older"
    assert len(list((tmp_path / "drawn").iterdir())) == 1
