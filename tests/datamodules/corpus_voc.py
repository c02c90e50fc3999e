"""Pascal VOC annotations in many forms: those that can be read, and those that break a rule and must be named.

Every case is the file `x.xml` of an image of 40 x 30 pixels, beside a valid one.
"""

from pathlib import Path
from typing import NamedTuple

from tiny_data import voc_object, write_voc

Box = list[float]


class Reading(NamedTuple):
    """What must be read from the file."""

    data: bytes
    boxes: list[Box]
    difficult: tuple[bool, ...] = (False,)
    classes: tuple[str, ...] = ("a",)
    filled: str = ""


def xml(
    objects: str,
    size: str = "<size><width>40</width><height>30</height></size>",
    head: str = "",
    encoding: str = "utf-8",
) -> bytes:
    return f"{head}<annotation>{size}{objects}</annotation>".encode(encoding)


def declared(encoding: str, name: str, codec: str | None = None) -> bytes:
    return xml(
        voc_object(name, "1 1 9 9"), head=f'<?xml version="1.0" encoding="{encoding}"?>\n', encoding=codec or encoding
    )


def difficult(text: str) -> bytes:
    return xml(voc_object("a", "1 1 9 9").replace("<difficult>0<", f"<difficult>{text}<"))


ONE = [[0.0, 0.0, 9.0, 9.0]]
SOUND = voc_object("a", "1 1 9 9")
PART = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"

GOOD_XML = {
    "float coordinates": Reading(xml(voc_object("a", "1.5 2.25 9.75 1e1")), [[0.5, 1.25, 9.75, 10]]),
    "without objects": Reading(xml(""), [], ()),
    "without size": Reading(xml(SOUND, size=""), ONE, filled="image size"),
    "size 0 x 0": Reading(xml(SOUND, "<size><width>0</width><height>0</height></size>"), ONE, filled="image size"),
    "infinite size": Reading(xml(SOUND, "<size><width>inf</width><height>9</height></size>"), ONE, filled="image size"),
    "size beyond 32 bits": Reading(
        xml(SOUND, "<size><width>1e12</width><height>9</height></size>"), ONE, filled="image size"
    ),
    "size in words": Reading(xml(SOUND, "<size><width>x</width><height/></size>"), ONE, filled="image size"),
    "float size": Reading(xml(SOUND, "<size><width>40.0</width><height>30.0</height></size>"), ONE),
    "unknown tags": Reading(
        xml(f"<sauce><a/></sauce>{SOUND.replace('<bndbox>', '<mood>ok</mood><bndbox>')}<shape><x1>3</x1></shape>"), ONE
    ),
    "UTF-8 with its mark": Reading(declared("utf-8", "a", "utf-8-sig"), ONE),
    "UTF-16": Reading(declared("utf-16", "犬"), ONE, classes=("犬",)),
    "Latin-1": Reading(declared("ISO-8859-1", "Käfer"), ONE, classes=("Käfer",)),
    "Shift-JIS": Reading(declared("Shift_JIS", "カメラ"), ONE, classes=("カメラ",)),
    "GBK": Reading(declared("gbk", "中文"), ONE, classes=("中文",)),
    "space around a class": Reading(xml(voc_object("\n  traffic light\t", "1 1 9 9")), ONE, classes=("traffic light",)),
    "classes in any script": Reading(
        xml("".join(voc_object(name, "1 1 9 9") for name in ("кошка", "كلب", "ไก่", "🦊"))), ONE * 4, (False,) * 4,
        ("кошка", "كلب", "ไก่", "🦊"),
    ),
    "parts of a person": Reading(xml(SOUND.replace("</object>", f"{PART}</object>")), ONE),
    "parts before the box": Reading(xml(SOUND.replace("<name>a</name>", f"{PART}<name>a</name>")), ONE),
    "one pixel": Reading(xml(voc_object("a", "3 3 3 3")), [[2, 2, 3, 3]]),
    "zero area": Reading(xml(voc_object("a", "5 3 4 9")), [[4, 2, 4, 9]]),
    "sticking out": Reading(xml(voc_object("a", "-4 -3 99 99")), [[-5, -4, 99, 99]]),
    **{f"difficult={text!r}": Reading(difficult(text), ONE, (True,)) for text in ("1", "true", "Yes", " 1\n")},
    **{f"difficult={text!r}": Reading(difficult(text), ONE) for text in ("0", "", "False", "Unspecified")},
    "a document type without entities": Reading(
        xml(SOUND, head='<!DOCTYPE annotation SYSTEM "file:///etc/passwd">'), ONE
    ),
}  # fmt: skip

_BOMB = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
BAD_XML: dict[str, tuple[bytes, str]] = {
    "cut short": (xml(SOUND)[:-20], "not sound XML"),
    "empty": (b"", "not sound XML"),
    "zeros": (bytes(200), "not sound XML"),
    "entities that grow": (
        xml("&l9;", head=f'<!DOCTYPE annotation [<!ENTITY l0 "lol">{_BOMB}]>'), "it defines an entity.*not sound XML",
    ),
    "an entity from a file": (
        xml("&e;", head='<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
        "it defines an entity.*file:///etc/passwd.*not sound XML",
    ),
    "an entity in an encoding that expat lacks": (
        xml("&e;", head='<?xml version="1.0" encoding="gbk"?><!DOCTYPE annotation [<!ENTITY e "x">]>'),
        "it defines an entity.*not sound XML",
    ),
    "an encoding that does not exist": (declared("klingon", "a", "utf-8"), "klingon.*not sound XML"),
    "another encoding than declared": (declared("utf-8", "Käfer", "latin-1"), "not sound XML"),
    "bytes that its encoding lacks": (declared("Shift_JIS", "\xa0\xff", "latin-1"), "shift_jis.*not sound XML"),
    "a web page": (b"<html><body>404 Not Found</body></html>", "<html> instead of <annotation>.*holds something else"),
}  # fmt: skip
"""Bytes of a file, and the expected message."""

NO_BOX = "<object><name>a</name></object>"
BAD_OBJECTS: dict[str, tuple[str, str]] = {
    "without bndbox": (NO_BOX, "not four numbers"),
    "with only its part's bndbox": (NO_BOX.replace("</object>", f"{PART}</object>"), "not four numbers"),
    "without one coordinate": (SOUND.replace("<xmax>9</xmax>", ""), r"\['1', '1', None, '9'\].*not four numbers"),
    "with a word": (SOUND.replace("<xmax>9<", "<xmax>nine<"), "'nine'.*not four numbers"),
    "with a decimal comma": (SOUND.replace("<xmax>9<", "<xmax>9,5<"), "'9,5'.*not four numbers"),
    "inverted": (voc_object("a", "9 1 3 5"), r"\[9.0, 1.0, 3.0, 5.0\].*negative width or height"),
    "to the right": (voc_object("a", "41 1 45 5"), r"\(40 x 30\).*\[41.0, 1.0, 45.0, 5.0\].*outside the image"),
    "below": (voc_object("a", "1 31 9 35"), "outside the image"),
    "negative": (voc_object("a", "-9 -9 -2 -2"), r"\[-9.0, -9.0, -2.0, -2.0\].*outside the image"),
    "NaN": (voc_object("a", "nan 1 3 5"), "not finite"),
    "infinite": (voc_object("a", "1 1 inf 5"), "not finite"),
    "too large for a number": (voc_object("a", "1 1 1e999 5"), "not finite"),
    "without name": (SOUND.replace("<name>a</name>", ""), "has no name"),
    "with an empty name": (voc_object("  ", "1 1 9 9"), "has no name"),
    "with a doubtful difficult": (SOUND.replace("<difficult>0<", "<difficult>perhaps<"), "'perhaps'.*neither 0 nor 1"),
}
"""Text of a file's second object, and the expected message."""


def write_xml(root: Path, data: bytes) -> Path:
    """Writes the file of image `x` into a folder that also has a valid image `sound`."""
    write_voc(root, {"sound": SOUND, "x": ""})
    file = root / "Annotations" / "x.xml"
    file.write_bytes(data)
    return file
