"""Tiny data sets on disk, and modules that read them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.coco import CocoDataModule
from datamodules.voc import VocDataModule


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)


def write_coco(root: Path, sizes: list[tuple[int, int]], boxes: list[list[Any]], split: str = "train") -> Path:
    """Writes PNG images of (h, w) with ids 10, 20, ..., each with a list of bboxes or of dicts that change an
    annotation.

    "absent" removes a key. Annotations have ids 100, 101, ... and category 7, that is label 1.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (size, of_image) in enumerate(zip(sizes, boxes, strict=True)):
        name = f"{split}_{i}.png"
        write_image(root / split / name, size, seed=i)
        images.append({"id": 10 * (i + 1), "file_name": name, "height": size[0], "width": size[1]})
        for box in of_image:
            annotation = {
                "id": 100 + len(annotations), "image_id": 10 * (i + 1), "category_id": 7, "iscrowd": 0,
                "area": 1.5, "segmentation": [], "bbox": [1, 2, 10, 12],
                **(box if isinstance(box, dict) else {"bbox": box}),
            }  # fmt: skip
            annotations.append({key: value for key, value in annotation.items() if value != "absent"})
    categories = [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]
    write_json(root, {"images": images, "annotations": annotations, "categories": categories}, split)
    return root


def write_json(root: Path, content: Any, split: str = "train") -> Path:
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def coco(root: Path, **options: Any) -> CocoDataModule:
    """A data module of that folder, with augmentations and checks off unless a test sets them."""
    defaults: dict[str, Any] = {
        "train_split": "train", "val_split": "train", "test_split": "train", "num_classes": 2, "resize": 32,
        "batch_size": 2, "num_workers": 0, "flip": 0.0, "check_boxes": False,
    }  # fmt: skip
    return CocoDataModule(root=str(root), **{**defaults, **options})


def write_voc(folder: Path, images: dict[str, str], split: str = "trainval", size: str = "40,30") -> Path:
    """Writes JPEG images of 40 x 30 and the XML of their objects; `size` is the size that the XML states."""
    width, height = size.split(",")
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for stem, objects in images.items():
        write_image(folder / "JPEGImages" / f"{stem}.jpg", (30, 40))
        (folder / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"
        )
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
    return folder


def voc_object(name: str, box: str, difficult: int = 0) -> str:
    """The XML of an object; `box` is "xmin ymin xmax ymax"."""
    x1, y1, x2, y2 = box.split(" ")
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
    )


def voc(root: Path, **options: Any) -> VocDataModule:
    defaults: dict[str, Any] = {
        "train_split": "trainval", "val_split": "trainval", "test_split": "trainval", "classes": ["a", "b"],
        "num_classes": 2, "resize": 32, "batch_size": 2, "num_workers": 0, "flip": 0.0, "check_boxes": False,
    }  # fmt: skip
    return VocDataModule(root=str(root), **{**defaults, **options})
