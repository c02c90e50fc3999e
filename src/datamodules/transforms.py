"""Changes of an image and its boxes between the file and the batch. Arrays are RGB uint8 (h, w, 3)."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

STRIDE = 32  # canvases are multiples of it, so that every level of a pyramid down to stride 32 divides them
_CAP = 1333 / 800  # long side over short side, from the papers' 800 and 1333
_SIZE_STREAM = 1  # keeps the draw of a sample's size apart from its other draws
ROUNDING = 2.0**-20
"""Of an image's longer side: by more than this no few augmentations round the side of a box. albumentations keeps
coordinates as float32 fractions of the image, which takes up to 2^-24 of the side at each step."""


@dataclass(frozen=True)
class Resize:
    """A rule plus one number. `short_side`: the short side becomes `resize`, or less where the long side
    would pass `max_side`. `square`: the long side becomes `resize`, on a square canvas.
    """

    rule: str
    resize: int
    max_side: int | None = field(default=None, repr=False)  # a checkpoint's stream is known by the repr without it
    """Longest side under `short_side`; None: `resize` x 1333/800."""
    rounding: str = field(default="long_down", repr=False)
    """Of sides under `short_side`: "long_down" is fcos_core's, "down" torchvision's, "nearest" detectron2's."""
    interpolation: str = field(default="area", repr=False)
    """Of images that shrink: "area" averages, "bilinear" takes the four nearest pixels alone, as torchvision and
    Detectron do, and "antialias" is PIL's bilinear, as in detectron2 and fcos_core. Those that grow are bilinear."""

    @property
    def cap(self) -> int:
        """Longest side under `short_side`; that of `resize` also where training draws smaller sizes."""
        return round(self.resize * _CAP) if self.max_side is None else self.max_side

    def sizes(self, originals: np.ndarray, resize: int | np.ndarray | None = None) -> np.ndarray:
        """Returns the new (height, width) of each (height, width), with `resize` in place of the rule's own number.

        Rounds as fcos_core does: the short side to the nearest integer where the cap holds it, the long side
        down. Where that leaves nothing of the short side (1 x 5000 pixels), it is 1 and the long side the cap.
        """
        target = np.broadcast_to(self.resize if resize is None else resize, len(originals))
        short, long = originals.min(axis=1), originals.max(axis=1)
        if self.rule == "square":
            new_long = target
            new_short = np.rint(short * target / long).astype(np.int64)
        elif self.rounding != "long_down":
            return self._scaled(originals, target)
        else:
            capped = long / short * target > self.cap
            new_short = np.where(capped, np.rint(self.cap * short / long), target).astype(np.int64)
            new_long = np.where(new_short < 1, self.cap, new_short * long / short).astype(np.int64)
        tall = originals[:, 0] >= originals[:, 1]
        new = np.stack([np.where(tall, new_long, new_short), np.where(tall, new_short, new_long)], axis=1)
        return np.maximum(new, 1)

    def _scaled(self, originals: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Scales both sides by one factor and rounds each, in the steps of the original, whose last bits decide."""
        short, long = originals.min(axis=1), originals.max(axis=1)
        if self.rounding == "down":
            return np.maximum((originals * np.minimum(target / short, self.cap / long)[:, None]).astype(np.int64), 1)
        exact = np.where(originals == short[:, None], target[:, None], originals * (target / short)[:, None])
        largest = exact.max(axis=1, keepdims=True)
        exact = np.where(largest > self.cap, exact * (self.cap / largest), exact)
        return np.maximum((exact + 0.5).astype(np.int64), 1)

    def canvases(self, sizes: np.ndarray) -> np.ndarray:
        """Returns the padded (height, width) of each of the resized `sizes`; that of a batch is their maximum."""
        padded = -(-sizes // STRIDE) * STRIDE
        return np.repeat(padded.max(axis=1, keepdims=True), 2, axis=1) if self.rule == "square" else padded

    def largest(self, factors: Sequence[float] | None) -> int:
        """Returns the bytes of an image on the largest canvas of images up to 100 times as long as wide, with `factors`
        of `multi_scale`; rounding may make those of longer ones larger."""
        side = math.ceil(self.resize * max(1.0, *(factors or (1.0,))))
        side = -(-max(side, self.cap if self.rule == "short_side" else 0) // STRIDE) * STRIDE
        return 3 * side * side

    def apply(self, image: np.ndarray, canvas: tuple[int, int], resize: int | None = None) -> "Sized":
        """Sizes an image for training, evaluation and prediction alike.

        In the worker: originals at 800 would spare it 0.6 ms each, and cost a CPU device 1.6 (measurements/data.py).
        """
        before = image.shape[:2]
        return Sized.to(fit(self.sizes(np.array([before]), resize)[0].tolist(), canvas), image, self.interpolation)


class Sized(NamedTuple):
    """An image resized already where it shrinks; where it grows, `write` resizes it into its batch."""

    image: np.ndarray
    size: tuple[int, int]
    """The new (height, width)."""
    scale: tuple[float, float]
    """(y, x): new pixels divided by old."""

    @classmethod
    def to(cls, size: tuple[int, int], image: np.ndarray, interpolation: str = "area") -> "Sized":
        # An image waits for its batch at the smaller of both sizes. One that grows is written once, into the batch:
        # a quarter less of a worker's time for COCO's images at 800.
        before = image.shape[:2]
        waiting = resize_image(image, size, interpolation=interpolation) if _shrinks(image, size) else image
        return cls(waiting, size, (size[0] / before[0], size[1] / before[1]))

    def write(self, out: np.ndarray) -> None:
        """Writes the image into `out`, uint8 (h, w, 3) of the new size."""
        resize_image(self.image, self.size, out)


def draw_resize(seed: int, resize: int, factors: tuple[float, float]) -> int:
    """Draws the multi-scale size of a sample, uniform between two factors of `resize`; a function of its seed."""
    factor = np.random.default_rng((seed, _SIZE_STREAM)).uniform(*factors)
    return max(1, round(resize * factor))


def training_boxes(
    boxes: np.ndarray, labels: np.ndarray, excluded: np.ndarray, sizes: np.ndarray, min_box: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes clipped to their images (`sizes` is (h, w), or one for each box), and which of them train: not
    `excluded`, of a wanted class (label >= 0), with area, and no side under `min_box`.
    """
    clipped = np.clip(boxes, 0, np.flip(np.concatenate([sizes, sizes], axis=-1), axis=-1))
    sides = np.round(clipped[:, 2:] - clipped[:, :2], 9)  # (x + w) - x misses w by a few bits
    keep = ~excluded & (labels >= 0) & ((sides >= min_box) & (sides > 0)).all(axis=1)
    return clipped, keep


def mirror(image: np.ndarray, boxes: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors left to right (axis 1) or top to bottom (axis 0)."""
    low, high = (0, 2) if axis == 1 else (1, 3)
    boxes = boxes.copy()
    boxes[:, [low, high]] = image.shape[axis] - boxes[:, [high, low]]
    return cv2.flip(image, axis), boxes


def resize_image(
    image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None, interpolation: str = "area"
) -> np.ndarray:
    """Resizes by area averaging where the image shrinks, since bilinear sampling would alias there (at 2.5 times
    smaller it skips most pixels); bilinear otherwise. Into `out` if it is given. `interpolation` as in `Resize`."""
    if image.shape[:2] != size:
        if interpolation == "antialias" and _shrinks(image, size):
            resized = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
            return _written(resized, out)
        kind = cv2.INTER_AREA if interpolation == "area" and _shrinks(image, size) else cv2.INTER_LINEAR
        return cv2.resize(image, (size[1], size[0]), out, interpolation=kind)
    return _written(image, out)


def _written(image: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is not None:
        out[:] = image
    return image


def _shrinks(image: np.ndarray, size: tuple[int, int]) -> bool:
    return size[0] < image.shape[0] or size[1] < image.shape[1]


def fit(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Returns `size`, made smaller in its proportions where it does not fit the canvas."""
    factor = min(1.0, canvas[0] / size[0], canvas[1] / size[1])
    return (size[0], size[1]) if factor == 1 else (max(1, int(size[0] * factor)), max(1, int(size[1] * factor)))


class Augmentation:
    """Albumentations transforms by name, as one pipeline that is a function of the sample's seed.

    The pipeline is put together at the first image, that is once in every worker.
    """

    def __init__(
        self, transforms: Mapping[str, Any] | None, min_visibility: float = 0.0, min_area: float = 0.0
    ) -> None:
        """`min_visibility`: share of a box that a crop must leave of it, `min_area`: pixels that must be left."""
        self.transforms = dict(transforms or {})
        self.min_visibility, self.min_area = min_visibility, min_area
        self._pipeline: Any = None

    def __bool__(self) -> bool:
        return bool(self.transforms)

    @property
    def turns(self) -> bool:
        """Whether a transform may turn an image by 90 degrees, alone or within others."""
        return any(map(_may_turn, self.transforms.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pipeline": None}

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augments an image and its boxes, which must lie in it; drops those of which too little is left."""
        if self._pipeline is None:
            self._pipeline = self._compose()
        self._pipeline.set_random_seed(seed)
        out = self._pipeline(image=image, bboxes=boxes, labels=labels)
        image = out["image"]
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3):
            raise ValueError(
                f"data.augmentations ({', '.join(self.transforms)}) must give uint8 images of height x width "
                "x 3; take out Normalize, ToFloat and ToTensorV2: the network normalises"
            )
        boxes = np.asarray(out["bboxes"], np.float64).reshape(-1, 4)
        return image, boxes, np.asarray(out["labels"], np.int64).reshape(-1)

    def _compose(self) -> Any:
        import albumentations  # 1.5 s, and not needed without augmentations

        parameters = albumentations.BboxParams(
            format="pascal_voc", clip=True, filter_invalid_bboxes=True, label_fields=["labels"],
            min_visibility=self.min_visibility, min_area=self.min_area,
        )  # fmt: skip
        with warnings.catch_warnings():  # that colours alone leave boxes as they are
            warnings.filterwarnings("ignore", "Got processor for bboxes, but no transform")
            return albumentations.Compose(list(self.transforms.values()), bbox_params=parameters)


_TURNING = frozenset(("RandomRotate90", "Transpose", "D4", "SquareSymmetry"))


def _may_turn(transform: Any) -> bool:
    names = {kind.__name__ for kind in type(transform).__mro__}
    inner = getattr(transform, "transforms", ())  # of OneOf, Sequential and their like
    return bool(names & _TURNING) or bool(getattr(transform, "fit_output", False)) or any(map(_may_turn, inner))
