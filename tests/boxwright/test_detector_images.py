"""Images in any form that `load_detector(checkpoint)` takes: files, PIL images, arrays and tensors."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detector_cases import arrays, assert_same_bits
from PIL import Image
from sample_photo import photo
from tiny_checkpoint import write_checkpoint

from boxwright.checkpoints.detector import Detector, load_detector, pixels
from boxwright.checkpoints.reading import read_checkpoint
from datamodules.decoding import Decoding

EXIF_ORIENTATION = 274


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
