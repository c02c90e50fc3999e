"""Names the newest checkpoint or run below runs/ in a refusal, as something to type. Imports nothing heavy."""

from collections.abc import Iterable
from pathlib import Path

from reports.commands import override

_DEPTHS = ("*/*", "*/*/*", "*/*/*/*")
"""Of runs below runs/: those of a name, of a sweep, of a name with folders."""


def has_begun(folder: Path) -> bool:
    """Whether a run has started to train: `Checkpoints` makes its folder then."""
    return (folder / "checkpoints").is_dir()


def or_newest_checkpoint(key: str, given: Path | None = None) -> str:
    """The end of a message: the best.ckpt below or beside a given path as a value of `key`, else the newest, or where
    runs have theirs."""
    for file in (given / "checkpoints/best.ckpt", given / "best.ckpt", given.parent / "best.ckpt") if given else ():
        if file.exists():
            return f"; give {override(key, file)}"
    newest = _newest(file for depth in _DEPTHS for file in Path("runs").glob(f"{depth}/checkpoints/best.ckpt"))
    if newest is None:
        return f"; give that of a run, {key}=RUN/checkpoints/best.ckpt"
    return f"; the newest of the runs here is {override(key, newest)}"


def or_newest_run(given: Path | None = None) -> str:
    """The end of a message: the run that a given file is of, else the newest that can be resumed, or that there is
    none."""
    for above in given.parents[:2] if given is not None else ():
        if (above / "config.yaml").exists():
            return f"; give {override('resume', above)}"
    files = (file for depth in _DEPTHS for file in Path("runs").glob(f"{depth}/config.yaml"))
    newest = _newest(file for file in files if has_begun(file.parent) and not (file.parent / "finished.json").exists())
    if newest is None:
        return f"; {Path('runs').absolute()} has no run that is not finished"
    return f"; the newest that is not finished is {override('resume', newest.parent)}"


def _newest(files: Iterable[Path]) -> Path | None:
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
