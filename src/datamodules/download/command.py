"""The command `python -m datamodules.download`: which archives are missing, whether there is space, then one by one."""

import argparse
import fcntl
import os
import shutil
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path

from datamodules.download.catalogue import DATA_SETS, Archive
from datamodules.download.fetching import fetch, part_of
from datamodules.download.progress import written
from datamodules.download.unpacking import unpack
from datamodules.errors import DataError
from evaluation.files import FULL

_FOLDER = "archives"
"""Of `data.root`: holds archives while they are downloaded and unpacked, and with --keep afterwards."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m datamodules.download",
        description="Downloads a data set into the folders in which it is read by name: "
        "`python train.py data=coco2017 data.root=ROOT`. What is there already is left as it is; after a break the "
        "same command continues.",
    )
    made.add_argument("data_set", nargs="?", help=", ".join(DATA_SETS))
    made.add_argument("--root", type=Path, help="the folder that data.root will name")
    made.add_argument("--parts", help="such as train,val: these alone; --list shows what there is")
    made.add_argument("--keep", action="store_true", help=f"keep the archives, in ROOT/{_FOLDER}")
    made.add_argument("--list", action="store_true", help="show data sets, their parts and sizes")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.list:
            print(listed())
            return 0
        if options.data_set is None or options.root is None:
            parser().error("give a data set and --root FOLDER, or --list")
        root = options.root.expanduser().absolute()
        archives = chosen(options.data_set, options.parts)
        download(archives, root, options.keep)
        print(f"{options.data_set} lies in {root}: python train.py data={options.data_set} data.root={root}")
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        remedy = "free some space" if error.errno in FULL else "see that the folder can be written"
        print(f"{error.filename or options.root}: {error.strerror or error}; {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


def listed() -> str:
    lines: list[str] = []
    for name, parts in DATA_SETS.items():
        every = {archive for part in parts.values() if part.by_default for archive in part.archives}
        lines.append(f"{name}: {written(sum(archive.bytes for archive in every))}")
        for key, part in parts.items():
            files = ", ".join(
                f"{archive.name} {'' if archive.size else 'about '}{written(archive.bytes)}"
                for archive in part.archives
            )
            lines.append(f"  {key:13} {files}{'' if part.by_default else ' (only with --parts)'}")
    return "\n".join(lines)


def chosen(data_set: str, parts: str | None) -> list[Archive]:
    """Returns the archives of some parts of a data set, each once; DataError where there is none of that name."""
    if data_set not in DATA_SETS:
        raise DataError(f"there is no data set {data_set!r}{_nearest(data_set, DATA_SETS)}")
    known = DATA_SETS[data_set]
    keys = [key for key, part in known.items() if part.by_default]
    if parts is not None:
        keys = [key.strip() for key in parts.split(",") if key.strip()]
        for key in keys or [""]:
            if key not in known:
                raise DataError(f"--parts: {data_set} has no part {key!r}{_nearest(key, known)}")
    return list(dict.fromkeys(archive for key in keys for archive in known[key].archives))


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def download(archives: Sequence[Archive], root: Path, keep: bool = False) -> None:
    """Brings into `root` what it lacks of some archives; DataError where that is impossible."""
    missing: list[Archive] = []
    for archive in archives:
        if archive.is_unpacked(root):
            file = root / _FOLDER / archive.name
            still = f"; {file} is no longer needed" if file.is_file() and not keep else ""
            print(f"{archive.name}: already in {root}{still}", flush=True)
        else:
            missing.append(archive)
    if not missing:
        return
    _check_all(missing, root, keep)
    with _folder(root) as folder:
        for archive in missing:
            file = folder / archive.name
            fetch(archive, file)
            number = unpack(
                file, root, _staging(file), archive.place,
                lambda size, archive=archive: _check(root, size, f"unpacked, {archive.name}"),
            )  # fmt: skip
            if not archive.is_unpacked(root):
                raise DataError(
                    f"{file} was unpacked into {root}, but is not what was expected: {_expected(archive)}. Look into "
                    "that folder"
                )
            print(f"{archive.name}: {number} files are in {root}", flush=True)
            if not keep:
                file.unlink()


def _staging(file: Path) -> Path:
    return file.with_name(f"{file.name}.unpacking")


def _expected(archive: Archive) -> str:
    words = [f"{folder} with {number} files" for folder, number in archive.folders]
    return f"there should be {', '.join([*archive.files, *archive.lists, *words])}"


@contextmanager
def _folder(root: Path) -> Generator[Path]:
    """Makes the folder of the archives and holds it for one process; removes what it made and what is left empty."""
    folder = root / _FOLDER
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            _hold(handle, root)
            yield folder
        finally:
            os.close(handle)
    finally:
        for path in dict.fromkeys([folder, *made]):
            with suppress(OSError):  # not empty, or never made
                path.rmdir()


def _hold(handle: int, root: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"another download into {root} is running; wait until it has ended") from error
    except OSError:  # some network file systems have no locks
        pass


def _check_all(archives: Sequence[Archive], root: Path, keep: bool) -> None:
    """Refuses what the disk has no space for, before the first byte: archives, and what they become."""
    held = most = 0
    lines: list[str] = []
    for archive in archives:
        file = root / _FOLDER / archive.name
        there = max((one.stat().st_size for one in (file, part_of(file)) if one.is_file()), default=0)
        staged = sum(one.stat().st_size for one in _staging(file).rglob("*") if one.is_file())
        left, unpacked = max(archive.bytes - there, 0), max(archive.bytes * archive.growth - staged, 0)
        most = max(most, held + left + unpacked)
        held += unpacked + (left if keep else -min(there, archive.bytes))
        about = "up to " if archive.growth > 1 else "about "
        lines.append(f"{archive.name} {written(left)} and unpacked {about}{written(unpacked)}")
    _check(root, most, "; ".join(lines))


def _check(root: Path, size: int, what: str) -> None:
    place = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise DataError(
            f"{root} needs {written(size)} of free space, and its disk has {written(free)} ({what}). Free some, give a "
            "--root on another disk, or fewer --parts"
        )
