"""Folders of images as classes: what is read, what is refused, and that the stream depends only on seed and epoch."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batch import Batch
from datamodules.errors import DataError
from datamodules.imagefolder import ImageFolderDataModule
from datamodules.transforms import Augmentation
from datamodules.views import CentreCrop, RandomView

CLASSES = ("ape", "bee", "cat")


def write(path: Path, size: tuple[int, int] = (40, 50), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five training and two validation images of each class; file names repeat from class to class."""
    for split, number in (("train", 5), ("val", 2)):
        for label, name in enumerate(CLASSES):
            for i in range(number):
                write(tmp_path / split / name / f"{i}.png", (30 + 7 * i, 60 - 9 * label), seed=10 * label + i)
    return tmp_path


def folder(root: Path, **options: Any) -> ImageFolderDataModule:
    defaults: dict[str, Any] = {"num_classes": 3, "resize": 32, "batch_size": 4, "num_workers": 0}
    return ImageFolderDataModule(root=str(root), **{**defaults, **options})


def stream(root: Path, epoch: int = 0, **options: Any) -> list[Batch]:
    data = folder(root, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    return list(loader)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) and x.infos == y.infos
        for x, y in zip(a, b, strict=True)
    )


def test_classes_are_the_folders_in_alphabetical_order(root: Path) -> None:
    data = folder(root)
    data.setup("fit")
    assert data.class_names == CLASSES
    assert data.truth("train").labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.truth("val").image_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.describe().splitlines() == [
        "train (train): 15 images of 3 classes, 5 to 5 of each; crop 32",
        "val (val): 6 images of 3 classes, 2 to 2 of each; crop 32",
    ]


def test_a_batch_has_one_label_an_image_and_no_boxes(root: Path) -> None:
    data = folder(root)
    data.setup("fit")
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1:] == (3, 32, 32)
        assert batch.sizes.eq(32).all()
        assert batch.labels.shape == (len(batch.images), 1)
        assert batch.boxes.eq(0).all()
        for info, label in zip(batch.infos, batch.labels[:, 0].tolist(), strict=True):
            of_each = 5 if len(batch.images) == 4 else 2
            assert label == int(info.image_id) // of_each


def test_every_image_is_trained_on_and_each_is_evaluated_once(root: Path) -> None:
    assert {info.image_id for batch in stream(root) for info in batch.infos} == set(range(15))
    data = folder(root, eval_batch_size=4)
    ids = [info.image_id for batch in data.val_dataloader() for info in batch.infos]
    assert ids == list(range(6))


def test_the_stream_depends_on_seed_and_epoch_alone(root: Path) -> None:
    wanted = stream(root, epoch=1)
    assert same(wanted, stream(root, epoch=1, num_workers=2))
    assert not same(wanted, stream(root, epoch=2))
    assert not same(wanted, stream(root, epoch=1, seed=5))
    data = folder(root)
    data.setup("fit")
    loader = data.train_dataloader()
    for epoch in (0, 3, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)
        np.random.seed(epoch)
        torch.manual_seed(epoch)
        found = list(loader)
    assert same(wanted, found)


def test_a_resumed_epoch_is_the_rest_of_the_whole_one(root: Path) -> None:
    data = folder(root)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.batch_sampler.start_at(1, 2)
    assert same(stream(root, epoch=1)[2:], list(loader))
    loader.load_state_dict(loader.state_dict())
    other = folder(root, resize=64)
    other.setup("fit")
    with pytest.raises(DataError, match="another stream"):
        other.train_dataloader().load_state_dict(loader.state_dict())


def test_further_augmentations_see_the_crop_at_its_own_size(root: Path) -> None:
    import albumentations

    black = albumentations.CenterCrop(height=8, width=8, p=1.0)
    (batch, *_) = stream(root, augmentations={"crop": black}, color_jitter=0.0, flip=0.0)
    assert batch.images.shape == (4, 3, 32, 32)  # and their result is resized to the network's input again
    assert not same([batch], stream(root, color_jitter=0.0, flip=0.0)[:1])


# Sizes


def gradient(height: int, width: int) -> np.ndarray:
    """An image whose red value is the row and whose green value is the column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(x)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(128, 256), (256, 128)])
def test_evaluation_sees_the_middle_square_of_256_224ths(size: tuple[int, int]) -> None:
    crop = CentreCrop("crop", 112)  # half of 224: 128 px become 128 px, of which the middle 112 stay
    seen, _, scale = crop.apply(gradient(*size), (112, 112))
    assert seen.shape == (112, 112, 3)
    assert scale == (1, 1)
    top, left = ((side - 112) // 2 for side in size)
    np.testing.assert_array_equal(seen, gradient(*size)[top : top + 112, left : left + 112])


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3000, 2)])
def test_images_of_one_pixel_are_legal(root: Path, size: tuple[int, int]) -> None:
    for split in ("train", "val"):
        write(root / split / "ape" / "0.png", size)
    data = folder(root)
    data.setup("fit")
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch.images.shape[2:] == (32, 32)


def view(**options: Any) -> RandomView:
    rest = {"area": (0.53, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.0, "vertical_flip": 0.0}
    return RandomView(augmentation=Augmentation(None), **(rest | options))


def test_random_crops_have_the_requested_areas_and_proportions() -> None:
    parts = [view().part((300, 400), np.random.default_rng(seed)) for seed in range(500)]
    heights, widths = (np.array([p[axis].stop - p[axis].start for p in parts]) for axis in (0, 1))
    assert all(p[0].start >= 0 and p[0].stop <= 300 and p[1].start >= 0 and p[1].stop <= 400 for p in parts)
    areas, ratios = heights * widths / 120000, widths / heights
    assert 0.52 < areas.min() < 0.54
    assert 0.97 < areas.max() <= 1
    assert 0.745 < ratios.min() < 0.78
    assert 1.30 < ratios.max() < 1.34
    tops = np.array([p[0].start / max(300 - h, 1) for p, h in zip(parts, heights, strict=True)])
    assert 0.45 < tops.mean() < 0.55


@pytest.mark.parametrize(("size", "part"), [((100, 1000), (100, 133)), ((1000, 100), (133, 100))])
def test_where_no_crop_fits_the_largest_central_one_is_taken(size: tuple[int, int], part: tuple[int, int]) -> None:
    rows, columns = view(area=(0.9, 1.0)).part(size, np.random.default_rng(0))
    assert (rows.stop - rows.start, columns.stop - columns.start) == part
    assert abs(rows.start - (size[0] - rows.stop)) <= 1
    assert abs(columns.start - (size[1] - columns.stop)) <= 1


def test_flips_mirror_the_crop() -> None:
    image = gradient(64, 64)
    plain = view()(image, (32, 32), seed=7)
    np.testing.assert_array_equal(view(flip=1.0)(image, (32, 32), seed=7), plain[:, ::-1])
    np.testing.assert_array_equal(view(vertical_flip=1.0)(image, (32, 32), seed=7), plain[::-1])


def test_colour_jitter_changes_colours_a_little(root: Path) -> None:
    plain, jittered = (stream(root, color_jitter=j, flip=0.0)[0].images.int() for j in (0.0, 0.03))
    difference = (plain - jittered).abs()
    assert 0 < difference.float().mean() < 10
    assert difference.amax(dim=(1, 2, 3)).gt(0).all()


# What is refused


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        folder(root, **options).setup("fit")
    return str(raised.value)


def test_a_wrong_number_of_classes_says_the_right_one(root: Path) -> None:
    assert "has 3 class folders: ape, bee, cat; set data.num_classes=3" in refused(root, num_classes=1000)


def test_a_split_with_other_classes_names_those_of_both(root: Path) -> None:
    (root / "val" / "bee").rename(root / "val" / "bees")
    said = refused(root)
    assert "split 'val'" in said
    assert "other class folders than split 'train'. It lacks: bee. It has besides: bees." in said
    shutil.rmtree(root / "val" / "bees")
    assert "It lacks: bee. It has besides: none." in refused(root)


def test_a_folder_without_class_folders_is_refused(root: Path) -> None:
    for name in CLASSES:
        shutil.rmtree(root / "train" / name)
    write(root / "train" / "x.png")
    assert "train has no folder in it, and 1 file; expected is a folder of images for each class" in refused(root)


def test_a_missing_split_is_refused_with_the_existing_ones(root: Path) -> None:
    said = refused(root, train_split="trian")
    assert "trian can't be listed (No such file or directory); the folders beside it: train, val." in said


def test_a_class_folder_without_images_is_named_and_may_be_skipped(root: Path) -> None:
    for file in (root / "train" / "bee").iterdir():
        file.unlink()
    (root / "train" / "bee" / "notes.txt").write_text("none yet")
    assert "train/bee: a class folder holds no image; fill or remove it, or set data.on_error=skip" in refused(root)
    data = folder(root, on_error="skip")
    with pytest.warns(UserWarning, match="a class folder holds no image"):
        data.setup("fit")
    assert data.class_names == CLASSES
    assert "10 images of 3 classes, 0 to 5 of each" in data.describe()


def test_a_folder_within_a_class_folder_is_named(root: Path) -> None:
    write(root / "train" / "bee" / "more" / "x.png")
    assert "bee/more: a class folder holds a folder, in which no image is looked for; move its images up" in refused(
        root
    )


def test_an_image_beside_the_class_folders_is_named(root: Path) -> None:
    write(root / "train" / "lost.png")
    assert "train/lost.png: an image lies in no class folder; move it into one, or set data.on_error=skip" in refused(
        root
    )


def test_hidden_files_and_folders_are_ignored(root: Path) -> None:
    write(root / "train" / ".ipynb_checkpoints" / "0.png")
    (root / "train" / "bee" / "._0.png").write_bytes(b"a fork")
    write(root / "train" / "bee" / ".thumbnails" / "0.png")
    data = folder(root)
    data.setup("fit")
    assert data.class_names == CLASSES
    assert len(data.truth("train").image_ids) == 15


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"crop_area": [0.5, 1.5]}, r"data\.crop_area=\[0\.5, 1\.5\]: expected \[smallest, largest\].* at most 1"),
        ({"crop_area": [0.0, 1.0]}, r"data\.crop_area"),
        ({"crop_ratio": [2.0, 1.0]}, r"data\.crop_ratio=\[2\.0, 1\.0\]: expected \[smallest, largest\], over 0$"),
        ({"color_jitter": 0.9}, r"data\.color_jitter=0\.9: expected a share from 0 to 0\.5"),
        ({"rule": "square"}, r"data\.rule='square': expected crop"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        folder(tmp_path, **options)


def test_an_unreadable_image_is_named_or_skipped(root: Path) -> None:
    broken = root / "train" / "cat" / "3.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"image 13: .*cat/3\.png can't be decoded.*data\.on_error=skip"):
        stream(root)
    batches = stream(root, on_error="skip")
    (info,) = {info for batch in batches for info in batch.unread}
    assert info.image_id == 13
    assert "cat/3.png can't be decoded" in str(info.error)
    assert 13 not in {info.image_id for batch in batches for info in batch.infos}
    for batch in batches:
        assert len(batch.images) == len(batch.infos) == len(batch.labels) == 4 - len(batch.unread)


def test_a_split_without_an_image_that_can_be_read_is_refused(root: Path) -> None:
    for file in (root / "train").glob("*/*.png"):
        file.write_bytes(b"")
    assert "no image of split 'train' can be read" in refused(root, on_error="skip")
    for file in (root / "train").glob("*/*.png"):
        file.unlink()
    assert "data.train_split='train' is empty: none of its images is left: 3 skipped" in refused(root, on_error="skip")


def test_added_and_removed_files_are_noticed(root: Path) -> None:
    data = folder(root)
    data.setup("fit")
    write(root / "train" / "ape" / "new.png")
    later = folder(root)
    later.setup("fit")
    assert len(later.truth("train").image_ids) == 16
    os.remove(root / "train" / "ape" / "new.png")
    again = folder(root)
    again.setup("fit")
    assert len(again.truth("train").image_ids) == 15


def test_parts_of_the_training_split_can_be_joined_and_held_out(root: Path) -> None:
    write(root / "extra" / "dog" / "0.png")
    shutil.copytree(root / "train" / "ape", root / "extra" / "ape")
    data = folder(root, train_split="train+extra", num_classes=4, val_fraction=0.2)
    data.setup("fit")
    assert data.class_names == ("ape", "bee", "cat", "dog")
    train, val = (data.truth(split).image_ids.tolist() for split in ("train", "val"))
    assert sorted(train + val) == list(range(21))
    assert len(val) == 4
    assert np.bincount(np.concatenate([data.truth(s).labels for s in ("train", "val")])).tolist() == [10, 5, 5, 1]


def test_an_image_folder_is_not_inspected(root: Path) -> None:
    with pytest.raises(DataError, match="classes of whole images, and no boxes"):
        folder(root).survey("train")


def test_the_image_of_an_image_id_is_the_whole_one(root: Path) -> None:
    assert folder(root).image("val", 3).shape == (37, 51, 3)
