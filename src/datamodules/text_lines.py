"""A line of a text list: the path of an image, then four numbers and a class for each box."""

import re

from datamodules.endings import PICTURES

_PATH = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, PICTURES))}))(?:[\s,]+|$)", re.IGNORECASE)
_INTEGER = re.compile(r"-?\d+")


def split_line(line: str) -> tuple[str | None, list[str]]:
    """Returns the path, which may have blanks, and the words after it, separated by blanks or commas; None and no words
    where the line does not begin with the path of an image."""
    line = line.strip()
    if (found := _PATH.match(line)) is None:
        return None, []
    return found[1], [word for word in re.split(r"[\s,]+", line[found.end() :]) if word]


def is_integer(word: str) -> bool:
    return _INTEGER.fullmatch(word) is not None


def looks_like_a_list(text: str) -> bool:
    """Whether the first lines of a text, the last of which may be cut, are such lines, at least one with a box."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")][:20]
    parsed = [split_line(line) for line in lines[: max(1, len(lines) - 1)]]
    boxes = [words for _, words in parsed if words]
    return bool(boxes) and all(name is not None for name, _ in parsed) and all(map(_are_boxes, boxes))


def _are_boxes(words: list[str]) -> bool:
    numbers = [word for at, word in enumerate(words) if at % 5 < 4]
    return len(words) % 5 == 0 and all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", word) for word in numbers)
