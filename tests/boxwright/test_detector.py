"""`load_detector(checkpoint)(image)` gives the detections of a validation; its thresholds and options."""

import json
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from detector_cases import arrays, assert_same_bits
from PIL import Image
from sample_photo import photo
from tiny_checkpoint import CATEGORY_IDS, CLASSES, write_checkpoint

from boxwright.checkpoints.detector import equal_canvases, load_detector
from boxwright.checkpoints.reading import load_module, read_checkpoint
from datamodules.coco import CocoDataModule

EXIF_ORIENTATION = 274
SIZES = [(60, 80), (60, 80), (60, 80), (130, 97), (61, 200), (300, 280), (61, 200)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


@pytest.fixture(scope="module")
def detector(checkpoint):
    return load_detector(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven photos of four sizes as a COCO data set: one is grey, one turned by its EXIF orientation, one a PNG."""
    root = tmp_path_factory.mktemp("data")
    (root / "val").mkdir()
    images, boxes = [], []
    for number, (height, width) in enumerate(SIZES):
        name = f"{number}.png" if number == 5 else f"{number}.jpg"
        picture, exif = Image.fromarray(photo(height, width, number)), Image.Exif()
        if number == 3:
            exif[EXIF_ORIENTATION] = 6
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        (picture.convert("L") if number == 1 else picture).save(root / "val" / name, exif=exif)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        boxes.append({"id": number + 1, "image_id": number, "category_id": 3, "bbox": [5, 5, 20, 20]})
    categories = [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
    (root / "val.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return root


def files(data: Path) -> list[Path]:
    return [next((data / "val").glob(f"{number}.*")) for number in range(len(SIZES))]


def evaluated(data: Path, checkpoint: Path, batch_size: int, precision: str) -> list[tuple[np.ndarray, ...]]:
    """Boxes, scores and labels of each image from Lightning's own evaluation."""
    datamodule = CocoDataModule(
        root=str(data), annotations="{split}.json", train_split="val", val_split="val", test_split="val",
        classes=CLASSES, num_classes=5, resize=96, eval_batch_size=batch_size, num_workers=0,
    )  # fmt: skip
    module = load_module(read_checkpoint(checkpoint))
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, use_distributed_sampler=False,
        default_root_dir=data,
    )  # fmt: skip
    trainer.test(module, datamodule, verbose=False)
    found = module.last.predictions
    assert module.last.truth.image_ids.tolist() == list(range(len(SIZES)))
    assert len(found.scores) == 100 * len(SIZES)
    rows = [found.image_index == row for row in range(len(SIZES))]
    return [(found.boxes[row], found.scores[row], found.labels[row]) for row in rows]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_detections_are_those_of_an_evaluation_bit_for_bit(data, checkpoint, precision):
    """Only the number of images in a forward pass may change bits, and here it is the same."""
    detector = load_detector(checkpoint, "cpu", precision)
    for file, expected in zip(files(data), evaluated(data, checkpoint, 1, precision), strict=True):
        assert_same_bits(arrays(detector(file)), expected)
    assert detector.batch_size == 2
    for found, expected in zip(detector(files(data)), evaluated(data, checkpoint, 2, precision), strict=True):
        assert_same_bits(arrays(found), expected)


def test_one_picture_alone_and_among_others_differ_by_rounding_at_most(detector, data):
    for file, among in zip(files(data), detector(files(data)), strict=True):
        boxes, scores, labels = arrays(detector(file))
        order, other = np.lexsort((boxes[:, 0], labels)), np.lexsort((among.boxes[0, :, 0], among.labels[0]))
        assert np.array_equal(labels[order], among.labels[0][other])
        np.testing.assert_allclose(scores[order], among.scores[0][other], atol=1e-4)


def test_detections_are_in_original_pixels_by_falling_score_and_without_padding(detector):
    found = detector(photo(300, 120))
    boxes, scores, labels = found.boxes, found.scores, found.labels
    assert boxes.shape == (1, 100, 4)
    assert scores.shape == labels.shape == (1, 100)
    assert boxes.device.type == "cpu"
    assert (scores[0].diff() <= 0).all()
    assert labels.min() >= 0
    assert boxes.amax() > 200  # in pixels of the image (300), not of the network's input (96)
    assert boxes.amin() >= 0
    assert boxes[..., 2].amax() <= 120
    assert boxes[..., 3].amax() <= 300


def test_a_list_may_be_empty_and_finding_nothing_is_not_an_error(checkpoint):
    detector = load_detector(checkpoint, "cpu", score_threshold=1.0)
    assert detector([]) == []
    found = detector(photo(40, 40))
    assert found.boxes.shape == (1, 0, 4)
    assert found.labels.shape == (1, 0)


def test_the_threshold_is_none_or_one_number_or_the_best_f1_of_each_class(tmp_path, detector):
    image = photo(80, 80)
    boxes, scores, labels = arrays(detector(image))
    middle = {name: float(np.median(scores[labels == k])) for k, name in enumerate(CLASSES) if (labels == k).any()}
    best = {name: middle.get(name, 1.0) for name in CLASSES}
    path = write_checkpoint(tmp_path / "with.ckpt", thresholds=best)

    assert detector.thresholds == dict.fromkeys(CLASSES, 0.0)
    of_class = load_detector(path, "cpu", score_threshold="best_f1")
    assert of_class.thresholds == best
    kept = scores >= np.array([best[CLASSES[label]] for label in labels])
    assert 0 < kept.sum() < len(kept)
    assert_same_bits(arrays(of_class(image)), (boxes[kept], scores[kept], labels[kept]))
    number = float(scores[40])
    assert_same_bits(
        arrays(load_detector(path, "cpu", score_threshold=number)(image))[1:2], (scores[scores >= number],)
    )


def test_thresholds_may_differ_by_class_and_by_call(tmp_path, checkpoint):
    detector = load_detector(checkpoint, "cpu", score_threshold={CLASSES[0]: 0.9, CLASSES[2]: 0.4})
    assert detector.thresholds == {**dict.fromkeys(CLASSES, 0.0), CLASSES[0]: 0.9, CLASSES[2]: 0.4}
    image = photo(80, 80)
    boxes, scores, labels = arrays(load_detector(checkpoint, "cpu")(image))
    number = float(np.median(scores))
    for asked in (number, dict.fromkeys(CLASSES, number)):
        assert_same_bits(
            arrays(detector(image, score_threshold=asked)), [x[scores >= number] for x in (boxes, scores, labels)]
        )
    assert (
        detector([image], score_threshold={CLASSES[0]: 0})[0].scores.shape
        == detector(image, {CLASSES[0]: 0}).scores.shape
    )
    own = np.array([detector.thresholds[CLASSES[label]] for label in labels])
    for asked, kept in (({}, scores >= own), ({CLASSES[0]: 0.0}, (scores >= own) | (labels == 0)), (0, scores >= 0)):
        assert_same_bits(arrays(detector(image, score_threshold=asked)), [x[kept] for x in (boxes, scores, labels)])
    assert detector.thresholds[CLASSES[0]] == 0.9  # thresholds of a call are not kept
    for wrong, said in (
        ({"discs": 0.5}, r"has no class 'discs'; nearest is disc"),
        ({"cat": 0.5}, r"no class 'cat'; its classes are disc, "),
        ({"disc": 2}, r"score_threshold=2 of 'disc': expected a number from 0 to 1"),
        ({1: 0.5}, r"the checkpoint has no class 1; its classes are disc, "),
        (-1, "score_threshold=-1: expected"),
        (True, "score_threshold=True: expected"),
        ([0.1, 0.2], r"score_threshold=\[0\.1, 0\.2\]: expected"),
    ):
        with pytest.raises(ValueError, match=said):
            detector(image, score_threshold=wrong)
        with pytest.raises(ValueError, match=said):
            detector.set_threshold(wrong)


def test_the_repr_of_a_detector_describes_it(checkpoint):
    detector = load_detector(checkpoint, "cpu", score_threshold=0.25)
    names = "5 classes: disc, square, triangle, star, cross"
    assert repr(detector) == f"Detector(FCOS, {names}; short_side 96; 32-true on cpu; scores from 0.25)"
    detector.set_threshold({"disc": 0.5})
    assert "; scores from 0.25 to 0.5 by class)" in repr(detector)


def test_impossible_options_are_refused(checkpoint, tmp_path):
    for device, says in (("gpu", "expected 'cpu', 'cuda', "), ("cuda:99", r"torch finds \d+ GPUs? here; give device=")):
        with pytest.raises(ValueError, match=f"device='{device}': {says}"):
            load_detector(checkpoint, device)
    with pytest.raises(ValueError, match=r"score_threshold=best_f1: the checkpoint has no thresholds.*=0\.3"):
        load_detector(checkpoint, "cpu", score_threshold="best_f1")
    for wrong in (-0.1, 1.5, "best"):
        with pytest.raises(ValueError, match=rf"score_threshold={wrong}: expected a number from 0 to 1, or best_f1"):
            load_detector(checkpoint, "cpu", score_threshold=wrong)
    with pytest.raises(ValueError, match=r"precision='bf16-true': expected 32-true, bf16-mixed, 16-mixed, or None"):
        load_detector(checkpoint, "cpu", "bf16-true")
    with pytest.raises(ValueError, match=r"none\.ckpt does not exist"):
        load_detector(tmp_path / "none.ckpt")


def test_a_detector_knows_its_classes_and_how_it_was_trained(checkpoint, tmp_path):
    detector = load_detector(checkpoint, "cpu")
    assert (detector.class_names, detector.category_ids) == (CLASSES, CATEGORY_IDS)
    assert detector.precision == "32-true"
    assert not detector.module.training
    for trained, here in (("bf16-mixed", "bf16-mixed"), ("16-mixed", "bf16-mixed")):  # as Lightning does on the CPU
        path = write_checkpoint(tmp_path / "other.ckpt", f"trainer.precision={trained}")
        assert load_detector(path, "cpu").precision == here
    square = load_detector(write_checkpoint(tmp_path / "square.ckpt", "data.rule=square"), "cpu")
    assert square.sample(photo(40, 80), 0).canvas == (96, 96)
    assert detector.sample(photo(40, 80), 0).canvas == (96, 160)


class _Sized(NamedTuple):
    number: int
    canvas: tuple[int, int]


def test_batches_have_one_canvas_and_no_image_waits_long():
    def stream():
        for number in count():
            yield _Sized(number, (7, 7) if number in (0, 50) else (32, 32 * (1 + number % 3)))

    seen, taken = [], []
    for batch in equal_canvases((taken.append(s.number) or s for s in stream()), 4):
        assert len({sample.canvas for sample in batch}) == 1
        assert len(batch) <= 4
        seen += [sample.number for sample in batch]
        assert max(taken) - min(set(taken) - set(seen), default=max(taken)) <= 8 * 4
        if len(seen) > 200:
            break
    assert len(set(seen)) == len(seen)
    rest = [_Sized(i, (i % 2, 1)) for i in range(5)]
    assert sorted(len(batch) for batch in equal_canvases(rest, 4)) == [2, 3]
