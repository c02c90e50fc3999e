"""From a key to a sample, and from samples to a `Batch`; this part runs in the workers."""

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.batch import Batch, ImageInfo
from datamodules.index import AnnotationIndex
from datamodules.sampler import SampleKey
from datamodules.transforms import Augmentation, Resize, fit, mirror, resize_image, training_boxes


class Sample(NamedTuple):
    """An image at its final size, not yet padded."""

    image: np.ndarray
    """uint8 (h, w, 3)."""
    boxes: np.ndarray
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

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> Sample:
        height, width = self.index.sizes[key.row].tolist()
        path = self.index.image_path(key.row)
        error = None
        try:
            image = decode(path, (height, width))
            boxes, labels = self._boxes(key.row)
        except (OSError, ValueError) as caught:
            if not self.skip_errors:
                raise
            error = str(caught)
            image = np.zeros((height, width, 3), np.uint8)
            boxes, labels = np.zeros((0, 4)), np.zeros(0, np.int64)
        if self.training and error is None:
            image, boxes, labels = self._augment(image, boxes, labels, key.seed)

        before = image.shape[:2]
        after = fit(self.resize.sizes(np.array([before]), key.resize)[0].tolist(), key.canvas)
        scale = (after[0] / before[0], after[1] / before[1])
        boxes = boxes * (scale[1], scale[0], scale[1], scale[0])
        info = ImageInfo(self.index.image_id(key.row), (height, width), scale, error)
        return Sample(resize_image(image, after), boxes, labels, info, key.canvas)

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
            image, boxes, labels = self.augmentation(image, boxes, labels, seed)
            large = (boxes[:, 2:] - boxes[:, :2] >= self.min_box).all(axis=1)
            boxes, labels = boxes[large], labels[large]
        across, down = np.random.default_rng(seed).random(2)
        if across < self.flip:
            image, boxes = mirror(image, boxes, axis=1)
        if down < self.vertical_flip:
            image, boxes = mirror(image, boxes, axis=0)
        return image, boxes, labels


def decode(path: str, size: tuple[int, int]) -> np.ndarray:
    """The image as RGB uint8 (h, w, 3): turned as its EXIF orientation says if that gives the annotated
    `size`, as stored if that does, and a ValueError otherwise. Grey images become three equal channels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist, though the annotations list it; restore it, or set data.on_error=skip"
        ) from error
    remedy = "replace the file, or set data.on_error=skip to leave it out"
    if not data:
        raise ValueError(f"{path} is empty; {remedy}")
    if _cut_short(data):
        raise ValueError(f"{path} ends before its picture does (a truncated JPEG); {remedy}")
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        if image is not None and image.shape[:2] != size and image.shape[1::-1] == size:
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # headers that state absurd sizes
        image = None
    if image is None:
        raise ValueError(f"{path} ({len(data)} bytes) can't be decoded as an image; {remedy}")
    if image.shape[:2] != size:
        raise ValueError(
            f"{path} is {image.shape[1]} x {image.shape[0]} pixels, but its annotation says {size[1]} x "
            f"{size[0]}; correct the annotation, or set data.on_error=skip to leave the image out"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG has no end-of-image marker after its first scan starts.

    Decoders only warn of it, and fill up with grey. The headers are walked because a thumbnail in them has
    an end marker too; in the scan itself the marker's bytes can't occur.
    """
    if data[:2] != b"\xff\xd8":
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xDA:  # start of scan
            return data.rfind(b"\xff\xd9") < position
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position + 4 > len(data)


def collate(samples: list[Sample]) -> Batch:
    """Pads images to their common canvas with zeros at the bottom and right, boxes to the largest number."""
    canvas = samples[0].canvas
    images = torch.zeros(len(samples), 3, *canvas, dtype=torch.uint8)
    num_boxes = max(1, *(len(sample.boxes) for sample in samples))
    boxes = torch.zeros(len(samples), num_boxes, 4)
    labels = torch.full((len(samples), num_boxes), -1)
    for i, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        images[i, :, :height, :width] = torch.from_numpy(sample.image).permute(2, 0, 1)
        boxes[i, : len(sample.boxes)] = torch.from_numpy(sample.boxes)
        labels[i, : len(sample.labels)] = torch.from_numpy(sample.labels)
    sizes = torch.tensor([sample.image.shape[:2] for sample in samples])
    return Batch(images, sizes, boxes, labels, [sample.info for sample in samples])


def init_worker(_: int) -> None:
    """A worker is one thread; cv2 would start as many as there are cores."""
    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)
