"""The data module: batches, their stream, splits, and the boxes that train."""

import math
import pickle
import subprocess
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import coco, voc, voc_object, write_coco, write_voc
from torch.utils.data import DataLoader, Dataset

from datamodules.batch import Batch
from datamodules.dataset import init_worker

SIZES = [(40, 60), (60, 40), (64, 64), (50, 80), (80, 50), (48, 64), (44, 60)]
BOXES = [[[1, 2, 20, 30], [5, 5, 10, 10]], [], [[0, 0, 64, 64]], [[8, 8, 30, 30]], [], [[3, 3, 9, 9]], []]


def stream(root: Path, epoch: int = 0, **options: Any) -> list[Batch]:
    data = coco(root, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    return list(loader)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.infos == b.infos and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        for a, b in zip(first, second, strict=True)
    )


AUGMENTED: dict[str, Any] = {
    "flip": 0.5, "vertical_flip": 0.5, "multi_scale": [0.5, 1.0],
    "augmentations": {
        "crop": albumentations.RandomSizedBBoxSafeCrop(32, 32, p=0.5),
        "colour": albumentations.ColorJitter(p=0.8),
    },
}  # fmt: skip


def test_a_batch_is_what_its_fields_promise(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 48)], [[[2, 4, 10, 12], {"category_id": 3, "bbox": [0, 0, 48, 32]}]])
    (batch,) = stream(tmp_path, batch_size=1, resize=50)
    assert batch.images.shape == (1, 3, 64, 96)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[50, 75]]
    height, width = batch.sizes[0].tolist()
    info = batch.infos[0]
    assert (info.image_id, info.original_size, info.error) == (10, (32, 48), None)
    assert info.scale == (height / 32, width / 48)
    y, x = info.scale
    wanted = torch.tensor([[2 * x, 4 * y, 12 * x, 16 * y], [0, 0, width, height]])
    torch.testing.assert_close(batch.boxes[0], wanted)
    assert batch.boxes.dtype == torch.float32
    assert batch.labels.tolist() == [[1, 0]]
    assert not batch.images[0, :, height:].any()
    assert not batch.images[0, :, :, width:].any()


def test_images_are_rgb(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)], [[]])
    Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / "train" / "train_0.png")
    (batch,) = stream(tmp_path, batch_size=1)
    assert batch.images[0, :, 5, 5].tolist() == [200, 100, 50]


def test_stream_is_the_same_with_any_number_of_workers_and_after_any_history(tmp_path: Path) -> None:
    write_coco(tmp_path, SIZES, BOXES)
    wanted = stream(tmp_path, epoch=1, **AUGMENTED)
    assert same(wanted, stream(tmp_path, epoch=1, num_workers=2, **AUGMENTED))
    assert not same(wanted, stream(tmp_path, epoch=2, **AUGMENTED))
    assert not same(wanted, stream(tmp_path, epoch=1, seed=5, **AUGMENTED))
    data = coco(tmp_path, **AUGMENTED)
    data.setup("fit")
    loader = data.train_dataloader()
    for epoch in (0, 3, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)
        np.random.seed(epoch)  # the state of global generators does not matter
        torch.manual_seed(epoch)
        found = list(loader)
    assert same(wanted, found)


def test_loading_draws_nothing_from_torchs_generator(tmp_path: Path) -> None:
    write_coco(tmp_path, SIZES, BOXES)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stream(tmp_path, **AUGMENTED)
    assert torch.equal(before, torch.get_rng_state())


def test_crops_fit_the_canvas_and_boxes_stay_in_the_image(tmp_path: Path) -> None:
    write_coco(tmp_path, SIZES, BOXES)
    for epoch in range(8):
        for batch in stream(tmp_path, epoch, **AUGMENTED):
            for size, boxes, labels in zip(batch.sizes, batch.boxes, batch.labels, strict=True):
                assert (size <= torch.tensor(batch.images.shape[2:])).all()
                real = boxes[labels >= 0]
                assert (real[:, :2] >= 0).all()
                assert (real[:, 2:] <= size.flip(0) + 1e-4).all()
                assert (real[:, 2:] > real[:, :2]).all()


def test_flip_mirrors_image_and_boxes(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)], [[[2, 4, 10, 12]]])
    (plain,) = stream(tmp_path, batch_size=1)
    (flipped,) = stream(tmp_path, batch_size=1, flip=1.0)
    assert torch.equal(plain.images.flip(3), flipped.images)
    assert flipped.boxes.tolist() == [[[20, 4, 30, 16]]]
    (turned,) = stream(tmp_path, batch_size=1, flip=1.0, vertical_flip=1.0)
    assert turned.boxes.tolist() == [[[20, 16, 30, 28]]]


def test_evaluation_sees_every_image_once_unchanged_by_augmentation(tmp_path: Path) -> None:
    write_coco(tmp_path, SIZES, BOXES)
    plain, augmented = coco(tmp_path), coco(tmp_path, **AUGMENTED)
    assert same(list(plain.val_dataloader()), list(augmented.val_dataloader()))
    ids = [info.image_id for batch in plain.val_dataloader() for info in batch.infos]
    assert sorted(ids) == [10, 20, 30, 40, 50, 60, 70]


def test_empty_and_crowd_only_images_train_as_images_without_objects(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)] * 3, [[], [{"iscrowd": 1}], [[1, 1, 9, 9]]])
    (batch,) = stream(tmp_path, batch_size=3)
    count = {info.image_id: int((labels >= 0).sum()) for info, labels in zip(batch.infos, batch.labels, strict=True)}
    assert count == {10: 0, 20: 0, 30: 1}
    assert batch.boxes[batch.labels < 0].eq(0).all()
    data = coco(tmp_path, empty_images="drop")
    data.setup("fit")
    assert {info.image_id for b in data.train_dataloader() for info in b.infos} == {30}
    assert len(data.truth("val").image_ids) == 3
    assert data.truth("val").crowd.tolist() == [True, False]


def test_a_batch_of_only_empty_images_has_one_row_of_padding(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)] * 2, [[], []])
    (batch,) = stream(tmp_path)
    assert batch.boxes.shape == (2, 1, 4)
    assert batch.labels.tolist() == [[-1], [-1]]


def test_more_than_a_hundred_boxes_all_arrive(tmp_path: Path) -> None:
    write_coco(tmp_path, [(64, 64)], [[[i % 50, i // 50, 4, 4] for i in range(250)]])
    (batch,) = stream(tmp_path, batch_size=1)
    assert (batch.labels >= 0).sum() == 250


def test_a_set_smaller_than_a_batch_trains(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)], [[[1, 1, 9, 9]]])
    (batch,) = stream(tmp_path, batch_size=4)
    assert [info.image_id for info in batch.infos] == [10] * 4


@pytest.mark.parametrize("drop", ["images", "objects"])
def test_an_empty_data_set_is_refused(tmp_path: Path, drop: str) -> None:
    write_coco(tmp_path, [] if drop == "images" else [(32, 32)], [] if drop == "images" else [[]])
    reason = (
        "it lists no image"
        if drop == "images"
        else "it lists 1 image, of which none is left with data.empty_images=drop"
    )
    with pytest.raises(ValueError, match=f"data.train_split='train' is empty: {reason}"):
        coco(tmp_path, empty_images="drop").setup("fit")


def test_a_held_out_part_is_seeded_disjoint_and_scored_instead_of_the_val_split(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)] * 20, [[]] * 20)

    def parts(seed: int) -> tuple[list[int], list[int]]:
        data = coco(tmp_path, val_fraction=0.25, seed=seed, val_split="none", test_split=None)
        data.setup()
        assert data.test_is_val
        return data.truth("train").image_ids.tolist(), data.truth("test").image_ids.tolist()

    train, val = parts(0)
    assert len(val) == 5
    assert sorted(train + val) == list(range(10, 210, 10))
    assert parts(0) == (train, val)
    assert parts(1) != (train, val)


def test_the_test_split_is_tested_on_whatever_is_held_out(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)] * 4, [[]] * 4)
    write_coco(tmp_path, [(32, 32)], [[]], "more")
    for settings in ({"val_split": "more"}, {"val_split": "none"}):
        data = coco(tmp_path, val_fraction=0.25, test_split="more", **settings)
        data.setup()
        assert not data.test_is_val
        assert len(data.truth("val").image_ids) == len(data.truth("test").image_ids) == 1
        assert data.truth("test").image_ids.tolist() == [10]
        assert "test (more): 1 image" in data.describe()
    assert coco(tmp_path, val_fraction=0.25).test_is_val  # one list is split into train and val
    with pytest.raises(ValueError, match=r"instances_none\.json does not exist.*set data\.test_split=null"):
        coco(tmp_path, test_split="none").setup("test")


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "long_side"},
        {"on_error": "ignore"},
        {"empty_images": "no"},
        {"val_fraction": 1.5},
        {"eval_batch_size": 0},
        {"num_workers": -1},
        {"multi_scale": [1.0, 0.8]},
    ],
)
def test_a_wrong_choice_is_refused_with_its_key(tmp_path: Path, options: dict[str, Any]) -> None:
    (key,) = options
    with pytest.raises(ValueError, match=rf"data\.{key}="):
        coco(tmp_path, **options)


def test_the_data_set_that_workers_receive_is_small(tmp_path: Path) -> None:
    write_coco(tmp_path, [(8, 8)] * 50, [[[1, 1, 3, 3]] * 40] * 50)
    data = coco(tmp_path)
    data.setup("fit")
    assert len(pickle.dumps(data.train_dataloader().dataset)) < 2000


def test_spawned_workers_read_the_same_stream(tmp_path: Path) -> None:
    write_coco(tmp_path, SIZES, BOXES)
    data = coco(tmp_path, num_workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.multiprocessing_context = "spawn"
    assert same(stream(tmp_path), list(loader))


def test_square_rule_pads_to_a_square(tmp_path: Path) -> None:
    write_coco(tmp_path, SIZES, BOXES)
    data = coco(tmp_path, rule="square", resize=80)
    data.setup("fit")
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch.images.shape[2:] == (96, 96)
        assert batch.sizes.amax(dim=1).eq(80).all()
    assert data.rule_name == "square 80"


def test_truth_keeps_boxes_that_training_skips(tmp_path: Path) -> None:
    write_voc(tmp_path, {"x": voc_object("a", "1 1 9 9", difficult=1) + voc_object("b", "3 3 3 3")})
    data = voc(tmp_path, min_box=2)
    data.setup()
    assert len(data.truth("train").boxes) == 2
    assert "1 difficult, 1 with a side under 2 pixels" in data.describe()
    with pytest.raises(ValueError, match="expected train, val or test"):
        data.truth("vall")


def test_boxes_without_area_never_train_even_with_min_box_zero(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)], [[[4, 4, 0, 5], [4, 4, 0.25, 5]]])
    (batch,) = stream(tmp_path, batch_size=1, min_box=0.0)
    assert math.isclose(float(batch.boxes[0, 0, 2] - batch.boxes[0, 0, 0]), 0.25)
    assert batch.boxes.shape[1] == 1


@pytest.mark.parametrize("min_box", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["HorizontalFlip", "ColorJitter", "RandomRotate90", "Transpose"])
def test_boxes_of_exactly_min_box_train_with_augmentations_as_without(
    tmp_path: Path, min_box: float, kind: str
) -> None:
    side = int(min_box)
    boxes = [[x, y, side, side] for x in range(0, 637, 19) for y in range(0, 477, 23)]
    write_coco(tmp_path, [(480, 640)], [boxes])
    chain = {f"step{n}": getattr(albumentations, kind)(p=1.0) for n in range(3)}
    (batch,) = stream(tmp_path, batch_size=1, resize=480, min_box=min_box, augmentations=chain)
    assert int((batch.labels >= 0).sum()) == len(boxes)


def test_a_box_that_a_crop_leaves_under_min_box_does_not_train(tmp_path: Path) -> None:
    write_coco(tmp_path, [(32, 32)], [[[4, 4, 4, 4], [4, 15.5, 4, 4], [4, 15, 4, 4]]])
    crop = {"crop": albumentations.Crop(0, 0, 16, 16)}
    (batch,) = stream(tmp_path, batch_size=1, resize=16, augmentations=crop)
    assert batch.boxes[batch.labels >= 0].tolist() == [[4, 4, 8, 8], [4, 15, 8, 16]]


class Threads(Dataset[int]):
    def __getitem__(self, _: int) -> int:
        return cv2.getNumThreads()


def test_cv2_uses_one_thread_in_workers() -> None:
    loader = DataLoader(Threads(), sampler=[0], num_workers=1, worker_init_fn=init_worker)
    assert next(iter(loader)).item() <= 1


def test_only_the_run_itself_can_end_a_worker(tmp_path: Path) -> None:
    """Schedulers and Ctrl-C signal every process, and the run needs its workers to finish the step."""
    write_coco(tmp_path, SIZES, BOXES)
    data = coco(tmp_path, num_workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    next(iter(loader))
    (worker,) = loader._iterator._workers
    subprocess.run(["kill", "-s", "TERM", str(worker.pid)], check=True)
    subprocess.run(["kill", "-s", "INT", str(worker.pid)], check=True)
    assert same(stream(tmp_path), list(loader))
    assert worker.is_alive()
    worker.terminate()
    worker.join(timeout=60)
    assert not worker.is_alive()
