"""The state after a validation as a callback finds it, without a run: five images and their detections."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from evaluation.analysis import Analysis, analyse
from evaluation.metrics import evaluate
from evaluation.truth import Predictions, Truth
from lit_modules.callbacks.pictures import Pictures

IDS = ("0001", "b/ä.x", "c", "d", "e")
CLASSES = ("細胞", "κύτταρο & <b>", "c")


def analysed(objects, detections, ids=IDS, sizes=None) -> Analysis:
    """The analysis of `objects` (image, box, label) and `detections` (image, box, label, score), ordered by image."""
    boxes = np.array([box for _, box, _ in objects], np.float64).reshape(-1, 4)
    truth = Truth(
        image_ids=np.array(ids), sizes=np.array(sizes or [(300, 400)] * len(ids)),
        image_index=np.array([image for image, _, _ in objects], np.int64), boxes=boxes,
        labels=np.array([label for _, _, label in objects], np.int64),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), crowd=np.zeros(len(boxes), bool),
        difficult=np.zeros(len(boxes), bool), class_names=CLASSES, category_ids=(1, 2, 3),
    )  # fmt: skip
    found = Predictions(
        image_index=np.array([image for image, *_ in detections], np.int64),
        boxes=np.array([box for _, box, *_ in detections], np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in detections], np.float32),
        labels=np.array([label for _, _, label, _ in detections], np.int64),
    )
    return analyse(truth, found, evaluate(truth, found))


BOX, OTHER = [40.0, 60.0, 200.0, 220.0], [240.0, 60.0, 380.0, 220.0]
OBJECTS = [(0, BOX, 0), (1, BOX, 1), (2, BOX, 0), (3, BOX, 0), (3, OTHER, 1), (4, BOX, 0)]
FOUND = [(0, BOX, 0, 0.9), (1, BOX, 1, 0.9), (2, BOX, 0, 0.8), (3, BOX, 0, 0.9), (4, OTHER, 0, 0.95)]
"""The first three images are correct; on the fourth one of two objects is missed, on the fifth all are wrong."""


class Data:
    """A data module of grey images in the annotated sizes."""

    def __init__(self, analysis: Analysis) -> None:
        self.sizes = dict(zip(analysis.truth.image_ids.tolist(), analysis.truth.sizes.tolist(), strict=True))
        self.gone: set[int | str] = set()

    def image(self, split: str, image_id: int | str) -> np.ndarray:
        assert split == "val"
        if image_id in self.gone:
            raise FileNotFoundError(f"{image_id}.jpg does not exist; replace the file")
        return np.full((*self.sizes[image_id], 3), 120, np.uint8)


class Run:
    """A stand-in for the trainer and the module as the callback sees them."""

    def __init__(self, folder: Path, analysis: Analysis | None = None, **settings: int) -> None:
        self.analysis = analysis or analysed(OBJECTS, FOUND)
        self.trainer = SimpleNamespace(
            sanity_checking=False, state=SimpleNamespace(fn="fit"), is_global_zero=True, should_stop=False,
            max_steps=100, global_step=0, loggers=[], datamodule=Data(self.analysis), default_root_dir=str(folder),
        )  # fmt: skip
        self.callback = Pictures(**settings)
        self.callback.setup(self.trainer, self, "fit")

    @property
    def last(self) -> "Run":
        """The results of its evaluation, of which the callback reads only the analysis."""
        return self

    def validate(self, step: int) -> None:
        self.trainer.global_step = step
        self.callback.on_validation_end(self.trainer, self)
