"""Repeat-factor sampling: the paper's factors, and epochs that are a pure function of seed and epoch as without it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import coco, write_coco

from datamodules.repeats import repeat_factors
from datamodules.sampler import GlobalBatches, RankBatches, SampleKey
from datamodules.transforms import Resize

WIDE, TALL = (60, 100), (100, 60)
FACTORS = np.array([1.0, 1.25, 2.5, 3.0, 1.0, 1.75, 1.4, 1.0])


def batches(factors: np.ndarray | None = FACTORS, tall: int = 3, batch_size: int = 4, seed: int = 0) -> GlobalBatches:
    number = 8 if factors is None else len(factors)
    sizes = np.array([WIDE] * (number - tall) + [TALL] * tall)
    return GlobalBatches(np.arange(number), sizes, Resize("short_side", 64), batch_size, seed, repeats=factors)


def epoch(sampler: GlobalBatches, number: int) -> list[list[SampleKey]]:
    sampler.set_epoch(number)
    return list(sampler)


def test_factors_are_those_of_the_paper() -> None:
    """Ten images; class 0 is in all, 1 in four, 2 in one, 3 in none; t = 0.4."""
    images = [*range(10), 0, 0, 1, 2, 3, 3, 9]  # image 0 has two boxes of class 1, which count once
    labels = [*[0] * 10, 1, 1, 1, 1, 1, 2, 1]
    found = repeat_factors(np.array(images), np.array(labels), 10, 4, threshold=0.4)
    # f = 1, 5/10, 1/10: sqrt(0.4 / 0.1) = 2
    assert found.of_class.tolist() == [1, 1, 2, 1]
    assert found.of_image.tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    found = repeat_factors(np.array(images), np.array(labels), 10, 4, threshold=0.9)
    # sqrt(0.9 / 0.5), sqrt(0.9 / 0.1)
    assert found.of_class.tolist() == pytest.approx([1, 1.8**0.5, 3, 1])
    assert found.of_image[[0, 3, 4]].tolist() == pytest.approx([1.8**0.5, 3, 1])


def test_images_without_objects_are_there_once_and_count_as_images() -> None:
    found = repeat_factors(np.array([1]), np.array([0]), 4, 1, threshold=1.0)
    assert found.of_image.tolist() == [1, 2, 1, 1]


def test_each_image_is_there_as_often_as_its_factor_says() -> None:
    """Always the whole part, once more as often as the fraction; a batch size of 1 leaves nothing to complete."""
    counts = np.zeros((100, len(FACTORS)))
    sampler = batches(batch_size=1)
    for number in range(len(counts)):
        counts[number] = np.bincount([key.row for (key,) in epoch(sampler, number)], minlength=len(FACTORS))
    assert (counts >= np.floor(FACTORS)).all()
    assert len(sampler) == 9 + 5  # 8.75 wide images and 4.15 tall ones
    exact = batches(np.array([1.5, 1.5, 2.25, 1.75]), tall=0, batch_size=1)  # 7 images, never completed
    found = [np.bincount([key.row for (key,) in epoch(exact, n)], minlength=4) for n in range(600)]
    assert {int(one.sum()) for one in found} == {7}
    assert np.mean(found, axis=0) == pytest.approx([1.5, 1.5, 2.25, 1.75], abs=0.05)
    assert all(set(one - [1, 1, 2, 1]) <= {0, 1} for one in found)
    assert len({tuple(one) for one in found}) > 3  # rounded anew each time


def test_epochs_have_one_length_and_depend_on_seed_and_epoch_alone() -> None:
    used = batches()
    lengths = {len(epoch(used, number)) for number in range(50)}
    assert lengths == {len(used)} == {3 + 2}  # 9 wide and 5 tall images in batches of 4
    assert epoch(batches(), 7) == epoch(used, 7)
    assert epoch(batches(), 7) != epoch(batches(), 8)
    assert epoch(batches(), 7) != epoch(batches(seed=1), 7)
    for batch in epoch(used, 3):
        assert len({key.row >= 5 for key in batch}) == 1  # wide or tall
    keys = [key for batch in epoch(used, 3) for key in batch]
    assert {key.row for key in keys} == set(range(8))
    assert len({key.seed for key in keys}) == len(keys)  # copies of an image are augmented each in its own way


def test_it_goes_on_in_the_middle_of_an_epoch() -> None:
    whole = RankBatches(batches(), accumulate=2)
    whole.sampler.set_epoch(3)
    wanted = list(whole)
    for start in range(len(wanted) + 1):
        resumed = RankBatches(batches(), accumulate=2)
        resumed.start_at(3, start)
        assert list(resumed) == wanted[start:]
        assert len(resumed) == len(wanted)


def test_two_ranks_take_together_what_one_takes() -> None:
    ranks = [RankBatches(batches(), rank, 2) for rank in range(2)]
    for rank in ranks:
        rank.sampler.set_epoch(2)
    assert [a + b for a, b in zip(*ranks, strict=True)] == epoch(batches(), 2)


def test_without_it_the_stream_is_as_before() -> None:
    """Recorded before there were repeats."""
    found = epoch(batches(None), 5)
    assert [[key.row for key in batch] for batch in found] == [[2, 0, 3, 4], [0, 3, 4, 1], [6, 7, 5, 6]]
    assert found[0][0].seed == 1275536772294009181


# From the data module


def module(root: Path, **options: Any) -> Any:
    """Four images: three of class 7 (label 1), one of class 3 (label 0), with a crowd of it on another."""
    if not (root / "annotations").exists():
        crowd = {"bbox": [1, 1, 9, 9], "category_id": 3, "iscrowd": 1}
        boxes = [[[1, 2, 10, 12]], [[1, 2, 10, 12], crowd], [[1, 2, 10, 12]], [{"category_id": 3}], []]
        write_coco(root, [(32, 48)] * 5, boxes)
    data = coco(root, batch_size=1, **options)
    data.setup("fit")
    return data


def test_a_data_set_repeats_images_of_classes_that_training_uses(tmp_path: Path) -> None:
    data = module(tmp_path, repeat_threshold=0.8)
    # f(class 3) = 1/5, not 2/5: a crowd isn't trained on; f(class 7) = 3/5
    wanted = [(0.8 / 0.6) ** 0.5] * 3 + [2, 1]
    sampler = data.train_dataloader().batch_sampler.sampler
    assert sampler.repeats.tolist() == pytest.approx(wanted)
    assert len(sampler) == 7  # 6.46, completed
    assert "; 6 images an epoch with data.repeat_threshold=0.8" in data.describe()
    dropped = module(tmp_path, repeat_threshold=0.8, empty_images="drop")
    sampler = dropped.train_dataloader().batch_sampler.sampler
    assert sampler.repeats.tolist() == pytest.approx([(0.8 / 0.75) ** 0.5] * 3 + [3.2**0.5])
    assert "images an epoch" not in module(tmp_path).describe()
    assert module(tmp_path).train_dataloader().batch_sampler.sampler.repeats is None


def test_another_threshold_is_another_stream(tmp_path: Path) -> None:
    streams = [module(tmp_path, repeat_threshold=t).train_dataloader().stream for t in (None, 0.5, 0.8)]
    assert len(set(streams)) == 3


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5])
def test_a_threshold_that_is_no_share_is_refused(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"data\.repeat_threshold=.*: expected a share of the images"):
        module(tmp_path, repeat_threshold=threshold)
