"""What predict.py reads: a picture, a folder of pictures, or a video. Finding it imports nothing heavy."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from boxwright.config.errors import ConfigError, few
from datamodules.endings import PICTURES

VIDEOS = frozenset((".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"))
DRAWN = "drawn"
"""Folder in the output folder for what is drawn."""


@dataclass(frozen=True)
class Source:
    """What there is to read."""

    root: Path
    """A folder; names are relative to it."""
    names: tuple[str, ...]
    """Of the files, in natural order, with `/` between folders."""
    passed_over: tuple[str, ...] = ()
    """Files of a folder that are no pictures by their extension, and folders that can't be opened."""
    is_video: bool = False


def find(cfg: DictConfig, output: Path) -> Source:
    """The pictures or the video behind `source`; a ConfigError says why there is nothing to read, or no checkpoint.

    A folder is searched with all below it, but for the output folder and for names that begin with a dot.
    """
    path, drawn = Path(cfg.source), (output / DRAWN).resolve()
    if not path.exists():
        hint = "; patterns are not expanded, give the folder" if set("*?[") & set(cfg.source) else ""
        raise ConfigError(f"source={path}: {path.resolve()} does not exist{hint}")
    if cfg.checkpoint is None or not Path(cfg.checkpoint).exists():
        raise ConfigError(f"checkpoint={cfg.checkpoint}: no such file, seen from {Path.cwd()}")
    if path.resolve() in (output.resolve(), drawn) or drawn in path.resolve().parents:
        raise ConfigError(
            f"output={cfg.output}: what is drawn would lie among the pictures of source={path}, or replace them; give "
            "another folder, or no output for runs/predict/TIME"
        )
    if path.is_file():
        return Source(path.parent, (path.name,), is_video=not _is_picture(path))
    names: list[str] = []
    others: list[str] = []
    for name in _below(path, output.resolve(), others):
        (names if Path(name).suffix.lower() in PICTURES else others).append(name)
    if not names:
        raise ConfigError(
            f"source={path}: no picture in {path.resolve()} or below, which are recognised by their extension "
            f"({' '.join(sorted(PICTURES))}). Other files there: {few(sorted(others, key=natural)) or 'none'}. A video "
            "is given by itself: source=VIDEO"
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
    """A key that sorts 2 before 10, a folder's files together, and whatever is equal by that always alike."""
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in name.split("/")]
    return [[(int(p), "") if p.isdigit() and p.isascii() else (-1, p) for p in part] for part in parts] + [[(0, name)]]


def _is_picture(path: Path) -> bool:
    """By extension; by content where that says nothing."""
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix in VIDEOS:
        return suffix in PICTURES
    import cv2

    return cv2.haveImageReader(str(path))
