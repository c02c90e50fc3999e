"""Loads a JSON file with COCO's lists, or says what it holds instead."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datamodules.coco_decoded import decoded
from datamodules.errors import DataError, NoAnnotationsError
from datamodules.layouts.layout import escaped, typed


def load(file: str) -> dict[str, Any]:
    data = b""
    try:
        data = Path(file).read_bytes()
        if fast := decoded(data):
            return fast._asdict()
        content = json.loads(data)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (above := next((parent for parent in Path(file).parents if parent.is_file()), None)) is not None:
            raise DataError(f"{above} is a file, where a folder is expected; {_within(above)}") from error
        folder = Path(file).parent
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        found = f"there are {', '.join(names)} in {folder}" if names else f"there is no JSON file in {folder}"
        if (alone := Path(file).name.replace("instances_", "image_info_")) in names:
            setting = typed({"annotations": escaped(str(folder / alone))})
            found += (
                f", of which {alone} lists images alone: to test on it set {setting}, and data.images to its folder"
            )
        missing = [parent for parent in folder.parents[::-1] if not parent.exists()] or [folder]
        if not missing[0].exists():
            near = get_close_matches(missing[0].name, [path.name for path in missing[0].parent.iterdir()], n=1)
            found = f"there is no folder {missing[0]}{f'; nearest is {near[0]}' if near else ''}"
        raise NoAnnotationsError(
            f"{file} does not exist; {found}. Check data.root, data.annotations and the "
            "split's name (data.train_split, data.val_split, data.test_split)"
        ) from error
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror}); check data.root and data.annotations") from error
    except RecursionError as error:
        raise DataError(f"{file} is nested too deeply for annotations; {_EXPECTED}") from error
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {_why_not(data, error)}") from error
    if not isinstance(content, dict):
        raise NoAnnotationsError(f"{file} has no list 'images', it is a {type(content).__name__} itself; {_EXPECTED}")
    needed = ("images", "categories") if content.get("annotations") else ("images",)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) and (key in needed or content.get(key) is not None):
            raise NoAnnotationsError(f"{file} {no_list(content, key)}")
    return content


def _within(file: Path) -> str:
    """What to type where `data.root` is a file."""
    if file.suffix == ".json":
        return (
            f"set {typed({'root': str(file.parent), 'annotations': file.name})}, and data.images to the images' folder"
        )
    return f"unpack it, or set {typed({'root': str(file.parent)})}"


def no_list(content: dict[str, Any], key: str) -> str:
    if key in content:
        return f"has no list {key!r}, it is {json.dumps(content[key])[:40]}; {_EXPECTED}"
    return f"has no list {key!r}, it has {json.dumps(list(content))[:80]}; {_EXPECTED}"


NO_CLASS = "names no class: its list 'categories' is empty; give an id and a name for each"
_EXPECTED = "expected COCO's instances format, a mapping with the lists images, annotations and categories"


def _why_not(data: bytes, error: ValueError) -> str:
    if not data:
        return "it is empty; copy it again"
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        return "it is compressed; unpack it"
    return f"{error}; it may be cut short, or not in UTF-8: copy it again, or save it as UTF-8"
