"""TensorBoard's event files: records of a length (8 bytes), its checksum (4), an event, its checksum (4)."""

import os
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_HEAD, _CHECKSUM = 12, 4


def cut(file: Path, step: int) -> set[tuple[str, int]]:
    """Cuts a file after an optimizer step, and after its last whole record; returns the names and steps that remain.

    A killed run leaves a torn record, and values of steps that the resumed run repeats. A mark of an earlier resumption
    is not a value.
    """
    event_pb2 = import_module("tensorboard.compat.proto.event_pb2")

    data, end = file.read_bytes(), 0
    kept: set[tuple[str, int]] = set()
    for stop, content in _records(data):
        event: Any = event_pb2.Event.FromString(content)
        if event.HasField("summary"):
            if event.step > step:
                break
            kept |= {(value.tag, event.step) for value in event.summary.value}
        end = stop
    if end < len(data):
        os.truncate(file, end)
    return kept


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the end of each whole record, and its content."""
    position = 0
    while position + _HEAD <= len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        start = position + _HEAD
        position = start + length + _CHECKSUM
        if position > len(data):
            return
        yield position, data[start : start + length]
