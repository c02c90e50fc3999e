#!/usr/bin/env bash
# Library:   coco-to-yolo 1.2.1, its command line on a COCO file whose category ids have gaps
#            (the official instances files do: 80 classes, ids 1 to 90) or are not in order.
# Expected:  its README: it converts COCO object detection datasets to YOLO format. In YOLO's
#            format the number at the start of a label line is an index into `names` of the
#            yaml that is written beside it.
# Happens:   the label is the category id minus 1, while `names` counts the categories in the
#            order of the file. With a gap labels point at another name or past the end,
#            with an order other than by id names are swapped. No warning. (A comment in the
#            source assumes consecutive ids; neither README nor help says it.)
# Output:    ids 7, 8, 9, 13: expected ['train', 'truck', 'boat', 'stop sign'],
#            seen "no such class" for 6, 7, 8 and 12
#            ids 2, 3, 1: expected ['bicycle', 'car', 'person'],
#            seen ['car', 'person', 'bicycle']
# Hurts:     of COCO's own files 69 of 80 classes get a wrong label: ids run without a gap
#            only to 11, and 9 labels lie past the 80 names. A file whose categories are
#            sorted by name trains without complaint on swapped names.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet coco-to-yolo==1.2.1 pyyaml==6.0.4
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import yaml

print("coco-to-yolo", version("coco-to-yolo"))


def convert(name, ids):
    """The classes of the objects, one of each category, as the converted files state them."""
    root = Path(name)
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "images" / "a.png").write_bytes(b"")  # only copied, never opened
    categories = [{"id": number, "name": label} for label, number in ids.items()]
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": categories,
        "annotations": [
            {"id": k + 1, "image_id": 1, "category_id": c["id"], "bbox": [10 * k, 0, 10, 10],
             "area": 100, "iscrowd": 0}
            for k, c in enumerate(categories)
        ],
    }
    (root / "annotations" / "annotations.json").write_text(json.dumps(data))
    subprocess.run(
        [str(Path(sys.executable).parent / "coco_to_yolo"), str(root), str(root / "out"),
         "--test_ratio", "0"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    names = yaml.safe_load((root / "out" / "converted.yaml").read_text())["names"]
    label_file = root / "out" / "converted" / "labels" / "train" / "a.txt"
    numbers = [int(line.split()[0]) for line in label_file.read_text().splitlines()]
    return [names.get(number, f"no such class ({number})") for number in numbers]


# COCO's own categories with their own ids: four with a gap, and three listed by name.
gap = convert("gap", {"train": 7, "truck": 8, "boat": 9, "stop sign": 13})
order = convert("order", {"bicycle": 2, "car": 3, "person": 1})
print("ids 7, 8, 9, 13: expected ['train', 'truck', 'boat', 'stop sign'], seen", gap)
print("ids 2, 3, 1: expected ['bicycle', 'car', 'person'], seen", order)
ok = gap == [f"no such class ({n})" for n in (6, 7, 8, 12)] and order == ["car", "person", "bicycle"]
sys.exit(0 if ok else 1)
PY
