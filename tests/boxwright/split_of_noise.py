"""A COCO split of noise for the tests of the inspection, and the overrides that read it."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

COCO = ["data=coco", "data.num_classes=2", "data.resize=64", "data.batch_size=2", "data.num_workers=0"]
COCO += [f"data.{role}_split={split}" for role, split in (("train", "train"), ("val", "val"), ("test", "val"))]


def write_split(root: Path, split: str, boxes: list[list[Any]], seed: int = 0) -> None:
    """Writes images of 40 x 60 with ids 1, 2, ..., each with a list of bboxes, or of changes to an annotation."""
    images, annotations = [], []
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number, of_image in enumerate(boxes, 1):
        pixels = np.random.default_rng((seed, number)).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(root / split / f"{number}.jpg"), pixels)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 60})
        for change in of_image:
            change = change if isinstance(change, dict) else {"bbox": change}
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1}
            annotations.append({**entry, "segmentation": [], **change})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
