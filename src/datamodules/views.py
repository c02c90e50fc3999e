"""The parts of an image that a classifier sees: the middle in evaluation, a random part in training."""

import math
from dataclasses import dataclass

import numpy as np

from datamodules.transforms import Augmentation, Resize, Sized, mirror, resize_image

_MARGIN = 256 / 224
_TRIES = 10


@dataclass(frozen=True)
class CentreCrop(Resize):
    """The usual crop to evaluate a classifier: short side to 256/224 of `resize`, then the middle square of `resize`.

    Cut out first and resized then, which differs by rounding, and never makes a large picture of a long one.
    """

    def sizes(self, originals: np.ndarray, resize: int | np.ndarray | None = None) -> np.ndarray:
        return np.full((len(originals), 2), self.resize)

    def canvases(self, sizes: np.ndarray) -> np.ndarray:
        """Returns `sizes`: there is no padding, which would have a share in the mean over the last feature map."""
        return sizes

    def apply(self, image: np.ndarray, canvas: tuple[int, int], resize: int | None = None) -> Sized:
        height, width = image.shape[:2]
        side = max(1, round(min(height, width) / _MARGIN))
        top, left = (height - side) // 2, (width - side) // 2
        factor = self.resize / side
        return Sized(resize_image(image[top : top + side, left : left + side], canvas), canvas, (factor, factor))


@dataclass(frozen=True, eq=False)
class RandomView:
    """A view of an image for training: a random part at the size of the network, its colours shifted, mirrored."""

    area: tuple[float, float]
    """Share of the image, from a uniform distribution."""
    ratio: tuple[float, float]
    """Width over height before resizing, its logarithm from a uniform distribution."""
    flip: float
    vertical_flip: float
    augmentation: Augmentation

    def __call__(self, image: np.ndarray, canvas: tuple[int, int], seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        across, down = random.random(2)
        rows, columns = self.part((image.shape[0], image.shape[1]), random)
        image, boxes = resize_image(image[rows, columns], canvas), np.zeros((0, 4))
        if self.augmentation:
            image = resize_image(self.augmentation(image, boxes, np.zeros(0, np.int64), seed)[0], canvas)
        if across < self.flip:
            image, _ = mirror(image, boxes, axis=1)
        if down < self.vertical_flip:
            image, _ = mirror(image, boxes, axis=0)
        return image

    def part(self, size: tuple[int, int], random: np.random.Generator) -> tuple[slice, slice]:
        """Draws rows and columns of a part: of ten the first that fits (Inception, arXiv 1409.4842, section 6); where
        none does, the largest in the middle whose proportions are allowed.
        """
        height, width = size
        areas = height * width * random.uniform(*self.area, _TRIES)
        ratios = np.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), _TRIES))
        drawn = np.rint(np.stack([np.sqrt(areas / ratios), np.sqrt(areas * ratios)], axis=1)).clip(1).astype(int)
        y, x = random.random(2).tolist()
        fits = drawn[(drawn <= size).all(axis=1)]
        if len(fits):
            h, w = fits[0].tolist()
        else:
            h = min(height, max(1, round(width / self.ratio[0])))
            w = min(width, max(1, round(height * self.ratio[1])))
            y = x = 0.5
        top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
        return slice(top, top + h), slice(left, left + w)
