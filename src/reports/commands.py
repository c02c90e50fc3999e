"""The commands that a run or a checkpoint can be used with next."""

import re
import shlex
from pathlib import Path


def commands(folder: Path, is_finished: bool, finds_boxes: bool) -> list[tuple[str, str]]:
    """Lists the commands that continue a run or use its best checkpoint, each with its purpose."""
    found: list[tuple[str, str]] = []
    if not is_finished:
        found.append(("Continue the run", f"python train.py {override('resume', shown(folder))}"))
    best = folder / "checkpoints" / "best.ckpt"
    if best.exists():
        found.append(("Score the best checkpoint", f"python evaluate.py {override('checkpoint', shown(best))}"))
        found.append(use_command(best, finds_boxes))
    return found


def use_command(checkpoint: Path | str, finds_boxes: bool) -> tuple[str, str]:
    """Gives the command that a checkpoint was made for: detecting, or training a detector on its backbone.

    `checkpoint`: a file, or a text that names one as it stands, such as an address.
    """
    named = shown(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    if not finds_boxes:
        return "Train a detector on its backbone", f"python train.py {override('model.backbone.weights', named)}"
    return "Detect on images, a folder or a video", f"python predict.py {override('checkpoint', named)} source=FOLDER"


def override(key: str, path: Path | str) -> str:
    """Writes `key=path` for a command line, quoted for Hydra and for the shell where either needs it."""
    if re.fullmatch(r"[A-Za-z0-9_./:@-]+", str(path)):
        return f"{key}={path}"
    # Between quotes Hydra takes a backslash for itself, unless a quote follows.
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (r"\'" if found[2] else ""), str(path))
    return shlex.quote(f"{key}='{quoted}'")


def shown(path: Path) -> Path:
    """Makes a path relative to where the run was started, where that is above it."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
