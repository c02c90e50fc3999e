"""Layouts that no reader here reads, and how to make them readable."""

import os
import re
import shlex
from itertools import islice
from pathlib import Path

from datamodules.endings import PICTURES
from datamodules.layouts.layout import Layout, below, class_names, files_in, head, roles, typed

_MOST_TEXTS = 200
_SHARE = r"[ \t]+(?:[01]|[01]?\.\d+|\d(?:\.\d+)?e-\d+)"
_YOLO_BOX = re.compile(rf"\s*\d+(?:{_SHARE}){{4}}[ \t]*(?:[\r\n]|$)")
"""A class, and a box in fractions of its image, on a line of their own."""
_AGAIN = {
    "Roboflow": "download it from Roboflow in the format COCO",
    "CVAT": "export it from CVAT as COCO 1.0, with images",
    "Label Studio": "export it from Label Studio as COCO",
    None: "convert it to COCO, see docs/data.md",
}


def _yolo(root: Path, folders: list[Path]) -> Layout | None:
    tool = "Roboflow" if [*files_in(folders, "README.roboflow.txt")] else None
    for file in files_in(folders, "*.yaml", "*.yml", "obj.data", "classes.txt", "_darknet.labels"):
        text, mark = head(file), below(root, file)
        if file.suffix in (".yaml", ".yml"):
            if not re.search(r"^names\s*:", text, re.MULTILINE) or not re.search(
                r"^(train|val)\s*:", text, re.MULTILINE
            ):
                continue
            tool = (
                "Roboflow"
                if "roboflow" in text
                else "CVAT"
                if re.search(r"^train\s*:\s*train\.txt", text, re.MULTILINE)
                else tool
            )
        elif file.name == "obj.data":
            tool = "CVAT"
        elif file.name == "_darknet.labels":
            tool = "Roboflow"
        elif not (file.parent / "labels").is_dir():
            continue
        else:
            tool = "Label Studio" if (file.parent / "notes.json").exists() else tool
        return Layout(f"a YOLO {f'export of {tool}' if tool else 'data set'} ({mark})", remedy=_AGAIN[tool])
    for file in islice(files_in(folders, "*.txt"), _MOST_TEXTS):
        if _YOLO_BOX.match(head(file)):
            what = f"export of {tool}" if tool else "data set"
            return Layout(f"a YOLO {what} ({below(root, file)})", remedy=_AGAIN[tool])
    return None


def _without_lists(root: Path, folders: list[Path]) -> Layout | None:
    """XML files of Pascal VOC without the lists of images in ImageSets/Main."""
    for folder in folders:
        file = next(files_in([folder], "*.xml"), None)
        if file is None or not re.search(r"<annotation[\s>]", head(file)):
            continue
        what = f"Pascal VOC's XML ({below(root, file)}) without the lists of ImageSets/Main"
        if [*files_in(folders, "README.roboflow.txt")] or ".rf." in file.name:
            return Layout(f"a Pascal VOC export of Roboflow ({below(root, file)})", remedy=_AGAIN["Roboflow"])
        home = folder.parent if folder.name == "Annotations" else folder
        pictures = [path for path in (home / "JPEGImages", home / "images", folder) if _has_pictures(path)]
        if not pictures:
            return Layout(what, remedy="there are no images beside them")
        steps = [f"cd {shlex.quote(str(home))}", "mkdir -p ImageSets/Main"]
        steps += [
            f"ln -s {shlex.quote(os.path.relpath(path, home))} {name}"
            for name, path in (("Annotations", folder), ("JPEGImages", pictures[0]))
            if path.name != name
        ]
        steps.append("ls Annotations | sed -n 's/[.]xml$//p' > ImageSets/Main/all.txt")
        settings = {"root": str(home), "classes": class_names(folder), **roles({"train": "all"})}
        return Layout(what, remedy=f"make one\n  {' && '.join(steps)}\nthen use\n  data=voc {typed(settings)}")
    return None


def _has_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in PICTURES for path in folder.iterdir())


def _other(root: Path, folders: list[Path]) -> Layout | None:
    for file in files_in(
        folders,
        "*.json",
        "annotations.xml",
        "_annotations.*",
        "*.csv",
        "*.tsv",
        "*.tfrecord",
        "*.zip",
        "*.tar",
        "*.tar.gz",
        "*.tgz",
    ):
        start, mark = head(file), below(root, file)
        if file.name.startswith("_annotations.") or (file.suffix == ".tfrecord" and ".rf." in file.name):
            return Layout(f"an export of Roboflow ({mark})", remedy=_AGAIN["Roboflow"])
        if file.name == "annotations.xml" and "<annotations" in start:
            return Layout(f"an export in CVAT's own XML ({mark})", remedy=_AGAIN["CVAT"])
        if (
            file.suffix == ".json"
            and re.match(r"\s*\[\s*\{", start)
            and re.search(r'"(annotations|rectanglelabels|annotator)"', start)
        ):
            return Layout(f"a JSON export of Label Studio ({mark})", remedy=_AGAIN["Label Studio"])
        if file.suffix in (".csv", ".tsv") and re.search("rectanglelabels|annotation_id|annotator", start):
            return Layout(f"a table of Label Studio ({mark})", remedy=_AGAIN["Label Studio"])
        if file.suffix == ".json" and '"shapes"' in start and '"imagePath"' in head(file, 2**24):
            return Layout(f"a file of LabelMe for each image ({mark})", remedy=_AGAIN[None])
        if file.suffix in (".zip", ".tar", ".gz", ".tgz"):
            return Layout(f"an archive ({mark})", remedy="unpack it")
    return None


FOREIGN = (_yolo, _without_lists, _other)
