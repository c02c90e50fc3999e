"""A checkpoint as a function from pictures to detections: `load_detector("best.ckpt")("photo.jpg")`.

A picture must reach the network exactly as in validation. So this file, alone in its package, imports the data sets'
own functions that decode, resize and pad pictures; everything after that is the module's own `detect`, and the mapping
back that validation uses.
"""

# torch has no types for uint8 arrays.
# pyright: reportUnknownMemberType=false

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.checkpoints.reading import load_module, read_checkpoint, source_of
from boxwright.config.check import Precision
from boxwright.config.files import nearest
from boxwright.config.trusted import trust
from datamodules.dataset import Sample, collate, sample_of
from datamodules.decoding import Decoding, of_array, of_pil
from datamodules.headers import has_several
from datamodules.images import AS_SHOWN, read_image
from datamodules.transforms import Resize
from detectors.detections import Detections
from evaluation.results import ImagePredictions
from evaluation.wording import counted
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import in_original_pixels
from lit_modules.machine import choose_precision

Picture = str | Path | Image.Image | np.ndarray[Any, Any] | Tensor
"""A file, or pixels: a PIL image of any mode, an array uint8 (h, w, 3) or (h, w), a tensor uint8 (3, h, w); RGB. Arrays
and tensors may also have 1 channel or 4 (RGBA), and 16 bits."""
Threshold = float | Literal["best_f1"] | Mapping[str, float]
"""For all classes; for each the score with the best F1; or by class."""
_NUMBERS = ("uint8", "uint16", "int16", "int32", "int64", "uint32", "float16", "float32", "float64")
"""Of arrays where a checkpoint says which numbers are black and white."""


def load_detector(
    path: str | Path,
    device: str | torch.device | None = None,
    precision: Precision = None,
    score_threshold: Threshold | None = None,
    trusted: Iterable[str] = (),
) -> "Detector":
    """Loads a checkpoint as a detector; runs no code of the file, and raises ValueError if it isn't a checkpoint.

    `path`: a file, a published name (docs/zoo.md), or `hf://USER/REPO[@REVISION][/FILE]` (docs/hub.md).
    `device`: None takes an accelerator where there is one. `precision`: None is that of training.
    `score_threshold`: None keeps all that validation scored, "best_f1" what reaches the score with the best F1
    of its class in the checkpoint's last validation, {"cat": 0.5} all but cats under 0.5. `trusted`: packages of your
    own whose classes the file may name,
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
        score_threshold: Threshold | None = None,
    ) -> None:
        stored: dict[str, Any] = checkpoint["boxwright"]
        data: dict[str, Any] = stored["config"]["data"]
        self.device = _device(device)
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
        self.source: str | None = source_of(checkpoint, "") or None
        """Of a checkpoint from the Hub its address with the commit that was read, which always means this file."""
        self.class_names: tuple[str, ...] = tuple(stored["class_names"])
        self.category_ids: tuple[int, ...] = tuple(stored["category_ids"])
        more = {key: data[key] for key in ("max_side", "rounding", "interpolation") if key in data}
        self.resize = Resize(data["rule"], data["resize"], **more)
        try:
            self.decoding = Decoding.of(data.get("exif", "auto"), data.get("value_range"), stored.get("exif", "apply"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint's data.value_range={data['value_range']}: {error}") from error
        self.batch_size: int = data["eval_batch_size"]
        """Images in a batch of validation."""
        self.best_f1: dict[str, float] | None = stored.get("thresholds") or None
        """The score with the best F1 of each class; None where the checkpoint was saved before any validation."""
        self.thresholds: dict[str, float] = dict.fromkeys(self.class_names, 0.0)
        """The lowest score that is kept, by class."""
        self.set_threshold(score_threshold)
        self._told_of_several = False

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        low, high = min(self.thresholds.values()), max(self.thresholds.values())
        return (
            f"Detector({type(self.module).__name__.removesuffix('Module')}, {len(self.class_names)} classes: {names}; "
            f"{self.resize.rule} {self.resize.resize}; {self.precision} on {self.device}; "
            f"scores from {low:.3g}{'' if low == high else f' to {high:.3g} by class'})"
        )

    def set_threshold(self, asked: Threshold | None) -> None:
        """One number for all classes, "best_f1" for that of each class, a mapping for classes by name, or None to keep
        everything."""
        self.thresholds = self._thresholds(0.0 if asked is None else asked)

    def _thresholds(self, asked: Threshold) -> dict[str, float]:
        if asked == "best_f1":
            if self.best_f1 is None:
                raise ValueError(
                    "score_threshold=best_f1: the checkpoint has no thresholds, as it was saved before any validation; "
                    "give a number, such as score_threshold=0.3"
                )
            return {name: self.best_f1[name] for name in self.class_names}
        given = asked if isinstance(asked, Mapping) else dict.fromkeys(self.class_names, asked)
        asked_of: dict[str, float] = {}
        for name, number in given.items():
            if name not in self.class_names:
                known = f"; its classes are {', '.join(self.class_names)}"
                near = nearest(name, self.class_names) if isinstance(cast(object, name), str) else ""
                raise ValueError(f"score_threshold: the checkpoint has no class {name!r}{near or known}")
            value: object = number.item() if isinstance(number, Tensor) and number.numel() == 1 else number
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
                of_class = f" of {name!r}" if isinstance(asked, Mapping) else ""
                raise ValueError(f"score_threshold={number}{of_class}: expected a number from 0 to 1, or best_f1")
            asked_of[name] = float(value)
        return self.thresholds | asked_of

    @overload
    def __call__(self, pictures: Picture, score_threshold: Threshold | None = None) -> Detections: ...
    @overload
    def __call__(self, pictures: Sequence[Picture], score_threshold: Threshold | None = None) -> list[Detections]: ...
    def __call__(
        self, pictures: Picture | Sequence[Picture], score_threshold: Threshold | None = None
    ) -> Detections | list[Detections]:
        """Detects objects in a picture, or in each of a list of any kinds: B = 1, on the CPU, by falling score.

        `score_threshold` holds for this call; None, and classes that a mapping leaves out, have the detector's own.
        """
        if not isinstance(pictures, list | tuple):
            return self([cast(Picture, pictures)], score_threshold)[0]
        thresholds = None if score_threshold is None else self._thresholds(score_threshold)
        samples = (self.sample(self._pixels(picture), place) for place, picture in enumerate(pictures))
        found = [one for batch in equal_canvases(samples, self.batch_size) for one in self.detect(batch)]
        found.sort(key=lambda one: one.image_id)
        return [_as_detections(self.above_threshold(one, thresholds)) for one in found]

    def _pixels(self, picture: Picture) -> np.ndarray[Any, Any]:
        if not self._told_of_several and isinstance(picture, str | Path) and has_several(str(picture)):
            self._told_of_several = True
            warnings.warn(f"{picture} holds several pictures, of which the first is taken, as of others", stacklevel=4)
        return pixels(picture, self.decoding)

    def sample(self, image: np.ndarray[Any, Any], image_id: int) -> Sample:
        """Resizes RGB uint8 (h, w, 3) as in validation, with the canvas that follows from its size alone."""
        return sample_of(image, image_id, self.resize)

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

    def above_threshold(self, one: ImagePredictions, thresholds: Mapping[str, float] | None = None) -> ImagePredictions:
        thresholds = self.thresholds if thresholds is None else thresholds
        kept = one.scores >= np.array([thresholds[name] for name in self.class_names])[one.labels]
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


def pixels(picture: Picture, decoding: Decoding = AS_SHOWN) -> np.ndarray[Any, Any]:
    """RGB uint8 (h, w, 3) of a picture of any kind, by the rule of `datamodules.decoding`."""
    if isinstance(picture, str | Path):
        return read_image(str(picture), decoding)
    if isinstance(picture, Image.Image):
        try:
            return of_pil(picture, decoding)
        except ValueError as error:
            raise ValueError(f"a PIL image of mode {picture.mode} {error}") from error
    if not isinstance(cast(object, picture), np.ndarray | Tensor):
        raise ValueError(
            f"a {type(picture).__name__} is not a picture: expected a path, a PIL image, an array, a tensor, or a list "
            "of them"
        )
    is_tensor = isinstance(picture, Tensor)
    channels = picture.shape[0 if is_tensor else 2] if picture.ndim == 3 else 1
    numbers = str(picture.dtype).removeprefix("torch.") if is_tensor else picture.dtype.name
    known = ("uint8", "uint16") if decoding.value_range is None else _NUMBERS
    if picture.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or 0 in picture.shape or numbers not in known:
        kind, form = ("a tensor", "torch.uint8 (3, h, w)") if is_tensor else ("an array", "uint8 (h, w, 3)")
        raise ValueError(
            f"{kind} of {picture.dtype} and shape {tuple(picture.shape)}: expected {form}, RGB, or (h, w), grey, 0 to "
            "255, not normalised, one image; for several give a list"
        )
    if is_tensor:
        array = picture.detach().cpu().numpy()
        picture = array.transpose(1, 2, 0) if array.ndim == 3 else array
    return of_array(picture, decoding)


def _as_detections(one: ImagePredictions) -> Detections:
    boxes, scores, labels = (torch.from_numpy(part)[None] for part in (one.boxes, one.scores, one.labels))
    return Detections(boxes, scores, labels)


def _device(asked: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(asked or _accelerator())
    except RuntimeError as error:
        raise ValueError(
            f"device={asked!r}: expected 'cpu', 'cuda', 'cuda:1', 'mps', or None for an accelerator where there is one"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = counted(torch.cuda.device_count(), "GPU")
        raise ValueError(f"device={asked!r}: torch finds {count} here; give device='cpu', or None for what there is")
    return device


def _accelerator() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
