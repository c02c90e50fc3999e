"""Every image file is read correctly, or named with the remedy, and skipped exactly where that was asked for."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_images import BROKEN, FORMS, HEIGHT, NAMES, PICTURE, SIZE, WIDTH, jpeg, save, unprivileged
from PIL import Image, ImageOps
from ranks import Detector
from tiny_data import coco, voc, voc_object, write_coco, write_image, write_json, write_voc

from datamodules.base import DetectionDataModule
from datamodules.headers import read_header
from datamodules.images import ImageError, decode, read_image
from lit_modules.evaluated import Evaluation

REMEDY = "or set data.on_error=skip to skip it"


def three_images(root: Path, name: str, put: Callable[[Path], object]) -> Path:
    """Writes COCO images 10, 20 and 30 of the corpus's size; `put` makes the file of image 20. Returns that file."""
    write_coco(root, [SIZE] * 3, [[[4, 4, 12, 12]]] * 3)
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = name
    write_json(root, content)
    path = root / "train" / name
    put(path)
    return path


def broken_after_setup(root: Path, name: str, **options: Any) -> tuple[DetectionDataModule, Path]:
    """A data module whose image 20 was valid when the annotations were read, and the path of that image."""
    path = three_images(root, BROKEN[name].file, lambda path: path.write_bytes(FORMS["PNG"].data))
    data = ready(root, **options)
    path.unlink()
    BROKEN[name].make(path)
    return data, path


def ready(root: Path, **options: Any) -> DetectionDataModule:
    data = coco(root, **options)
    data.setup("fit")
    return data


# What can be read


@pytest.mark.parametrize("name", FORMS)
def test_an_image_in_every_form_has_the_expected_pixels(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    path = tmp_path / form.file
    path.write_bytes(form.data)
    for found in (decode(str(path), SIZE), read_image(str(path))):
        assert found.dtype == np.uint8
        assert found.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(found.astype(int) - form.pixels).max() <= form.tolerance


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_unless_its_annotation_has_the_stored_size(
    tmp_path: Path, orientation: int, file_format: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(PICTURE)
    options = {"lossless": True} if file_format == "WEBP" else {}
    path = tmp_path / "x"
    path.write_bytes(
        jpeg(stored, exif=exif) if file_format == "JPEG" else save(stored, file_format, exif=exif, **options)
    )
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    size = upright.shape[:2]
    assert (size == SIZE) == (orientation <= 4)

    def close(found: np.ndarray, wanted: np.ndarray) -> bool:
        return found.shape == wanted.shape and np.abs(found.astype(int) - wanted).max() <= 6

    assert close(read_image(str(path)), upright)
    assert close(decode(str(path), size), upright)
    assert close(decode(str(path), SIZE), upright if orientation <= 4 else PICTURE)
    assert read_header(str(path)).size(turned=True) == size
    assert read_header(str(path)).size(turned=False) == SIZE


@pytest.mark.parametrize("rule", ["short_side", "square"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_images_of_one_pixel_are_trained_on_and_scored(tmp_path: Path, size: tuple[int, int], rule: str) -> None:
    height, width = size
    write_coco(tmp_path, [size, SIZE], [[[0, 0, width, height]], [[4, 4, 12, 12]]])
    data = ready(tmp_path, rule=rule, resize=64, flip=1.0, vertical_flip=1.0)
    torch.manual_seed(0)
    module = Detector(blind=set())
    seen: set[Any] = set()
    for batch in data.train_dataloader():
        assert max(batch.images.shape) <= 128  # no image enlarges the canvas beyond the rule
        losses = module.losses(module.forward_batch(batch), batch)
        torch.stack(list(losses.values())).sum().backward()
        assert all(loss.isfinite() for loss in losses.values())
        seen |= {
            (info.image_id, int((labels >= 0).sum())) for info, labels in zip(batch.infos, batch.labels, strict=True)
        }
    assert seen == {(10, 1), (20, 1)}
    evaluation = Evaluation()
    with torch.no_grad():
        for batch in data.val_dataloader():
            outputs = module.forward_batch(batch)
            evaluation.add(batch, module.losses(outputs, batch), module.evaluate_batch(outputs, batch))
    (found,) = (entry.boxes for entry in evaluation.entries if entry.image_id == 10)
    assert len(found)
    assert (found >= 0).all()
    assert (found <= [width, height, width, height]).all()


def test_the_image_of_an_image_id_has_its_original_size(tmp_path: Path) -> None:
    three_images(tmp_path, "x.png", lambda path: path.write_bytes(FORMS["PNG"].data))
    data = ready(tmp_path, flip=1.0)
    for split in ("train", "val"):
        np.testing.assert_array_equal(data.image(split, 20), PICTURE)
    with pytest.raises(ValueError, match="val split 'train' has no image of id 21"):
        data.image("val", 21)
    with pytest.raises(ValueError, match="'vall': expected train, val or test"):
        data.image("vall", 20)
    (tmp_path / "train" / "x.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"x\.png is empty"):
        data.image("val", 20)


# What cannot be read


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_image_and_the_remedy(tmp_path: Path, name: str) -> None:
    data, path = broken_after_setup(tmp_path, name)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        with pytest.raises(ImageError) as raised:
            list(loader)
        message = str(raised.value)
        assert re.fullmatch(rf"image 20: {re.escape(str(path))} .*{BROKEN[name].says}.*; .*, {REMEDY}", message)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}(?s:.*), or set data\.on_error=skip"):
        list(ready(tmp_path).train_dataloader())  # set-up notices it where it reads the file
    with pytest.raises(ImageError, match=BROKEN[name].says) as raised:
        read_image(str(path))
    assert str(raised.value).startswith(str(path))
    assert "data." not in str(raised.value)


@pytest.mark.parametrize("name", BROKEN)
def test_on_error_skip_skips_a_broken_file_with_the_reason(tmp_path: Path, name: str) -> None:
    data, path = broken_after_setup(tmp_path, name, on_error="skip", batch_size=3)
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        (info,) = batch.unread
        assert info.image_id == 20
        assert re.match(rf"{re.escape(str(path))} .*{BROKEN[name].says}", str(info.error))
        assert {info.image_id for info in batch.infos} == {10, 30}
        assert len(batch.images) == len(batch.sizes) == len(batch.boxes) == len(batch.labels) == 2
        assert batch.labels.tolist() == [[1], [1]]
        assert batch.images.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_without_read_permission_is_named(tmp_path: Path, on_error: str) -> None:
    path = three_images(tmp_path, "x.png", lambda path: path.write_bytes(FORMS["PNG"].data))
    path.chmod(0)
    data = ready(tmp_path, on_error=on_error, batch_size=3)
    key = next(iter(data.train_dataloader().batch_sampler))[0]._replace(row=1)
    with unprivileged():
        if on_error == "raise":
            with pytest.raises(ImageError, match=rf"x\.png can't be opened \(Permission denied\); .*{REMEDY}"):
                data.train_dataloader().dataset[key]
        else:
            sample = data.train_dataloader().dataset[key]
            assert "Permission denied" in sample.info.error


def test_the_error_of_a_worker_is_one_line_that_begins_with_the_image(tmp_path: Path) -> None:
    path = three_images(tmp_path, "x.jpg", lambda path: path.write_bytes(b""))
    with pytest.raises(ImageError) as raised:
        list(ready(tmp_path, num_workers=1).train_dataloader())
    assert str(raised.value) == f"image 20: {path} is empty; replace it, {REMEDY}"


# File names


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_is_found_by_any_name_and_named_in_print(tmp_path: Path, kind: str) -> None:
    name = NAMES[kind]
    path = three_images(tmp_path, name, lambda path: path.write_bytes(FORMS["PNG"].data))
    np.testing.assert_array_equal(ready(tmp_path).image("train", 20), PICTURE)
    path.write_bytes(b"")
    for data in (ready(tmp_path), ready(tmp_path)):  # the second time from the cached index
        with pytest.raises(ImageError) as raised:
            list(data.train_dataloader())
    message = str(raised.value)
    assert message.isprintable()
    message.encode()
    assert (name if name.isprintable() else repr(name)[1:-1]) in message


@pytest.mark.parametrize("kind", sorted(NAMES.keys() - {"with spaces around", "with a newline", "not UTF-8"}))
def test_voc_finds_files_by_any_name_that_a_list_can_hold(tmp_path: Path, kind: str) -> None:
    stem = NAMES[kind].removesuffix(".png")
    write_voc(tmp_path, {stem: voc_object("a", "1 1 9 9"), "other": ""})
    data = voc(tmp_path, on_error="skip")
    data.setup("fit")
    assert data.image("train", stem).shape == (30, 40, 3)
    (tmp_path / "JPEGImages" / f"{stem}.jpg").write_bytes(b"")
    (batch,) = data.train_dataloader()
    assert [info.image_id for info in batch.unread] == [stem]
    assert [info.image_id for info in batch.infos] == ["other"]


# Data that disappear or change


def test_an_image_that_changes_its_size_is_read_again_where_the_size_is_its_own(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 9, 9]]])
    file = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for key in ("width", "height"):
        del content["images"][0][key]
    write_json(tmp_path, content)
    with pytest.warns(UserWarning, match="image size 1 time"):
        assert ready(tmp_path).truth("val").sizes.tolist() == [list(SIZE)]
    write_image(tmp_path / "train" / "train_0.png", (50, 30))
    with pytest.warns(UserWarning, match="image size 1 time"):
        data = ready(tmp_path)
    assert data.truth("val").sizes.tolist() == [[50, 30]]
    assert data.image("val", 10).shape == (50, 30, 3)


def test_an_image_that_no_longer_has_its_annotated_size_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 9, 9]]])
    ready(tmp_path)
    write_image(tmp_path / "train" / "train_0.png", (50, 30))
    with pytest.raises(ImageError, match="is 30 x 50 pixels, but its annotation says 40 x 24; correct the annotation"):
        list(ready(tmp_path).train_dataloader())


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_folder_that_is_gone_is_noticed_under_a_cached_index(tmp_path: Path, on_error: str) -> None:
    root = write_coco(tmp_path / "data", [SIZE] * 2, [[[1, 1, 9, 9]]] * 2)
    ready(root)
    (root / "train").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"none of the 2 images .*'train' exists.*train_0\.png.*data\.root"):
        ready(root, on_error=on_error)
    shutil.rmtree(root)
    with pytest.raises(ValueError, match=r"instances_train\.json does not exist.*data\.root"):
        ready(root, on_error=on_error)


def test_a_changed_annotation_file_is_read_again(tmp_path: Path) -> None:
    write_coco(tmp_path, [SIZE], [[[1, 1, 9, 9]]])
    assert len(ready(tmp_path).truth("val").boxes) == 1
    write_coco(tmp_path, [SIZE], [[[1, 1, 9, 9], [2, 2, 9, 9]]])
    assert len(ready(tmp_path).truth("val").boxes) == 2


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_loading_continues_when_the_index_file_is_gone(tmp_path: Path, change: str) -> None:
    write_coco(tmp_path, [SIZE] * 4, [[[1, 1, 9, 9]]] * 4)
    data = ready(tmp_path, num_workers=1, cache_dir=str(tmp_path / "cache"))
    loader = data.train_dataloader()
    before = list(loader)
    (index,) = (tmp_path / "cache").glob("*.index")
    if change == "deleted":
        index.unlink()
    else:
        other = index.with_name("other")
        other.write_bytes(b"something else")
        os.replace(other, index)
    for again in (list(loader), list(data.train_dataloader())):  # with workers from before and after the change
        assert len(again) == 2
        for a, b in zip(before, again, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.boxes, b.boxes)
    fresh = ready(tmp_path, cache_dir=str(tmp_path / "cache"))  # builds the index again
    assert torch.equal(next(iter(fresh.train_dataloader())).images, before[0].images)
