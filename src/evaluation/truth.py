"""The truth and the predictions of a split as flat arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

COCO_METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
VOC_METRICS = ("mAP_voc07", "mAP_voc")
PROPOSAL_METRICS = ("AR100_proposals", "AR1000_proposals")
CLASSIFICATION_METRICS = ("top1", "top5")


@dataclass(frozen=True)
class Truth:
    """Every annotation of a split in original pixels, crowds and difficult objects included."""

    image_ids: Shaped[np.ndarray, " N"]
    """Integers or texts (COCO), or file stems (VOC), unique."""
    sizes: Int[np.ndarray, "N 2"]
    """(height, width) in pixels."""
    image_index: Int[np.ndarray, " M"]
    """Row in `image_ids` of each box, not decreasing."""
    boxes: Float[np.ndarray, "M 4"]
    """float64 xyxy."""
    labels: Int[np.ndarray, " M"]
    areas: Float[np.ndarray, " M"]
    """Square pixels, as the data set states them (COCO: of the mask)."""
    crowd: Bool[np.ndarray, " M"]
    difficult: Bool[np.ndarray, " M"]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own number of each class, in the order of `class_names`."""
    voc: bool = False
    """Score by the VOC devkit's rules as well as by COCO's."""
    results_file: str = "predictions.json"
    """What the server that has the annotations wants a results file to be called."""
    other_categories: Mapping[int, str] = field(default_factory=dict[int, str])
    """Categories of the annotations that are not scored, such as those that `data.classes` leaves out: names by id."""

    def only(self, keep: Bool[np.ndarray, " N"]) -> "Truth":
        """Keeps the truth of some of the images."""
        boxes = keep[self.image_index]
        return replace(
            self,
            image_ids=self.image_ids[keep],
            sizes=self.sizes[keep],
            image_index=(np.cumsum(keep) - 1)[self.image_index[boxes]],
            boxes=self.boxes[boxes],
            labels=self.labels[boxes],
            areas=self.areas[boxes],
            crowd=self.crowd[boxes],
            difficult=self.difficult[boxes],
        )


@dataclass(frozen=True)
class Predictions:
    """Detections of a whole split in original pixels."""

    image_index: Int[np.ndarray, " D"]
    """Row in `Truth.image_ids`."""
    boxes: Float[np.ndarray, "D 4"]
    """xyxy."""
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
