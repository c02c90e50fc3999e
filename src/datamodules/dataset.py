"""Makes a sample of a key, and a `Batch` of samples; this part runs in the workers."""

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datamodules.batch import Batch, ImageInfo
from datamodules.decoding import Decoding
from datamodules.images import AS_SHOWN, ImageError, decode
from datamodules.index import AnnotationIndex
from datamodules.loaders import Loader
from datamodules.sampler import SampleKey
from datamodules.shared_blocks import SharedBlocks
from datamodules.transforms import ROUNDING, Augmentation, Resize, Sized, mirror, training_boxes


class Sample(NamedTuple):
    """An image and its boxes, before padding."""

    image: Sized
    """uint8, with the size that the network sees."""
    boxes: np.ndarray
    """In pixels of that size."""
    labels: np.ndarray
    info: ImageInfo
    canvas: tuple[int, int]


@dataclass(frozen=True, eq=False)
class DetectionDataset(Dataset[Sample]):
    """Reads one sample by its key, and depends on nothing else."""

    index: AnnotationIndex
    class_map: np.ndarray
    """Label of each class of the index, -1 for one that is not wanted."""
    resize: Resize
    min_box: float = 1.0
    use_difficult: bool = False
    skip_errors: bool = False
    training: bool = False
    flip: float = 0.0
    vertical_flip: float = 0.0
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(None))
    decoding: Decoding = AS_SHOWN

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Sample:
        height, width = self.index.sizes[key.row].tolist()
        image_id = self.index.image_id(key.row)
        try:
            image = decode(self.index.image_path(key.row), (height, width), self.decoding)
        except ImageError as error:
            return unread(error, ImageInfo(image_id, (height, width), (1.0, 1.0)), key.canvas, self.skip_errors)
        boxes, labels = self._boxes(key.row)
        if self.training:
            image, boxes, labels = self._augment(image, boxes, labels, key.seed)

        sized = self.resize.apply(image, key.canvas, key.resize)
        y, x = sized.scale
        return Sample(
            sized, boxes * (x, y, x, y), labels, ImageInfo(image_id, (height, width), sized.scale), key.canvas
        )

    def _boxes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        index, part = self.index, self.index.boxes_of(row)
        labels = self.class_map[index.labels[part]]
        excluded = index.crowd[part] | (index.difficult[part] & (not self.use_difficult))
        boxes, keep = training_boxes(index.boxes[part], labels, excluded, index.sizes[row], self.min_box)
        return boxes[keep], labels[keep]

    def _augment(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.augmentation:
            pixels = max(image.shape[:2])
            image, boxes, labels = self.augmentation(image, boxes, labels, seed)
            # Those under it in the file are gone already; here go those that a crop cut, not those that rounding did.
            sides = boxes[:, 2:] - boxes[:, :2]
            large = (sides >= self.min_box - ROUNDING * max(pixels, *image.shape[:2])) & (sides > 0)
            boxes, labels = boxes[large.all(axis=1)], labels[large.all(axis=1)]
        across, down = np.random.default_rng(seed).random(2)
        if across < self.flip:
            image, boxes = mirror(image, boxes, axis=1)
        if down < self.vertical_flip:
            image, boxes = mirror(image, boxes, axis=0)
        return image, boxes, labels


def unread(error: ImageError, info: ImageInfo, canvas: tuple[int, int], skip: bool) -> Sample:
    """Returns an empty sample that states why its image is skipped; raises the error, with the image, unless `skip`."""
    if not skip:
        raise ImageError(f"image {info.image_id!r}: {error}, or set data.on_error=skip to skip it") from error
    nothing = Sized(np.zeros((0, 0, 3), np.uint8), (0, 0), (1.0, 1.0))
    return Sample(nothing, np.zeros((0, 4)), np.zeros(0, np.int64), info._replace(error=str(error)), canvas)


def sample_of(image: np.ndarray, image_id: int | str, resize: Resize) -> Sample:
    """Returns the sample of a picture without boxes, RGB uint8 (h, w, 3), resized as in evaluation; its canvas follows
    from its size alone."""
    height, width = image.shape[:2]
    canvas: list[int] = resize.canvases(resize.sizes(np.array([(height, width)])))[0].tolist()
    sized = resize.apply(image, (canvas[0], canvas[1]))
    info = ImageInfo(image_id, (height, width), sized.scale)
    return Sample(sized, np.zeros((0, 4)), np.zeros(0, np.int64), info, (canvas[0], canvas[1]))


def collate(samples: list[Sample], shared: SharedBlocks | None = None) -> Batch:
    """Pads images to their common canvas with zeros at the bottom and right, boxes to the largest number.

    ValueError where they have no common canvas: padding to the largest would change what is found on the others.
    Images lie in memory as cv2 writes them, channels last, which is also how convolutions read them fastest; in a
    worker already where the main process can see them, which spares a copy.
    """
    canvas = samples[0].canvas
    if others := {sample.canvas for sample in samples} - {canvas}:
        raise ValueError(
            f"images of canvases (height, width) {canvas} and {min(others)} in one batch: expected one canvas; take "
            "batch_size=1, batches of equal canvas as the data modules form them, or Resize('square', ..)"
        )
    unread = [sample.info for sample in samples if sample.info.error is not None]
    samples = [sample for sample in samples if sample.info.error is None]
    count = max(1, len(samples))
    images = _memory(shared, (count, *canvas, 3))
    if not samples:
        images.zero_()
    sizes = torch.tensor([sample.image.size for sample in samples] or [canvas])
    num_boxes = max([1, *(len(sample.boxes) for sample in samples)])
    boxes = torch.zeros(count, num_boxes, 4)
    labels = torch.full((count, num_boxes), -1)
    for i, sample in enumerate(samples):
        height, width = sample.image.size
        sample.image.write(images[i, :height, :width].numpy())
        images[i, height:] = 0
        images[i, :height, width:] = 0
        boxes[i, : len(sample.boxes)] = torch.from_numpy(sample.boxes)
        labels[i, : len(sample.labels)] = torch.from_numpy(sample.labels)
    return Batch(images.permute(0, 3, 1, 2), sizes, boxes, labels, [sample.info for sample in samples], unread)


def _memory(shared: SharedBlocks | None, shape: tuple[int, ...]) -> torch.Tensor:
    """Takes uint8 memory for images, with anything in it."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    block = None if shared is None else shared.take(math.prod(shape))
    if block is None:  # as torch's own collate does
        block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(math.prod(shape)))
    return block.view(shape)


def init_worker(_: int) -> None:
    """Sets a worker up as one thread (cv2 would start as many as there are cores) that ends when its run does:
    schedulers and Ctrl-C signal every process, and the run still needs its workers to finish the step and save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_run, daemon=True).start()
    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)


def _end_with_the_run() -> None:
    """Ends a worker when its parent sends SIGTERM, as a process that exits does to the children it has left."""
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


def spaced_batches(loader: Loader, most: int, single: bool = True) -> Iterator[Batch]:
    """Reads images evenly spaced over what this rank's `loader` of an evaluation gives: one at a time, or in batches of
    the largest size that it has."""
    batches: list[list[SampleKey]] = list(loader.batch_sampler)
    longest = max(map(len, batches))
    groups = [[key] for batch in batches for key in batch] if single else [b for b in batches if len(b) == longest]
    chosen = np.unique(np.linspace(0, len(groups) - 1, min(most, len(groups))).round().astype(int)).tolist()
    return read_batches(loader.dataset, (groups[place] for place in chosen), loader.collate_fn)


def read_batches(
    dataset: Dataset[Sample], groups: Iterable[Sequence[SampleKey]], collate: Callable[[list[Sample]], Batch] = collate
) -> Iterator[Batch]:
    """Reads a batch for each group of keys, in this process; skips one of which no image could be read."""
    for keys in groups:
        batch = collate([dataset[key] for key in keys])
        if batch.infos:
            yield batch
