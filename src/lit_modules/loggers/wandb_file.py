"""The file of an offline W&B run: LevelDB's log format, blocks of 32 KiB, behind a header of 7 bytes."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

_BLOCK, _HEAD = 2**15, 7
_WHOLE, _LAST = 1, 4


def cut(file: Path, step: int) -> None:
    """Shortens the file to the rows up to an optimizer step, and to whole records.

    A run that was killed leaves a torn record, over which `wandb sync` stumbles, and rows of steps that the resumed
    run takes again: without this, an uploaded run would show them twice. W&B has no call for it, so the framing and
    the record's type are W&B's own, and a test reads the file with W&B's reader.
    """
    from wandb.proto import wandb_internal_pb2

    data, end = file.read_bytes(), _HEAD
    for start, stop, content in _records(data):
        record: Any = cast(Any, wandb_internal_pb2).Record.FromString(content)
        row: dict[str, str] = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if json.loads(row.get("trainer/global_step", "0")) > step:
            end = start
            break
        end = stop
    if end < len(data):
        os.truncate(file, end)


def _records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and content of each whole record; one too long for a block is in parts."""
    position, start, parts = _HEAD, _HEAD, b""
    while position + _HEAD <= len(data):
        if _BLOCK - position % _BLOCK < _HEAD:  # too short for a part's head: the block is padded
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEAD])
        start = position if not parts else start
        parts += data[position + _HEAD : position + _HEAD + length]
        position += _HEAD + length
        if kind == 0 or position > len(data):
            return
        if kind in (_WHOLE, _LAST):
            yield start, position, parts
            parts = b""
