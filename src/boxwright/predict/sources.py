"""Finds the source of predict.py: a picture, a folder of pictures, or a video. Imports nothing heavy."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from boxwright.config.errors import ConfigError, few
from boxwright.config.files import nearest
from boxwright.runs.newest import or_newest_checkpoint
from boxwright.zoo.names import is_named
from datamodules.endings import PICTURES

VIDEOS = frozenset((".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"))
DRAWN = "drawn"
"""Folder for drawn pictures within the output folder."""


@dataclass(frozen=True)
class Source:
    """The pictures, or the video, to read."""

    root: Path
    """The folder that names are relative to."""
    names: tuple[str, ...]
    """Names of the files, in natural order, with `/` between folders."""
    passed_over: tuple[str, ...] = ()
    """Files of a folder that are not pictures by their extension, and folders that can't be opened."""
    is_video: bool = False


def find(cfg: DictConfig, output: Path) -> Source:
    """Finds the pictures or the video of `source`; raises ConfigError without any, or without a checkpoint.

    A folder is searched with all below it, except the output folder and names that begin with a dot.
    """
    path, drawn = Path(cfg.source), (output / DRAWN).resolve()
    if not path.exists():
        hint = "; patterns are not expanded, give the folder" if set("*?[") & set(cfg.source) else ""
        beside = [there.name for there in path.resolve().parent.iterdir()] if path.resolve().parent.is_dir() else []
        near = hint or nearest(path.name, beside) or "; give source=FILE or source=FOLDER, of pictures or a video"
        raise ConfigError(f"source={path}: {path.resolve()} does not exist{near}")
    if not cfg.checkpoint or not (is_named(cfg.checkpoint) or Path(cfg.checkpoint).exists()):
        newest = or_newest_checkpoint("checkpoint", Path(cfg.checkpoint or ""))
        raise ConfigError(f"checkpoint={cfg.checkpoint}: no such file, seen from {Path.cwd()}{newest}")
    if path.resolve() in (output.resolve(), drawn) or drawn in path.resolve().parents:
        raise ConfigError(
            f"output={cfg.output}: drawn pictures would lie among those of source={path}, or replace them; give "
            "another folder, or no output for runs/predict/TIME"
        )
    if path.is_file() and path.suffix.lower() == ".json":
        raise ConfigError(
            f"source={path}: a JSON is no picture; give the folder of its images, or have evaluate.py checkpoint=.. "
            "write a results file of the images that it lists (data.test_split)"
        )
    if path.is_file():
        return Source(path.parent, (path.name,), is_video=not _is_picture(path))
    names: list[str] = []
    others: list[str] = []
    for name in _below(path, output.resolve(), others):
        (names if Path(name).suffix.lower() in PICTURES else others).append(name)
    if not names:
        raise ConfigError(
            f"source={path}: no pictures in {path.resolve()} or below; they are recognised by their extension "
            f"({' '.join(sorted(PICTURES))}). Other files there: {few(sorted(others, key=natural)) or 'none'}. Give a "
            "video by itself: source=VIDEO"
        )
    return Source(path, tuple(sorted(names, key=natural)), tuple(sorted(others, key=natural)))


def _below(folder: Path, left_out: Path, unopened: list[str]) -> Iterator[str]:
    def note(error: OSError) -> None:
        unopened.append(f"{Path(error.filename).relative_to(folder).as_posix()}/ ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if name[0] != "." and Path(place, name).resolve() != left_out]
        for name in files:
            if name[0] != ".":
                yield Path(place, name).relative_to(folder).as_posix()


def natural(name: str) -> list[Any]:
    """Makes a sorting key: 2 before 10, a folder's files together, and names equal by that in a fixed order."""
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in name.split("/")]
    return [[(int(p), "") if p.isdigit() and p.isascii() else (-1, p) for p in part] for part in parts] + [[(0, name)]]


def _is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its extension, or by its content where that is unknown."""
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix in VIDEOS:
        return suffix in PICTURES
    import cv2

    return cv2.haveImageReader(str(path))
