"""Lists of images in Pascal VOC's layout: ImageSets/Main/SPLIT.txt."""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from datamodules.errors import DataError, NoAnnotationsError


def find_splits(root: Path, split: str) -> list[Path]:
    """Finds the list file of each part of a split such as `2007_trainval+2012_trainval`.

    `07_trainval` may stand for `2007_trainval`, and `07` alone too. In a folder that holds ImageSets itself,
    a name that exists there comes before a year.
    """
    files: list[Path] = []
    for part in split.split("+"):
        file = root / "ImageSets" / "Main" / f"{part}.txt"
        if not file.exists() and (year := re.fullmatch(r"(?:20)?(\d\d)(?:_(.+))?", part)):
            file = root / f"VOC20{year[1]}" / "ImageSets" / "Main" / f"{year[2] or 'trainval'}.txt"
        if not file.is_file():
            raise NoAnnotationsError(f"VOC split {part!r}: {file} does not exist; there are {_existing_splits(root)}")
        files.append(file)
    return files


def _existing_splits(root: Path) -> str:
    names = sorted(path.stem for path in root.glob("ImageSets/Main/*.txt"))
    for path in sorted(root.glob("VOC20[0-9][0-9]/ImageSets/Main/*.txt")):
        if "_" not in path.stem:  # the devkit has a list for each class as well
            names.append(f"{path.parts[-4][3:]}_{path.stem}")
    if names:
        return ", ".join(names)
    here = "which does not exist" if not root.exists() else "which has no ImageSets/Main/*.txt, nor has a VOC20YY in it"
    return f"none at all under {root}, {here}: check data.root"


def list_stems(file: Path) -> list[str]:
    """Reads the image stems of a split, each once. The devkit's lists of a class have 1, 0 or -1 behind each."""
    data = file.read_bytes()
    try:  # Windows' editors and shells mark UTF-8 and UTF-16 by their first bytes
        text = data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 ({error}); save it as UTF-8, an image's stem a line") from error
    stems: dict[str, None] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        column = re.search(r"\s+(?:-1|0|1)$", line)
        if column and not (file.parents[2] / "Annotations" / f"{line}.xml").exists():  # else it is part of the name
            line = line[: column.start()]
        stems[line] = None
    return list(stems)
