"""Fonts that have the glyphs of a text: the one that comes with matplotlib, and the system's."""

import os
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_FOLDERS = (
    "~/.local/share/fonts",
    "~/.fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
    "~/Library/Fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
_SPECIAL = ("bold", "italic", "oblique", "light", "thin", "mono", "serif", "condensed", "narrow")


def spelled(text: str, number: int) -> str:
    """`text` on one line; where no font has all of its characters, those that one has behind `#number`."""
    # Joiners and variation selectors have no glyph of their own.
    text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    text = " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())
    text = unicodedata.normalize("NFC", text)
    printable = "".join(c for c in text if c == " " or _file_with(c) is not None).strip()
    return text if printable == text and text else f"#{number} {printable}".strip()


def runs(text: str, size: int) -> list[tuple[str, Font]]:
    """The parts of a text that was `spelled`, each with a font for it.

    One part where one font has all of the text: it joins letters, and orders them right to left where need be.
    """
    parts: list[tuple[str, Path]] = []
    for character in text:
        last = parts[-1][1] if parts else files()[0]
        file = last if _has(last, character) else _file_with(character) or last
        if parts and parts[-1][1] == file:
            parts[-1] = (parts[-1][0] + character, file)
        else:
            parts.append((character, file))
    whole = (file for _, file in parts if all(_has(file, character) for character in text))
    if (file := next(whole, None)) is not None:
        parts = [(text, file)]
    return [(part, _font(file, size)) for part, file in parts]


@cache
def files() -> tuple[Path, ...]:
    """DejaVu Sans first, then what the system has, plain styles before others."""
    matplotlib = find_spec("matplotlib")  # found without being imported
    assert matplotlib is not None
    assert matplotlib.origin is not None
    found: list[Path] = []
    for folder in _FOLDERS:
        found += [
            f for f in Path(os.path.expanduser(folder)).rglob("*") if f.suffix.lower() in (".ttf", ".ttc", ".otf")
        ]
    found.sort(key=lambda file: (any(word in file.stem.lower() for word in _SPECIAL), file.stem.lower(), str(file)))
    return Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", *found


@cache
def _font(file: Path, size: int) -> Font:
    return ImageFont.truetype(str(file), size)


@cache
def _file_with(character: str) -> Path | None:
    return next((file for file in files() if _has(file, character)), None)


@cache
def _has(file: Path, character: str) -> bool:
    """Pillow tells no font's characters: one without a glyph is drawn like one that can't exist."""
    if character == " ":
        return True
    drawn = _drawn(file, character)
    return drawn is not None and drawn != _drawn(file, "\U0010ffff")


@cache
def _drawn(file: Path, character: str) -> tuple[tuple[int, int], bytes] | None:
    """By itself, without the circle that shaping puts below an accent."""
    try:
        mask = ImageFont.truetype(str(file), 16, layout_engine=ImageFont.Layout.BASIC).getmask(character)
    except (OSError, UnicodeError):  # fonts of one size, such as those of colour emoji; half a surrogate pair
        return None
    return (mask.size, bytes(cast(Any, mask))) if mask.size[0] and mask.size[1] else None
