"""`load_detector(checkpoint)(image)` gives the detections of a validation, in whatever form the image comes."""

import json
import threading
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from tiny_checkpoint import CATEGORY_IDS, CLASSES, write_checkpoint

from boxwright.checkpoints.detector import Detector, equal_canvases, load_detector, pixels
from boxwright.checkpoints.reading import load_module, read_checkpoint
from boxwright.predict.threads import Behind, ahead
from datamodules.coco import CocoDataModule
from datamodules.decoding import Decoding

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


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


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


def arrays(detections) -> tuple[np.ndarray, ...]:
    return detections.boxes[0].numpy(), detections.scores[0].numpy(), detections.labels[0].numpy()


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


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


def test_a_picture_gives_the_same_in_every_form(detector, tmp_path):
    image = photo(70, 90)
    file = tmp_path / "photo.png"
    Image.fromarray(image).save(file)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    first, *others = detector([file])[0], *map(detector, (file, str(file), Image.open(file), image, tensor))
    for other in others:
        assert_same_bits(arrays(other), arrays(first))
    transposed = np.asfortranarray(image)[:, ::-1][:, ::-1]
    assert_same_bits(arrays(detector(transposed)), arrays(first))
    listed = detector([image, file, tensor, image])
    assert len(listed) == 4
    for one in listed:
        assert_same_bits(arrays(one)[2:], arrays(first)[2:])


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


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_images_of_extreme_shapes_are_accepted(detector, size):
    found = detector(np.full((*size, 3), 200, np.uint8))
    assert (found.boxes[..., 2:] <= torch.tensor([size[1], size[0]])).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pil_images_of_any_mode_have_the_pixels_of_their_file(tmp_path, mode):
    colours = photo(20, 30)
    if mode == "I;16":
        picture = Image.fromarray(colours[..., 0].astype(np.uint16) * 257 + 100)
    else:
        picture = Image.fromarray(colours)
        if mode in ("LA", "RGBA"):
            picture.putalpha(Image.fromarray(colours[..., 1]))
        picture = picture.convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "a.png")
    read = pixels(tmp_path / "a.png")
    assert read.shape == (20, 30, 3)
    np.testing.assert_allclose(pixels(picture).astype(int), read.astype(int), atol=1)
    assert np.ptp(read) > 100


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pil_images_are_turned_as_their_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(photo(20, 30)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    read, opened = pixels(tmp_path / "a.jpg"), pixels(Image.open(tmp_path / "a.jpg"))
    assert opened.shape == ((20, 30, 3) if orientation <= 4 else (30, 20, 3))
    np.testing.assert_allclose(opened.astype(int), read.astype(int), atol=2)


def test_arrays_and_tensors_give_the_results_of_their_pil_image():
    rgba = np.dstack([photo(10, 12), photo(10, 12, 1)[..., 0]])
    for mode in ("L", "LA", "RGB", "RGBA"):
        image = Image.fromarray(rgba).convert(mode)
        array = np.asarray(image)
        wanted = pixels(image)
        if mode.startswith("RGB"):
            assert np.array_equal(wanted, rgba[..., :3])
        tensor = torch.from_numpy(array.copy())
        assert np.array_equal(pixels(array), wanted)
        assert np.array_equal(pixels(tensor if mode == "L" else tensor.permute(2, 0, 1)), wanted)
        if mode == "L":
            assert np.array_equal(pixels(array[..., None]), wanted)
            assert np.array_equal(pixels(tensor[None]), wanted)
    deep = photo(10, 12)[..., 0].astype(np.uint16) * 257
    assert np.array_equal(pixels(deep), pixels(Image.fromarray(deep)))


def test_a_list_may_hold_pictures_of_every_kind(detector, tmp_path):
    image = photo(70, 90)
    Image.fromarray(image).save(tmp_path / "a.png")
    rgba = np.dstack([image, image[..., 0]])
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    mixed = [tmp_path / "a.png", Image.fromarray(rgba), rgba, tensor, str(tmp_path / "a.png"), photo(30, 40)]
    *same, other = detector(mixed)
    assert len(same) == 5
    for one in same:
        np.testing.assert_allclose(one.boxes, same[0].boxes, atol=1e-2)
    assert other.boxes[..., 2].max() <= 40


def test_the_first_of_several_images_in_a_file_is_taken_with_one_warning(checkpoint, tmp_path):
    detector = load_detector(checkpoint, "cpu")
    first, later = (Image.fromarray(photo(30, 40, seed)) for seed in (0, 1))
    for name in ("a.tif", "b.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[later])
    with pytest.warns(UserWarning, match=r"a\.tif holds several pictures, of which the first is taken") as told:
        found = detector([tmp_path / "a.tif", tmp_path / "b.tif"])
    assert len(told) == 1
    for one in found:
        np.testing.assert_allclose(one.boxes, detector(first).boxes, atol=1e-2)


def test_exif_and_value_range_of_training_apply_to_images(checkpoint, tmp_path):
    stored = photo(20, 30)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    deep = stored[..., 0].astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    contents = read_checkpoint(checkpoint)
    kept, data = contents["boxwright"], contents["boxwright"]["config"]["data"]
    for setting, meaning, wanted in (
        ("auto", None, np.rot90(stored, -1)), ("auto", "ignore", stored), ("ignore", "ignore", stored),
    ):  # fmt: skip
        kept["exif"] = meaning
        data |= {"exif": setting, "value_range": [0, 4080]}
        decoding = Detector(contents, "cpu").decoding
        for picture in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
            assert np.array_equal(pixels(picture, decoding), wanted)
        for picture in (tmp_path / "deep.png", Image.open(tmp_path / "deep.png"), deep, deep.astype(np.float32)):
            assert np.array_equal(pixels(picture, decoding)[..., 0], stored[..., 0])
    for wrong in ([9, 9], "0..9", [1, 2, 3]):
        data["value_range"] = wrong
        with pytest.raises(ValueError, match=r"the checkpoint's data\.value_range="):
            Detector(contents, "cpu")
    del data["exif"], data["value_range"], kept["exif"]  # as in an earlier checkpoint
    assert Detector(contents, "cpu").decoding == Decoding()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3)), r"array of float64 and shape \(4, 4, 3\): expected uint8 \(h, w, 3\), RGB, or \(h, w\)"),
        (np.zeros((3, 6, 5), np.uint8), r"array of uint8 and shape \(3, 6, 5\): expected"),
        (np.zeros((4, 4, 4), bool), r"array of bool and shape \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"one image; for several give a list"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), r"tensor of torch\.float32 and shape \(3, 4, 4\): expected torch\.uint8 \(3, h, w\)"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), r"shape \(5, 4, 3\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"for several give a list"),
        (
            Image.new("F", (4, 4)),
            r"a PIL image of mode F has float32 numbers from 0 to 0, where 8 or 16 bits are expected",
        ),
        (Image.new("I", (4, 4), 70000), r"mode I has int32 numbers from 70000 to 70000, where 8 or 16 bits"),
        (b"photo.jpg", r"a bytes is not a picture: expected a path, a PIL image, an array, a tensor, or a list"),
        ("nowhere.jpg", r"nowhere\.jpg does not exist"),
    ],
)
def test_what_is_not_an_image_is_refused_with_what_is_expected(detector, picture, message):
    with pytest.raises(ValueError, match=message):
        detector(picture)


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
        (-1, "score_threshold=-1: expected"),
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


def test_reading_ahead_keeps_the_order_ends_at_none_and_is_bounded():
    started = []

    def call(number):
        def result():
            started.append(number)
            time.sleep(0.002 * (number % 3))
            return None if number == 20 else number

        return result

    for expected, number in enumerate(ahead(map(call, count()), threads=3, count=4)):
        assert number == expected
        assert len(started) <= number + 4 + 2
    assert expected == 19
    assert list(ahead([lambda: 1, lambda: 2], threads=1, count=10)) == [1, 2]


def test_background_work_is_bounded_in_order_and_its_errors_are_raised():
    done, main = [], threading.get_ident()
    with Behind(threads=1, count=2) as behind:
        for number in range(20):
            behind(lambda n: done.append((n, threading.get_ident())), number)
            assert number - len(done) <= 3
    assert [n for n, _ in done] == list(range(20))
    assert main not in {thread for _, thread in done}

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(threads=2, count=8) as behind:
        behind(fail)
