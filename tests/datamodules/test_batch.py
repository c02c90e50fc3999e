"""The contents of a batch, their memory layout, and their way out of a worker."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_data import coco, write_coco

from datamodules.batch import Batch

SIZE = (32, 48)
WIDER = (32, 40)
GROWS, STAYS, SHRINKS = 50, 32, 21


def batch_of(root: Path, **options: Any) -> Batch:
    """A batch of images 10 and 20, of `SIZE` and `WIDER`, with one box and none."""
    write_coco(root, [SIZE, WIDER], [[[1, 2, 10, 12]], []])
    data = coco(root, **options)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    return batch


def drawn(root: Path, image_id: int, size: tuple[int, int], flip: bool) -> np.ndarray:
    """The file's pixels, resized by cv2 as the rule says."""
    image = cv2.imread(str(root / "train" / f"train_{image_id // 10 - 1}.png"))[..., ::-1]
    image = np.ascontiguousarray(image[:, ::-1] if flip else image)
    kind = cv2.INTER_AREA if size < image.shape[:2] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=kind)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("resize", [GROWS, STAYS, SHRINKS])
def test_a_batch_holds_the_pixels_of_each_file_bit_for_bit_and_zeros(
    tmp_path: Path, resize: int, flip: float, num_workers: int
) -> None:
    batch = batch_of(tmp_path, resize=resize, flip=flip, num_workers=num_workers)
    assert len(batch.infos) == 2
    for image, (height, width), info in zip(batch.images, batch.sizes.tolist(), batch.infos, strict=True):
        pixels = image.permute(1, 2, 0).numpy()
        wanted = drawn(tmp_path, int(info.image_id), (height, width), flip == 1)
        assert wanted.any()
        np.testing.assert_array_equal(pixels[:height, :width], wanted)
        assert not pixels[height:].any()
        assert not pixels[:, width:].any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_are_channels_last_in_memory(tmp_path: Path, num_workers: int) -> None:
    images = batch_of(tmp_path, num_workers=num_workers, resize=GROWS).images
    assert images.shape == (2, 3, 64, 96)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("resize", "waiting"), [(GROWS, SIZE), (STAYS, SIZE), (SHRINKS, (21, 31))])
def test_an_image_is_kept_at_the_smaller_of_its_sizes_until_its_batch_is_made(
    tmp_path: Path, resize: int, waiting: tuple[int, int]
) -> None:
    write_coco(tmp_path, [SIZE], [[]])
    data = coco(tmp_path, resize=resize, batch_size=1)
    data.setup("fit")
    loader = data.train_dataloader()
    ((key,),) = loader.batch_sampler
    sample = loader.dataset[key]
    assert sample.image.image.shape == (*waiting, 3)
    assert min(sample.image.size) == resize
