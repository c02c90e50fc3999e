"""What an image file says of its picture before it is decoded: its size, its orientation, whether more follow."""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF, the last two of a BigTIFF."""
SUBFILE, WIDTH, HEIGHT, BITS, ORIENTATION, EXTRA_SAMPLES = 254, 256, 257, 258, 274, 338
"""Tags of a TIFF; that of the orientation is EXIF's too."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_FEW = 64  # bytes
_BESIDE_PAGES = 0b101  # subfiles that are smaller copies, or masks
_SWAPPING = (5, 6, 7, 8)  # orientations that swap width and height
_SEQUENCES = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose further pictures are meant to be seen; a JPEG has previews and depths behind its own."""
_LIKE_EXIF = {"xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Places where Pillow finds an orientation too; OpenCV and browsers don't."""


class Header(NamedTuple):
    """A picture in its file."""

    stored: tuple[int, int]
    """(height, width) of the stored pixels."""
    orientation: int
    """EXIF's, from 1 (as stored) to 8."""
    several: bool
    """Others follow: frames of an animation, pages."""

    def size(self, turned: bool) -> tuple[int, int]:
        """Returns (height, width), with the orientation applied or not."""
        height, width = self.stored
        return (width, height) if turned and self.orientation in _SWAPPING else (height, width)


def read_header(path: str) -> Header:
    """Reads the header of an image file; an OSError or ValueError says why it has none."""
    with open(path, "rb") as file:
        try:
            return _of_tiff(file) if file.read(4) in TIFF else _of_others(file)
        except (SyntaxError, struct.error, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(str(error)) from error


def has_several(path: str) -> bool:
    """Whether a file holds several pictures; False where its header can't be read."""
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\xff\xd8":  # a JPEG, which can be told sooner
                return False
        return read_header(path).several
    except (OSError, ValueError):
        return False


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image of Pillow, from 1 to 8; 1 where it has none that is sound."""
    try:
        if image.info.keys() & _LIKE_EXIF:
            exif = Image.Exif()
            exif.load(image.info.get("exif") or b"")
        else:
            exif = image.getexif()
    except (SyntaxError, ValueError, struct.error):
        return 1
    found: object = exif.get(ORIENTATION) or getattr(image, "tag_v2", {}).get(ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


class Tag(NamedTuple):
    """Integers of a directory of a TIFF."""

    values: tuple[int, ...]
    place: int
    """In the file, of the first."""
    format: str
    """Of `struct`, of one."""


def directories(file: BinaryIO) -> Iterator[dict[int, Tag]]:
    """Yields the tags of each directory of a TIFF that are a few integers; ends where it is cut short."""
    file.seek(0)
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    pointer, count, room = ("Q", "Q", 8) if start[2:4] in (b"+\0", b"\0+") else ("I", "H", 4)
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + pointer, start, room)
        while at and at not in seen:
            seen.add(at)
            file.seek(at)
            (number,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
            tags: dict[int, Tag] = {}
            for _ in range(number):
                tag, kind, length = struct.unpack(order + "HH" + pointer, file.read(4 + room))
                place, held = file.tell(), file.read(room)
                form = order + _INTEGERS.get(kind, "")
                size = length * struct.calcsize(form)
                if form == order or not 0 < size <= _FEW:
                    continue
                after = file.tell()
                if size > room:  # they stand elsewhere
                    (place,) = struct.unpack(order + pointer, held)
                    file.seek(place)
                    held = file.read(size)
                    file.seek(after)
                tags[tag] = Tag(struct.unpack_from(f"{order}{length}{form[1]}", held), place, form)
            yield tags
            (at,) = struct.unpack(order + pointer, file.read(room))
    except struct.error:
        return


def _of_tiff(file: BinaryIO) -> Header:
    pages = directories(file)
    first = next(pages, {})
    if not {WIDTH, HEIGHT} <= first.keys():
        raise ValueError("a TIFF without a size")
    others = (page[SUBFILE].values[0] if SUBFILE in page else 0 for page in pages)
    several = any(not kind & _BESIDE_PAGES for kind in others)
    return Header((first[HEIGHT].values[0], first[WIDTH].values[0]), tiff_orientation(first), several)


def tiff_orientation(tags: dict[int, Tag]) -> int:
    """Returns the orientation in a directory of a TIFF, from 1 to 8."""
    found = tags[ORIENTATION].values[0] if ORIENTATION in tags else 1
    return found if found in range(1, 9) else 1


def _of_others(file: BinaryIO) -> Header:
    with Image.open(file) as image:
        several = image.format in _SEQUENCES and bool(getattr(image, "is_animated", False))
        return Header((image.height, image.width), orientation(image), several)
