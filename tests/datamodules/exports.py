"""Tiny data sets in the folders that annotation tools export.

`python tests/datamodules/exports.py FOLDER` makes all of them.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_data import voc_object, write_image

NAMES = ("cell wall", "nucleus")
SIZE = (48, 64)
"""Height and width of every image; each has a box of each class."""
BOXES = ((4, 4, 20, 24), (24, 8, 20, 20))
"""x, y, width, height."""


def images(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        write_image(folder / name, SIZE, seed)


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def coco_json(file: Path, names: list[str], first_category: int = 1, heading: str | None = None) -> None:
    """COCO's instances file; `heading` adds a category 0 without boxes, as Roboflow does."""
    categories = [
        {"id": first_category + i, "name": name, "supercategory": heading or ""} for i, name in enumerate(NAMES)
    ]
    if heading:
        categories.insert(0, {"id": 0, "name": heading, "supercategory": "none"})
    listed = [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(names)]
    annotations = [
        {
            "id": 2 * i + j, "image_id": i, "category_id": first_category + j, "bbox": list(box),
            "area": box[2] * box[3], "iscrowd": 0, "segmentation": [],
        }
        for i in range(len(names)) for j, box in enumerate(BOXES)
    ]  # fmt: skip
    text(file, json.dumps({"images": listed, "annotations": annotations, "categories": categories}))


def voc_xml(file: Path, image: str) -> None:
    objects = "".join(
        voc_object(name, f"{x + 1} {y + 1} {x + width} {y + height}")
        for name, (x, y, width, height) in zip(NAMES, BOXES, strict=True)
    )
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    text(file, f"<annotation><filename>{image}</filename>{size}{objects}</annotation>")


def yolo_txt(file: Path) -> None:
    height, width = SIZE
    lines = (
        f"{i} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
        for i, (x, y, w, h) in enumerate(BOXES)
    )
    text(file, "\n".join(lines) + "\n")


def roboflow_coco(root: Path) -> None:
    text(root / "README.roboflow.txt", "cells\n")
    for split, names in (
        ("train", ["a_jpg.rf.1.jpg", "b_jpg.rf.2.jpg"]),
        ("valid", ["c_jpg.rf.3.jpg"]),
        ("test", ["d.jpg"]),
    ):
        images(root / split, *names)
        coco_json(root / split / "_annotations.coco.json", names, heading="cells")


def roboflow_voc(root: Path) -> None:
    text(root / "README.roboflow.txt", "cells\n")
    for split, name in (("train", "a_jpg.rf.1"), ("valid", "b_jpg.rf.2")):
        images(root / split, f"{name}.jpg")
        voc_xml(root / split / f"{name}.xml", f"{name}.jpg")


def roboflow_yolo(root: Path) -> None:
    names = "".join(f"- {name}\n" for name in NAMES)
    text(
        root / "data.yaml",
        f"train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames:\n{names}\nroboflow:\n  workspace: w\n",
    )
    for split in ("train", "valid"):
        images(root / split / "images", "a_jpg.rf.1.jpg")
        yolo_txt(root / split / "labels" / "a_jpg.rf.1.txt")


def roboflow_csv(root: Path) -> None:
    images(root / "train", "a_jpg.rf.1.jpg")
    text(root / "train" / "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n")


def cvat_coco(root: Path) -> None:
    """An export of a task: one subset, `default`."""
    images(root / "images" / "default", "a.jpg", "b.jpg")
    coco_json(root / "annotations" / "instances_default.json", ["a.jpg", "b.jpg"])


def cvat_coco_project(root: Path) -> None:
    """An export of a project with subsets; images of earlier versions are in no subset folder."""
    images(root / "images", "a.jpg", "b.jpg")
    coco_json(root / "annotations" / "instances_Train.json", ["a.jpg"])
    coco_json(root / "annotations" / "instances_Validation.json", ["b.jpg"])


def cvat_voc(root: Path) -> None:
    images(root / "JPEGImages", "a.jpg", "b.jpg")
    for stem in ("a", "b"):
        voc_xml(root / "Annotations" / f"{stem}.xml", f"{stem}.jpg")
    text(root / "ImageSets" / "Main" / "default.txt", "a\nb\n")
    text(root / "ImageSets" / "Main" / "nucleus_default.txt", "a  1\nb  1\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nnucleus:1,1,1::\n")


def cvat_voc_project(root: Path) -> None:
    """Of a project with subsets, whose images lie in folders."""
    for subset, stem in (("Train", "first/a"), ("Validation", "second/b")):
        images(root / "JPEGImages", f"{stem}.png")
        voc_xml(root / "Annotations" / f"{stem}.xml", f"{stem}.png")
        text(root / "ImageSets" / "Main" / f"{subset}.txt", f"{stem}\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nnucleus:1,1,1::\n")


def cvat_yolo(root: Path) -> None:
    text(root / "obj.names", "\n".join(NAMES) + "\n")
    text(root / "obj.data", "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n")
    text(root / "train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n")
    images(root / "obj_train_data", "a.jpg", "b.jpg")
    for stem in ("a", "b"):
        yolo_txt(root / "obj_train_data" / f"{stem}.txt")


def cvat_ultralytics(root: Path) -> None:
    text(root / "data.yaml", "names:\n  0: cell wall\n  1: nucleus\npath: .\ntrain: train.txt\n")
    text(root / "train.txt", "data/images/train/a.jpg\ndata/images/train/b.jpg\n")
    images(root / "images" / "train", "a.jpg", "b.jpg")
    for stem in ("a", "b"):
        yolo_txt(root / "labels" / "train" / f"{stem}.txt")


def cvat_xml(root: Path) -> None:
    images(root / "images", "a.jpg")
    text(
        root / "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta></meta>\n'
        '  <image id="0" name="a.jpg" width="64" height="48"></image>\n</annotations>\n',
    )


def label_studio_coco(root: Path) -> None:
    """Paths relative to the folder, categories and images numbered from 0, all in one file."""
    images(root / "images", "1f-a.jpg", "2e-b.jpg")
    coco_json(root / "result.json", ["images/1f-a.jpg", "images/2e-b.jpg"], first_category=0)


def label_studio_voc(root: Path) -> None:
    images(root / "images", "1f-a.jpg", "2e-b.jpg")
    for stem in ("1f-a", "2e-b"):
        voc_xml(root / "Annotations" / f"{stem}.xml", f"{stem}.jpg")


def label_studio_yolo(root: Path) -> None:
    text(root / "classes.txt", "\n".join(NAMES) + "\n")
    text(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cell wall"}], "info": {"year": 2026}}))
    images(root / "images", "1f-a.jpg", "2e-b.jpg")
    for stem in ("1f-a", "2e-b"):
        yolo_txt(root / "labels" / f"{stem}.txt")


def label_studio_json(root: Path) -> None:
    value = {"x": 6.2, "y": 8.3, "width": 31.2, "height": 50, "rotation": 0, "rectanglelabels": ["nucleus"]}
    result = {"type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": value}
    tasks: list[Any] = [
        {"id": 1, "annotations": [{"id": 1, "result": [result]}], "data": {"image": "/data/upload/1/1f-a.jpg"}}
    ]
    text(root / "project-1-at-2026-01-02-03-04-aabbccdd.json", json.dumps(tasks))


def label_studio_csv(root: Path) -> None:
    text(
        root / "project-1-at-2026-01-02-03-04-aabbccdd.csv",
        'annotation_id,annotator,created_at,id,image,label\n1,1,2026,1,/data/upload/1/1f-a.jpg,"[{""x"": 6}]"\n',
    )


def ultralytics(root: Path) -> None:
    text(
        root / "data.yaml",
        f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n  0: cell wall\n  1: nucleus\n",
    )
    for split in ("train", "val"):
        images(root / "images" / split, "a.jpg")
        yolo_txt(root / "labels" / split / "a.txt")


def yolo_alone(root: Path) -> None:
    """Without a data.yaml."""
    images(root / "images" / "train", "a.jpg")
    text(root / "labels" / "train" / "0_empty.txt", "")
    yolo_txt(root / "labels" / "train" / "a.txt")


def yolo_beside_images(root: Path) -> None:
    """As labelImg writes it: the names of the classes, and each image's boxes, beside the images."""
    images(root / "train", "a.jpg")
    text(root / "train" / "classes.txt", "\n".join(NAMES) + "\n")
    text(root / "train" / "a.txt", "1 0.5 .25 1e-02 1\r\n")


def labelimg(root: Path) -> None:
    """XML files beside their images."""
    images(root, "a.jpg", "b c.jpg")
    for stem in ("a", "b c"):
        voc_xml(root / f"{stem}.xml", f"{stem}.jpg")


def labelme(root: Path) -> None:
    images(root, "a.jpg")
    shape = {"label": "nucleus", "points": [[4, 4], [24, 28]], "shape_type": "rectangle"}
    text(root / "a.json", json.dumps({"version": "5.0", "flags": {}, "shapes": [shape], "imagePath": "a.jpg"}))


def packed(root: Path) -> None:
    text(root / "cells.zip", "PK")


def text_lists(root: Path) -> None:
    """A line for each image, with corners and names; one has no box."""
    boxes = " ".join(
        f"{x} {y} {x + w} {y + h} {name}" for name, (x, y, w, h) in zip(("wall", "nucleus"), BOXES, strict=True)
    )
    images(root / "pictures", "a 1.jpg", "b.jpg", "c.jpg", "d.jpg")
    text(root / "train.txt", f"a 1.jpg {boxes}\nb.jpg {boxes}\n")
    text(root / "val.txt", f"c.jpg {boxes}\nd.jpg {boxes}\n")


def plain_coco(root: Path) -> None:
    """An unusual layout, one folder deeper than `data.root`, with characters that need quotes."""
    home = root / "my data"
    images(home / "imgs", "a.jpg", "b.jpg")
    coco_json(home / "cells-train.json", ["a.jpg"])
    coco_json(home / "cells-val.json", ["b.jpg"])


def devkit(root: Path) -> None:
    """VOCdevkit, one folder deeper than `data.root`."""
    home = root / "VOCdevkit" / "VOC2012"
    cvat_voc(home)
    (home / "labelmap.txt").unlink()
    (home / "ImageSets" / "Main" / "nucleus_default.txt").unlink()
    (home / "ImageSets" / "Main" / "default.txt").rename(home / "ImageSets" / "Main" / "trainval.txt")


READ: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "roboflow_coco": (roboflow_coco, "a COCO export of Roboflow", "coco"),
    "cvat_coco": (cvat_coco, "a COCO export of CVAT", "coco"),
    "cvat_coco_project": (cvat_coco_project, "COCO annotations, annotations/instances_{split}.json", "coco"),
    "cvat_voc": (cvat_voc, "a Pascal VOC export of CVAT", "voc"),
    "cvat_voc_project": (cvat_voc_project, "a Pascal VOC export of CVAT", "voc"),
    "label_studio_coco": (label_studio_coco, "a COCO export of Label Studio", "coco"),
    "label_studio_voc": (
        label_studio_voc,
        "Pascal VOC's XML (Annotations/1f-a.xml) without the lists of ImageSets/Main",
        "voc",
    ),
    "labelimg": (labelimg, "Pascal VOC's XML (a.xml) without the lists of ImageSets/Main", "voc"),
    "plain_coco": (plain_coco, "COCO annotations, my data/cells-{split}.json", "coco"),
    "roboflow_yolo": (roboflow_yolo, "a YOLO export of Roboflow (data.yaml)", "yolo"),
    "cvat_yolo": (cvat_yolo, "a YOLO export of CVAT (obj.data)", "yolo"),
    "cvat_ultralytics": (cvat_ultralytics, "a YOLO export of CVAT (data.yaml)", "yolo"),
    "label_studio_yolo": (label_studio_yolo, "a YOLO export of Label Studio (classes.txt)", "yolo"),
    "ultralytics": (ultralytics, "a YOLO data set (data.yaml)", "yolo"),
    "text_lists": (text_lists, "text lists ({split}.txt)", "text_list"),
}
"""Layouts that can be read with the message's settings: how to write them, their name in the message, the reader."""

NOT_READ: dict[str, tuple[Callable[[Path], None], str]] = {
    "roboflow_voc": (roboflow_voc, "a Pascal VOC export of Roboflow (train/a_jpg.rf.1.xml), .* format COCO"),
    "roboflow_csv": (roboflow_csv, "an export of Roboflow (train/_annotations.csv), .* format COCO"),
    "cvat_xml": (cvat_xml, "an export in CVAT's own XML (annotations.xml), .* COCO 1.0"),
    "label_studio_json": (label_studio_json, "a JSON export of Label Studio (project-1-at-"),
    "label_studio_csv": (label_studio_csv, "a table of Label Studio (project-1-at-.*as COCO"),
    "yolo_alone": (yolo_alone, "a YOLO data set (labels/train/a.txt), .* docs/data.md"),
    "yolo_beside_images": (yolo_beside_images, "a YOLO data set (train/a.txt), .* docs/data.md"),
    "labelme": (labelme, "a file of LabelMe for each image (a.json), .* docs/data.md"),
    "packed": (packed, "an archive (cells.zip), .* unpack it"),
}
"""Layouts that cannot be read: how to write them, and the message with a way to convert them."""

if __name__ == "__main__":
    for name, made in {**READ, **NOT_READ}.items():
        made[0](Path(sys.argv[1]) / name)
