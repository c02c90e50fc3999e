"""Layouts that a reader here reads, given their settings."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from datamodules.images import shown
from datamodules.layouts.layout import (
    Layout,
    Setting,
    below,
    braced,
    class_names,
    escaped,
    files_in,
    head,
    roles,
    splits_of,
)
from datamodules.nearest import nearest
from datamodules.text_lines import looks_like_a_list, split_line
from datamodules.yolo_description import ROLES, find_description, read_description

_MOST_JSON = 40
_WHOLE = 64_000_000  # bytes of a JSON file that is read in full


@dataclass(frozen=True)
class _CocoFile:
    image: str
    """The `file_name` of its first image."""
    classes: list[str]
    """Empty where the file is too large to be read in full."""
    has_headings: bool = False
    """There are categories that only others' `supercategory` refers to, as Roboflow writes them."""


def _coco(root: Path, folders: list[Path]) -> Layout | None:
    read = (
        (path.relative_to(root).as_posix(), _coco_file(path)) for path in [*files_in(folders, "*.json")][:_MOST_JSON]
    )
    files = {name: file for name, file in read if file is not None}
    files = {name: file for name, file in files.items() if Path(name).name.startswith("instances")} or files
    if not files:
        return None
    pattern, splits = splits_of(files)
    if not splits:
        name = next(iter(files))
        known = re.fullmatch(r"annotations/instances_([^/{}]+)\.json", name)
        pattern = "annotations/instances_{split}.json" if known else escaped(name)
        splits = {"train": known[1] if known else "all"}
    chosen = {split: files[pattern.format(split=split)] for split in splits.values()}
    settings: dict[str, Setting] = {"annotations": pattern}
    lacks = ""
    if (images := _images(root, folders, chosen)) is not None:
        settings["images"] = images
    else:
        first = next(iter(chosen.values())).image
        near = nearest([str(root / first)], root)
        lacks = f"whose images are not where it says: {near or f'there is no {shown(first)}, export it with images'}"
    classes = list(dict.fromkeys(name for file in chosen.values() for name in file.classes))
    if any(file.has_headings for file in chosen.values()):
        settings["classes"] = classes
    elif classes:
        settings["num_classes"] = len(classes)
    tool = {"_annotations.coco.json": "Roboflow", "result.json": "Label Studio", "instances_default.json": "CVAT"}.get(
        Path(next(iter(files))).name
    )
    return Layout(
        f"a COCO export of {tool}" if tool else f"COCO annotations, {pattern}", "coco", settings | roles(splits), lacks
    )


def _coco_file(path: Path) -> _CocoFile | None:
    """Reads what is needed of a JSON file; None if it has not COCO's instances."""
    try:
        if path.stat().st_size > _WHOLE:
            name = re.search(r'"file_name"\s*:\s*"([^"]+)"', start := head(path, 2**20))
            return _CocoFile(name[1], []) if name and '"images"' in start else None
        content = json.loads(path.read_bytes())
        used = {annotation["category_id"] for annotation in content["annotations"]}
        headings = {category.get("supercategory") for category in content["categories"]}
        classes = [c["name"] for c in content["categories"] if c["id"] in used or c["name"] not in headings]
        return _CocoFile(content["images"][0]["file_name"], classes, len(classes) < len(content["categories"]))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _images(root: Path, folders: list[Path], chosen: Mapping[str, _CocoFile]) -> str | None:
    """Finds the pattern of the folders that have each split's first image; None if there is none."""
    held = {
        split: [below(root, folder) for folder in folders if _has(folder, file.image)] for split, file in chosen.items()
    }
    split, candidates = next(iter(held.items()))
    patterns = [pattern for name in candidates if "{split}" in (pattern := braced(name, split))]
    patterns += map(escaped, candidates)
    return next((p for p in patterns if all(p.format(split=split) in found for split, found in held.items())), None)


def _has(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except ValueError:  # a name that no file can have
        return False


def _voc(root: Path, folders: list[Path]) -> Layout | None:
    """The layout of Pascal VOC, or its devkit, in `root` or below it."""
    lists = next(filter(None, ([*files_in([folder / "ImageSets" / "Main"], "*.txt")] for folder in folders)), None)
    if lists is None:
        return None
    home = lists[0].parents[2]
    names = [file.stem for file in lists]
    names = [name for name in names if not any(name.endswith(f"_{other}") for other in names)]  # of a class
    pattern, splits = splits_of(names)
    splits = splits if pattern == "{split}" else {"train": names[0]}
    if year := re.fullmatch(r"VOC(20\d\d)", home.name):  # in the devkit, whose classes are known
        home, splits, classes = home.parent, {role: f"{year[1]}_{name}" for role, name in splits.items()}, []
    elif not (classes := class_names(home / "Annotations")):
        return None
    settings: dict[str, Setting] = {"root": str(home)} if home != root else {}
    settings |= {"classes": classes} if classes else {}
    what = "a Pascal VOC export of CVAT" if (home / "labelmap.txt").exists() else "a folder in Pascal VOC's layout"
    return Layout(what, "voc", settings | roles(splits))


def _yolo(root: Path, folders: list[Path]) -> Layout | None:
    """Names of classes with the paths of splits, in a folder or below it."""
    for folder in folders:
        try:
            described = read_description(file := find_description(folder))
            splits = {role: role for role, keys in ROLES.items() if any(described.content.get(key) for key in keys)}
            sources = described.sources("train")
        except (DataError, OSError):
            continue
        text, mark = head(file), below(root, file)
        if file.name == "classes.txt" and not any(path.is_dir() for path in sources):
            continue
        tool = next((tool for tool, sign in _YOLO_TOOLS if re.search(sign, f"{file.name}\n{text}", re.MULTILINE)), None)
        settings: dict[str, Setting] = {} if folder == root else {"root": str(folder)}
        what = f"a YOLO {f'export of {tool}' if tool else 'data set'} ({mark})"
        return Layout(what, "yolo", settings | {"num_classes": len(described.names)} | roles(splits))
    return None


_YOLO_TOOLS = (
    ("Roboflow", "roboflow"), ("CVAT", r"^train\s*:\s*train\.txt|\Aobj\.data"), ("Label Studio", r"\Aclasses\.txt"),
)  # fmt: skip


def _text_lists(root: Path, folders: list[Path]) -> Layout | None:
    """Text files whose lines begin with the path of an image that is there, and continue with boxes."""
    names = [below(root, file) for file in files_in(folders, "*.txt", "*.csv") if looks_like_a_list(head(file))]
    if not names:
        return None
    pattern, splits = splits_of(names)
    pattern, splits = (pattern, splits) if splits else (escaped(names[0]), {"train": "all"})
    lists = [root / pattern.format(split=split) for split in splits.values()]
    lines = [split_line(line) for file in lists for line in head(file, _WHOLE).splitlines()]
    first = next((name for name, _ in lines if name), "")
    home = next((folder for folder in (root, lists[0].parent, *folders) if _has(folder, first)), None)
    settings: dict[str, Setting] = {
        "lists": pattern,
        "num_classes": len({w for _, words in lines for w in words[4::5]}),
    }
    settings |= {} if home is None or home == root else {"images": below(root, home)}
    lacks = "" if home is not None else f"whose images are not where it says: there is no {shown(first)}"
    return Layout(f"text lists ({pattern})", "text_list", settings | roles(splits), lacks)


READABLE = (_coco, _voc, _yolo, _text_lists)
