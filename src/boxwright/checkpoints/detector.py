"""A checkpoint as a function from pictures to detections: `load_detector("best.ckpt")("photo.jpg")`.

A picture must reach the network exactly as in validation. So this file, alone in its package, imports the data sets'
own functions that read, resize and pad pictures; everything after that is the module's own `detect`, and the mapping
back that validation uses.
"""

# torch has no types for uint8 arrays.
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, get_args, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from boxwright.checkpoints.reading import load_module, read_checkpoint
from boxwright.config.check import Precision
from boxwright.config.trusted import trust
from datamodules.batch import ImageInfo
from datamodules.dataset import Sample, collate
from datamodules.images import read_image
from datamodules.transforms import Resize
from detectors.detections import Detections
from evaluation.results import ImagePredictions
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import in_original_pixels
from lit_modules.machine import choose_precision

Picture = str | Path | Image.Image | np.ndarray[Any, Any] | Tensor
"""A file, or pixels: a PIL image of any mode, uint8 arrays (h, w, 3) or (h, w), a uint8 tensor (3, h, w); RGB."""


def load_detector(
    path: str | Path,
    device: str | torch.device | None = None,
    precision: Precision = None,
    score_threshold: float | Literal["best_f1"] | None = None,
    trusted: Iterable[str] = (),
) -> "Detector":
    """Loads a checkpoint as a detector; runs no code of the file, and raises ValueError if it isn't a checkpoint.

    `device`: None takes an accelerator where there is one. `precision`: None is that of training.
    `score_threshold`: None keeps all that validation scored, "best_f1" what reaches the score with the best F1
    of its class in the checkpoint's last validation. `trusted`: packages of your own whose classes the file may name,
    like `trusted_packages` of the scripts.
    """
    trust(trusted)
    return Detector(read_checkpoint(path), device, precision, score_threshold)


class Detector:
    """Finds the boxes of a picture in its own pixels, as validation found them.

    The number of images in a forward pass may change the last bits of a float: equal numbers give equal results.
    """

    def __init__(
        self,
        checkpoint: Mapping[str, Any],
        device: str | torch.device | None = None,
        precision: Precision = None,
        score_threshold: float | Literal["best_f1"] | None = None,
    ) -> None:
        stored: dict[str, Any] = checkpoint["boxwright"]
        data: dict[str, Any] = stored["config"]["data"]
        self.device = torch.device(device or _accelerator())
        if precision not in get_args(Precision):
            raise ValueError(f"precision={precision!r}: expected 32-true, bf16-mixed, 16-mixed, or None for training's")
        self.precision = choose_precision(precision or stored["config"]["trainer"]["precision"], self.device.type)
        if self.precision == "16-mixed" and self.device.type == "cpu":
            self.precision = "bf16-mixed"  # as Lightning has it, in evaluation too
        module = load_module(checkpoint)
        if not isinstance(module, DetectionModule):
            raise ValueError(
                f"the checkpoint holds a {type(module).__name__}, which finds no boxes; evaluate.py scores it, and a "
                "detector that starts from it is trained with model.backbone.weights=FILE"
            )
        self.module = module.to(self.device)
        self.class_names: tuple[str, ...] = tuple(stored["class_names"])
        self.category_ids: tuple[int, ...] = tuple(stored["category_ids"])
        self.resize = Resize(data["rule"], data["resize"])
        self.batch_size: int = data["eval_batch_size"]
        """Images in a batch of validation."""
        self.best_f1: dict[str, float] | None = stored.get("thresholds") or None
        """The score with the best F1 of each class; None where the checkpoint was saved before any validation."""
        self.thresholds: dict[str, float] = {}
        """The lowest score that is kept, by class."""
        self.set_threshold(score_threshold)

    def set_threshold(self, asked: float | Literal["best_f1"] | None) -> None:
        """Sets one number for all classes, with "best_f1" that of each class, or with None keeps everything."""
        if asked == "best_f1":
            if self.best_f1 is None:
                raise ValueError(
                    "score_threshold=best_f1: the checkpoint has no thresholds, as it was saved before any validation; "
                    "give a number, such as score_threshold=0.3"
                )
            self.thresholds = {name: self.best_f1[name] for name in self.class_names}
            return
        if asked is not None and (isinstance(cast(object, asked), str) or not 0 <= asked <= 1):
            raise ValueError(f"score_threshold={asked}: expected a number from 0 to 1, or best_f1")
        self.thresholds = dict.fromkeys(self.class_names, float(asked or 0))

    @overload
    def __call__(self, pictures: Picture) -> Detections: ...
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """Detects objects in a picture, or in each of a list: B = 1, on the CPU, by falling score, without padding."""
        if not isinstance(pictures, list | tuple):
            return self([cast(Picture, pictures)])[0]
        samples = (self.sample(pixels(picture), place) for place, picture in enumerate(pictures))
        found = [one for batch in equal_canvases(samples, self.batch_size) for one in self.detect(batch)]
        return [_as_detections(self.above_threshold(one)) for one in sorted(found, key=lambda one: one.image_id)]

    def sample(self, image: np.ndarray[Any, Any], image_id: int) -> Sample:
        """Resizes RGB uint8 (h, w, 3) as in validation, with the canvas that follows from its size alone."""
        before: tuple[int, int] = image.shape[:2]
        height, width = self.resize.canvases(self.resize.sizes(np.array([before])))[0].tolist()
        sized = self.resize.apply(image, (height, width))
        nothing = np.zeros((0, 4)), np.zeros(0, np.int64)
        info = ImageInfo(image_id, before, sized.scale)
        return Sample(sized, *nothing, info, (height, width))

    def detect(self, samples: Sequence[Sample]) -> list[ImagePredictions]:
        """Runs one forward pass over samples of one canvas; returns all detections that validation would score."""
        batch = collate(list(samples))
        moved = batch.to(self.device)
        half = torch.float16 if self.precision == "16-mixed" else torch.bfloat16
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, half, enabled=self.precision != "32-true", cache_enabled=False),
        ):
            return in_original_pixels(moved, self.module.detect(self.module.forward_batch(moved), moved))

    def above_threshold(self, one: ImagePredictions) -> ImagePredictions:
        kept = one.scores >= np.array([self.thresholds[name] for name in self.class_names])[one.labels]
        return ImagePredictions(one.image_id, one.boxes[kept], one.scores[kept], one.labels[kept])


class _HasCanvas(Protocol):
    @property
    def canvas(self) -> tuple[int, int]: ...


T = TypeVar("T", bound=_HasCanvas)


def equal_canvases(samples: Iterable[T], batch_size: int) -> Iterator[list[T]]:
    """Yields batches of equal canvas, as evaluation composes them; of rare canvases smaller ones, so that no sample
    waits for more than 8 x `batch_size` others."""
    waiting: dict[tuple[int, int], tuple[int, list[T]]] = {}
    for number, sample in enumerate(samples):
        group = waiting.setdefault(sample.canvas, (number, []))[1]
        group.append(sample)
        if len(group) == batch_size:
            yield waiting.pop(sample.canvas)[1]
        oldest = next(iter(waiting), None)
        if oldest is not None and number - waiting[oldest][0] >= 8 * batch_size:
            yield waiting.pop(oldest)[1]
    for _, group in waiting.values():
        yield group


def pixels(picture: Picture) -> np.ndarray[Any, Any]:
    """Reads a picture as it is meant to be seen: RGB uint8 (h, w, 3)."""
    if isinstance(picture, str | Path):
        return read_image(str(picture))
    if isinstance(picture, Image.Image):
        return _of_pil(picture)
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
            raise ValueError(
                f"a tensor of {picture.dtype} and shape {tuple(picture.shape)}: expected torch.uint8 (3, h, w), RGB, "
                "0 to 255, not normalised, one image; for several give a list"
            )
        return picture.permute(1, 2, 0).contiguous().cpu().numpy()
    if not isinstance(cast(object, picture), np.ndarray):
        raise ValueError(
            f"a {type(picture).__name__} is not a picture: expected a path, a PIL image, an array, a tensor, or a list "
            "of them"
        )
    grey = picture.ndim == 2
    if picture.dtype != np.uint8 or not (grey or (picture.ndim == 3 and picture.shape[2] == 3)) or not picture.size:
        raise ValueError(
            f"an array of {picture.dtype} and shape {picture.shape}: expected uint8 (h, w, 3), RGB, or (h, w), grey, "
            "0 to 255, not normalised, one image; for several give a list"
        )
    return np.repeat(picture[..., None], 3, axis=2) if grey else np.ascontiguousarray(picture)


def _of_pil(image: Image.Image) -> np.ndarray[Any, Any]:
    """Reads an image as `read_image` would its file: 16 bits scaled to 8, transparent pixels in the stored colour."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("a PIL image of floats (mode F): expected 8 or 16 bits; scale it to 0..255 and convert it")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.size and (grey.min() < 0 or grey.max() >= 2**16):
            raise ValueError(
                f"a PIL image of mode {image.mode} with values from {grey.min()} to {grey.max()}: expected 16 bits; "
                "scale it to 0..255 and convert it"
            )
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    return pixels(np.array(image.convert("RGB")))


def _as_detections(one: ImagePredictions) -> Detections:
    boxes, scores, labels = (torch.from_numpy(part)[None] for part in (one.boxes, one.scores, one.labels))
    return Detections(boxes, scores, labels)


def _accelerator() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
