"""Fonts that have the characters of a text: the one that comes with matplotlib, and the system's."""

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_SPECIAL = ("bold", "italic", "oblique", "light", "thin", "mono", "serif", "condensed", "narrow")
_COLOR_TABLES = ("CBDT", "COLR", "sbix", "SVG ")
"""Tables of fonts of colour emoji, which can't be drawn at any size in one colour."""


def spelled(text: str, number: int) -> str:
    """Puts a text on one line; where no font has all of its characters, those that one has behind `#number`."""
    # Joiners and variation selectors have no glyph of their own.
    text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    text = " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())
    text = unicodedata.normalize("NFC", text)
    printable = "".join(c for c in text if c == " " or _file_with(c) is not None).strip()
    return text if printable == text and text else f"#{number} {printable}".strip()


def runs(text: str, size: int) -> list[tuple[str, Font]]:
    """Cuts a text that was `spelled` into parts, each with a font for it.

    Where one font has all of the text there is one part: the font joins letters, and orders them right to left where
    need be.
    """
    parts: list[tuple[str, Path]] = []
    for character in text:
        last = parts[-1][1] if parts else _bundled()
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
    """Lists DejaVu Sans first, then the system's fonts, plain styles before others."""
    return _bundled(), *_of_system()


@cache
def _bundled() -> Path:
    matplotlib = find_spec("matplotlib")  # found without being imported
    assert matplotlib is not None
    assert matplotlib.origin is not None
    return Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"


@cache
def _of_system() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts  # only now: most texts need the bundled font alone

    found = [Path(file) for file in findSystemFonts()]
    return tuple(
        sorted(found, key=lambda file: (any(word in file.stem.lower() for word in _SPECIAL), file.stem.lower(), file))
    )


@cache
def _font(file: Path, size: int) -> Font:
    return ImageFont.truetype(str(file), size)


@cache
def _file_with(character: str) -> Path | None:
    if _has(_bundled(), character):
        return _bundled()
    return next((file for file in files() if _has(file, character)), None)


def _has(file: Path, character: str) -> bool:
    return character == " " or ord(character) in _characters(file)


@cache
def _characters(file: Path) -> frozenset[int]:
    """The characters of a font; none of a font that can't be read, or drawn at any size in one colour."""
    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            if any(table in font for table in _COLOR_TABLES):
                return frozenset()
            return frozenset(font.getBestCmap() or ())
    except (OSError, TTLibError, AssertionError, KeyError, ValueError):
        return frozenset()
