"""The annotations of a split as flat arrays in one memory-mapped file, shared by all processes."""

import fcntl
import hashlib
import json
import os
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.errors import DataError
from datamodules.findings import Findings
from datamodules.records import fingerprint

READER_VERSION = 6  # to be raised when a reader changes what it makes of the same files
_MAGIC = b"boxwright index\n"
_ALIGNMENT = 64


class Content(Protocol):
    """What an index is made of, such as `Records`."""

    def arrays(self) -> dict[str, np.ndarray]: ...

    def meta(self) -> dict[str, Any]:
        """Returns the rest in plain Python; complete only after `arrays`."""
        ...


class AnnotationIndex:
    """Images and boxes of a split in original pixels: N images, M boxes, those of image `row` from
    `offsets[row]` to `offsets[row + 1]`.

    Its pickle is a path: another process maps the same file, so that memory does not grow with workers.
    """

    sizes: np.ndarray
    """int32 (N, 2): height and width."""
    ids: np.ndarray | None
    """int64, or texts of one length (N,); None where the stem of the file name is the id."""
    offsets: np.ndarray
    """int64 (N + 1,)."""
    boxes: np.ndarray
    """float64 (M, 4): xyxy, as annotated: they may stick out of the image or have no area."""
    labels: np.ndarray
    """int32 (M,): position in `class_names`."""
    areas: np.ndarray
    """float64 (M,): square pixels, as annotated."""
    crowd: np.ndarray
    difficult: np.ndarray
    annotation_ids: np.ndarray
    """int64 (M,): COCO's, or the number of the object in its VOC file from 1."""

    def __init__(self, path: Path, header: dict[str, Any], payload: np.ndarray) -> None:
        self.path, self.fingerprint = path, str(header["fingerprint"])
        self.ids = None
        for name, (dtype, shape, start) in header["arrays"].items():
            stop = start + np.dtype(dtype).itemsize * int(np.prod(shape))
            setattr(self, name, payload[start:stop].view(dtype).reshape(shape))
        self.class_names = tuple(header["class_names"])
        self.category_ids = tuple(header["category_ids"])
        self.spare = tuple(header["spare"])
        """Of `class_names`, those that only group the others: no annotation has them."""
        found = header["findings"]
        counts, filled, turns = (Counter(found[key]) for key in ("counts", "filled", "turns"))
        seen = {what: (int(count), str(first)) for what, (count, first) in found["seen"].items()}
        self.findings = Findings(**{**found, "counts": counts, "filled": filled, "turns": turns, "seen": seen})

    path_bytes: np.ndarray
    path_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def __reduce__(self) -> tuple[Callable[..., "AnnotationIndex"], tuple[Path, str]]:
        return _reopen, (self.path, self.fingerprint)

    def image_path(self, row: int) -> str:
        start, stop = self.path_offsets[row : row + 2]
        return os.fsdecode(self.path_bytes[start:stop].tobytes())

    def missing(self, rows: np.ndarray) -> list[int]:
        """Lists those of some rows whose image file does not exist."""
        data, offsets = self.path_bytes.tobytes(), self.path_offsets.tolist()
        paths = [data[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
        parts = [path.rpartition(b"/") for path in paths]
        # One listing of a folder costs less than a stat of each of its files.
        listed = {folder: _files_in(folder) for folder in {folder for folder, _, _ in parts}}
        return [
            row
            for row, path, (folder, _, name) in zip(rows.tolist(), paths, parts, strict=True)
            if name not in listed[folder] and not os.path.isfile(path)
        ]

    def image_id(self, row: int) -> int | str:
        return Path(self.image_path(row)).stem if self.ids is None else self.ids[row].item()

    def image_ids(self, rows: np.ndarray) -> np.ndarray:
        if self.ids is None:
            return np.array([self.image_id(row) for row in rows], np.str_)
        return self.ids[rows]

    def boxes_of(self, row: int) -> slice:
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def image_index(self) -> np.ndarray:
        """Returns the row of each box: int64 (M,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


def cached(
    reader: str, sources: Sequence[str], files: Iterable[str | Path], read: Callable[[], Content],
    cache_dir: str | Path | None = None,
) -> AnnotationIndex:  # fmt: skip
    """Returns the index of `sources`, built by `read` unless a file in the cache was made from the same `files`.

    When several processes ask at once, one builds and the others wait for it.
    """
    folder = cache_folder(cache_dir)
    key = hashlib.blake2b(json.dumps([reader, READER_VERSION, *sources]).encode(), digest_size=8).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(sources[0]).stem)[:40]
    path = folder / f"{reader}-{stem}-{key}.index"
    mark = fingerprint(files)  # before reading: a source that changes meanwhile is read again next time
    index = _open(path, mark)
    if index is None:
        if not os.access(folder, os.W_OK, effective_ids=True):
            raise OSError(f"can't write to {folder}, where annotation indexes are kept; set data.cache_dir=FOLDER")
        with locked(path.with_suffix(".lock")):
            index = _open(path, mark)
            if index is None:
                records = read()
                _write(path, records.arrays(), {**records.meta(), "fingerprint": mark})
                index = _open(path, mark)
    if index is None:
        raise OSError(f"{path} was written but can't be read back; set data.cache_dir to another folder")
    return index


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Returns `cache_dir`; where that is None, `boxwright` in the user's cache folder, or a folder under the system's
    temporary one if nothing can be written there. Made if need be.
    """
    try:
        if cache_dir is not None:
            return _made(Path(cache_dir))
        folder = _made(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "boxwright")
        if os.access(folder, os.W_OK, effective_ids=True):
            return folder
        reason = f"{folder} is read-only"
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        if cache_dir is not None:
            raise OSError(f"can't keep annotation indexes in {cache_dir} ({error}); set data.cache_dir") from error
        reason = str(error)
    folder = Path(tempfile.gettempdir()) / f"boxwright-{os.getuid()}"
    try:
        if _made(folder, 0o700).lstat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
    except OSError as error:
        raise OSError(f"no place to keep annotation indexes ({reason}; {error}); set data.cache_dir=FOLDER") from error
    _warn_once(f"annotation indexes are kept in {folder}, since the user's cache folder can't be used ({reason})")
    return folder


def _made(folder: Path, mode: int = 0o777) -> Path:
    folder = folder.expanduser().absolute()
    folder.mkdir(mode, parents=True, exist_ok=True)
    return folder


@cache
def _warn_once(message: str) -> None:
    from pytorch_lightning.utilities import rank_zero_warn  # only here: workers, which start with this file, need none

    rank_zero_warn(f"{message}; data.cache_dir=FOLDER names another")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, which stays behind empty."""
    # Some network file systems have no locks, and a full disk has no place for the file; then several processes
    # may do the same work, and the atomic rename at its end still lets none of them see half of it.
    with ExitStack() as stack:
        with suppress(OSError):
            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        yield


def _write(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    table: dict[str, tuple[str, tuple[int, ...], int]] = {}
    chunks: list[bytes] = []
    length = checksum = 0
    for name, values in arrays.items():
        data = np.ascontiguousarray(values).tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
        table[name] = (values.dtype.str, values.shape, length)
        chunks.append(data)
        length += len(data)
        checksum = zlib.crc32(data, checksum)
    header = json.dumps({**meta, "arrays": table, "length": length, "checksum": checksum}).encode()
    header += b" " * (-(len(_MAGIC) + 16 + len(header)) % _ALIGNMENT)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():  # a container's mount makes an empty one where a file should be
            path.rmdir()
        with temporary.open("wb") as file:
            file.write(_MAGIC + len(header).to_bytes(8, "little") + zlib.crc32(header).to_bytes(8, "little"))
            file.write(header)
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"can't write {path} ({error.strerror}); free some space there, or set data.cache_dir=FOLDER"
        raise OSError(error.errno, reason) from error
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path, mark: str, verify: bool = True) -> AnnotationIndex | None:
    """Opens an index; None unless its file is whole, was made from sources with this fingerprint, and the image
    files that it depends on are unchanged."""
    try:
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError):  # absent, or empty
        return None
    start = len(_MAGIC) + 16
    if data[: len(_MAGIC)].tobytes() != _MAGIC or len(data) < start:
        return None
    length, checksum = data[len(_MAGIC) : start].view("<u8").tolist()
    raw = data[start : start + length].tobytes()
    if len(raw) != length or zlib.crc32(raw) != checksum:
        return None
    header = json.loads(raw)
    payload = data[start + length :]
    if header["fingerprint"] != mark or len(payload) != header["length"]:
        return None
    if verify and zlib.crc32(payload.data) != header["checksum"]:
        return None
    if verify and any(fingerprint([file]) != old for file, old in header["findings"]["depends_on"].items()):
        return None
    return AnnotationIndex(path, header, payload)


def _reopen(path: Path, mark: str) -> AnnotationIndex:
    index = _open(path, mark, verify=False)
    if index is None:
        raise DataError(
            f"{path} was removed or replaced while in use: it was cleaned up, or the annotations changed and another "
            "start read them anew. Start again, or continue with resume=last if the annotations are what they were"
        )
    return index


def _files_in(folder: bytes) -> set[bytes]:
    """Lists the names of plain files; none of a folder that can't be listed."""
    try:
        with os.scandir(folder or b"/") as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:
        return set()
