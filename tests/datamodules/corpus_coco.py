"""COCO annotations in many forms: those that can be read, and those that break a rule and must be named.

Every case changes a file of two images of 60 x 40 pixels with one valid annotation each.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tiny_data import write_coco

Box = list[float]
Content = dict[str, Any]


def sound_coco() -> Content:
    return {
        "images": [
            {"id": 10, "file_name": "train_0.png", "height": 40, "width": 60},
            {"id": 20, "file_name": "train_1.png", "height": 40, "width": 60},
        ],
        "annotations": [
            {
                "id": i, "image_id": 10 * i, "category_id": 7, "bbox": [i, i, 9, 9], "area": 81, "iscrowd": 0,
                "segmentation": [],
            }
            for i in (1, 2)
        ],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
    }  # fmt: skip


def changed(path: str, value: Any) -> Content:
    """A valid file in which e.g. `annotations.1.bbox` has another value; "absent" removes the key."""
    content: Any = sound_coco()
    node = content
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        node = node[part]
    if isinstance(node, dict) and value == "absent":
        del node[last]
    elif isinstance(node, list) and last == len(node):
        node.append(value)
    else:
        node[last] = value
    return content


def everywhere(change: Callable[[Any], Any], *keys: str) -> Content:
    """A valid file in which all values of some keys are changed."""
    content = sound_coco()
    for entries in content.values():
        for entry in entries:
            entry.update({key: change(entry[key]) for key in keys if key in entry})
    return content


def image(**changes: Any) -> Content:
    return {**sound_coco()["images"][1], **changes}


def annotation(**changes: Any) -> Content:
    return {**sound_coco()["annotations"][1], **changes}


def unmentioned(content: Content) -> Content:
    """A file without the annotation of image 20, whose id a case removes."""
    return {**content, "annotations": content["annotations"][:1]}


class Kept(NamedTuple):
    """The boxes that must be read, by image id."""

    content: Content
    boxes: dict[Any, list[Box]]
    filled: str = ""
    crowd: tuple[bool, ...] = (False, False)


TWO = {10: [[1, 1, 10, 10]], 20: [[2, 2, 11, 11]]}
GOOD_JSON = {
    "nothing wrong": Kept(sound_coco(), TWO),
    "ids as floats": Kept(everywhere(float, "id", "image_id", "category_id"), TWO),
    "ids at the ends of 64 bits": Kept(
        {**changed("images.1.id", 2**63 - 1), "annotations": [annotation(image_id=2**63 - 1, id=-(2**63))]},
        {10: [], 2**63 - 1: TWO[20]}, crowd=(False,),
    ),
    "annotation ids as texts": Kept(everywhere(lambda i: f"a{i}" if i < 3 else i, "id"), TWO, "integer id 2 times"),
    "a text that is doubled as annotation id": Kept(
        {**sound_coco(), "annotations": [annotation(id="x", image_id=i) for i in (10, 20)]},
        {10: TWO[20], 20: TWO[20]}, "integer id 2 times",
    ),
    "an annotation without id beside one with its number": Kept(
        {**sound_coco(), "annotations": [annotation(id=2, image_id=10), annotation(id=None)]},
        {10: TWO[20], 20: TWO[20]}, "integer id 1 time",
    ),
    "an annotation id beyond 64 bits": Kept(changed("annotations.1.id", 2**63), TWO, "integer id 1 time"),
    "zero area": Kept(changed("annotations.1.bbox", [60, 40, 0, 0]), {**TWO, 20: [[60, 40, 60, 40]]}),
    "sticking out": Kept(changed("annotations.1.bbox", [-1, -2, 99, 99]), {**TWO, 20: [[-1, -2, 98, 97]]}),
    **{
        f"iscrowd={value!r}": Kept(changed("annotations.1.iscrowd", value), TWO, filled, (False, bool(value)))
        for value, filled in ((True, ""), (False, ""), (1.0, ""), (None, "iscrowd 1 time"))
    },
    **{
        f"area={area!r:.20}": Kept(changed("annotations.1.area", area), TWO, "area 1 time")
        for area in ("absent", None, -5, "81", float("nan"), float("inf"), 10**400, True, [81])
    },
    **{
        f"{key}={value!r}": Kept(changed(f"images.1.{key}", value), TWO, "image size 1 time")
        for key, value in (("width", "absent"), ("height", 0), ("width", -60), ("height", "40"), ("width", 2**40),
                           ("height", float("inf")), ("width", 60.5), ("height", True))
    },
    "ids of text": Kept(
        everywhere(lambda i: f"0000{i}_02999_d_0000005" if i >= 10 else i, "id", "image_id"),
        {f"0000{i}_02999_d_0000005": boxes for i, boxes in TWO.items()},
    ),
    "ids of digits as text": Kept(
        everywhere(lambda i: str(i) if i >= 10 else i, "id", "image_id"), {str(i): boxes for i, boxes in TWO.items()}
    ),
    "ids of text in any script, of any length": Kept(
        everywhere(lambda i: {10: "血液 \U0001f600/ä b", 20: "x" * 1000}.get(i, i), "id", "image_id"),
        {"血液 \U0001f600/ä b": TWO[10], "x" * 1000: TWO[20]},
    ),
    "float size": Kept(changed("images.1.width", 60.0), TWO),
    "other keys": Kept({**sound_coco(), "info": None, "licenses": [[]], "x": 1}, TWO),
}  # fmt: skip

HUGE = 10**400
BAD_ENTRIES: dict[str, tuple[Content, str, set[int]]] = {
    **{
        f"bbox={box!r:.30}": (changed("annotations.1.bbox", box), f"annotation 2 of image 20.*{rule}", set())
        for box, rule in (
            ([float("nan"), 1, 2, 3], "bbox .nan, 1, 2, 3.*not finite"),
            ([1, 1, float("inf"), 3], "bbox .1, 1, inf, 3.*not finite"),
            ([1, 1, -2, 3], "negative width or height"),
            ([9, 9, 3, -1], "negative width or height"),
            ([60, 1, 5, 5], "outside the image"),
            ([-9, 1, 5, 5], "outside the image"),
            ([1, 41, 5, 5], "outside the image"),
            ([1e308, 1e308, 1e308, 1e308], "outside the image|not finite"),
            ([1, 2, 3], "four numbers"), ([], "four numbers"), ([1] * 10_000, "four numbers"),
            (["1", "2", "3", "4"], "four numbers"), ([1, 2, 3, None], "four numbers"), ([1, 2, 3, [4]], "four numbers"),
            ([True, 1, 2, 3], "four numbers"), ([HUGE, 1, 2, 3], "four numbers"), (None, "four numbers"),
            ("1 2 3 4", "four numbers"), ({"x": 1, "y": 2, "w": 3, "h": 4}, "four numbers"), ("absent", "four numbers"),
        )
    },
    **{
        f"image_id={i!r:.20}": (changed("annotations.1.image_id", i), f"2 of image {i!r:.9}.*image that", set())
        for i in (99, "20", None, 20.5, True, HUGE)
    },
    "image_id as text": (
        changed("annotations.1.image_id", "20"), "image '20'.*image that the file does not list, whose ids are int",
        set(),
    ),
    "category_id as text": (
        changed("annotations.1.category_id", "7"),
        "category '7'.*category that the file does not list, whose ids are integers", set(),
    ),
    "image_id in a list": (changed("annotations.1.image_id", [20]), r"annotation 2 of image \[20\].*image that", set()),
    "without image_id": (changed("annotations.1.image_id", "absent"), "annotation 2 of image None.*image that", set()),
    **{
        f"category_id={i!r:.20}": (changed("annotations.1.category_id", i), f"category {i!r:.9}.*category that", set())
        for i in (5, "7", None, 7.5, True, HUGE)
    },
    "category_id in a list": (changed("annotations.1.category_id", [7]), "category that the file", set()),
    "an annotation that is a number": (changed("annotations.2", 5), "annotation 3 of image None", {20}),
    "an annotation id twice": (changed("annotations.1.id", 1), "annotation 1 of image 20.*used twice", set()),
    **{
        f"iscrowd={value!r}": (
            changed("annotations.1.iscrowd", value), f"annotation 2.*{value!r:.5}.*neither 0 nor 1", set(),
        )
        for value in (2, "0", "yes", -1)
    },
}  # fmt: skip
"""A file's content, the expected message, and the images beside image 10 that keep their box."""

_NO_ID = "needs an `id`, an integer or a text"
_OTHER_ID = "an image has a text as `id`, where others have an integer"
BAD_IMAGES: dict[str, tuple[Content, str, set[int]]] = {
    **{
        f"id={i!r:.20}": (
            unmentioned(changed("images.1.id", i)), f"image {i!r:.9}.*file_name 'train_1.png'.*{_NO_ID}", {10},
        )
        for i in (None, 20.5, True, 2**63, HUGE, "", 1001 * "x")
    },
    **{
        f"id={i!r} beside integers": (unmentioned(changed("images.1.id", i)), f"image {i!r}.*{_OTHER_ID}", {10})
        for i in ("20", "twenty")
    },
    "id in a list": (unmentioned(changed("images.1.id", [20])), rf"image \[20\].*{_NO_ID}", {10}),
    "a text as id of an image and its annotation": (
        changed("annotations.1.image_id", "x") | {"images": changed("images.1.id", "x")["images"]},
        f"image 'x'.*{_OTHER_ID}", {10},
    ),
    **{
        f"file_name={name!r}": (changed("images.1.file_name", name), "image 20.*`file_name`", {10})
        for name in ("absent", None, 7, "", ["train_1.png"])
    },
    "an image that is a text": (unmentioned(changed("images.1", "train_1.png")), f"image None.*{_NO_ID}", {10}),
    "an id twice": (changed("images.2", image()), "image 20, file_name 'train_1.png'.*used twice", {10, 20}),
    "an id for two files": (
        changed("images.2", image(file_name="other.png")),
        "image 20, file_name 'other.png'.*train_1.png.*used twice", {10},
    ),
    "a file under two ids": (
        changed("images.2", image(id=30)), "image 30, file_name 'train_1.png' and image 20.*under two ids", {10, 20},
    ),
    **{
        f"file {name!r}": (changed("images.1.file_name", name), "no file can have this name", {10})
        for name in ("x\0.png", "x\0/x.png", "half \ud800.png")
    },
}  # fmt: skip
"""A file's content, the expected message, and the images that remain."""

NO_FILES = (
    "absent.png", "train_0.png/x.png", "a" * 300 + ".png", "a" * 300 + "/x.png", "..", "./", "/", "/dev/zero",
)  # fmt: skip
"""Image file names that do not exist."""

_DEEP = '{"images": ' + "[" * 100_000
BAD_JSON: dict[str, tuple[bytes, str]] = {
    "cut short": (json.dumps(sound_coco()).encode()[:-30], "not valid JSON: .*cut short"),
    "empty": (b"", "not valid JSON: it is empty; copy it again"),
    "a text": (b"hello", "not valid JSON"),
    "packed by gzip": (b"\x1f\x8b\x08\x00" + bytes(30), "not valid JSON: it is compressed; unpack it"),
    "packed by zip": (b"PK\x03\x04" + bytes(30), "it is compressed; unpack it"),
    "in Latin-1": (json.dumps({"images": "ä"}, ensure_ascii=False).encode("latin-1"), "save it as UTF-8"),
    "brackets without end": (_DEEP.encode(), "nested too deeply"),
    "brackets with an end": (f"{_DEEP}{']' * 100_000}}}".encode(), "nested too deeply"),
    "a number of 5000 digits": (b'{"images": ' + b"9" * 5000 + b"}", "not valid JSON: .*digits"),
    "a list": (b'[{"image_id": 1, "bbox": []}]', "no list 'images', it is a list itself; expected COCO"),
    "a number": (b"5", "no list 'images', it is a int"),
    **{
        f"without {key}": (json.dumps(changed(key, "absent")).encode(), f"no list '{key}', it has")
        for key in sound_coco()
    },
    "annotations by image": (json.dumps(changed("annotations", {"10": []})).encode(), "no list 'annotations'"),
}  # fmt: skip
"""Bytes of a file that is refused whatever data.on_error is, and the expected message."""

BAD_CATEGORIES: dict[str, tuple[list[Any], str]] = {
    "an id twice": ([{"id": 7, "name": "b"}, {"id": 7, "name": "a"}], r"several categories of id \[7\]"),
    "a name twice": ([{"id": 7, "name": "b"}, {"id": 3, "name": "b"}], r"several categories of name \['b'\]"),
    "the same twice": ([{"id": 7, "name": "b"}] * 2, r"several categories of id \[7\]"),
    "an id as float and as integer": ([{"id": 7, "name": "b"}, {"id": 7.0, "name": "a"}], "several categories of id"),
    "an id as text": ([{"id": "7", "name": "b"}], "category of id '7' and name 'b'; give each an integer id"),
    "ids of several kinds": ([{"id": 3, "name": "a"}, {"id": "7", "name": "b"}], "category of id '7'"),
    "an id beyond 64 bits": ([{"id": 2**63, "name": "b"}], "category of id 9223372036854775808"),
    "without id": ([{"name": "b"}], "category of id None and name 'b'"),
    "ids as text": (
        [{"id": "7", "name": "b"}, {"id": "3", "name": "a"}],
        "category of id '7'.*an id in quotes is text",
    ),
    "without name": ([{"id": 7}], "category of id 7 and name None; give each an integer id and a name"),
    "an empty name": ([{"id": 7, "name": " "}], "category of id 7 and name ' '"),
    "names alone": (["a", "b"], "category of id None and name None"),
}
"""Categories that are refused whatever data.on_error is, and the expected message."""


def write_content(root: Path, content: Content | bytes) -> Path:
    """Writes two images, and `content` as annotations/instances_train.json."""
    write_coco(root, [(40, 60)] * 2, [[], []])
    file = root / "annotations" / "instances_train.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file
