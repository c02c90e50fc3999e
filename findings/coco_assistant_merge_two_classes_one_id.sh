#!/usr/bin/env bash
# Library:   coco-assistant 0.4.0 (pycocotools 2.0.11), COCO_Assistant.merge.
# Expected:  two files are merged into one; the class names meet, and a class that only the
#            second has gets an id of its own. The docstring's examples give it the next id.
# Happens:   the new id is the number of classes so far plus one. That is free only where the
#            first file's ids are 1 to n. With a gap (COCO's own 80 classes run to 90) it is the id
#            of another class: the merged file lists two names under one id and the objects of
#            both carry it. No warning.
# Output:    ids 1, 2, 4 and a new class "boat": expected 4 different ids, seen [1, 2, 4, 4]
#            names of the dog's and of the boat's id: expected one each, seen dog and boat for both
#            the dog's object as pycocotools names it: expected 'dog', seen 'boat'
# Hurts:     two classes become one in training and in evaluation. Merging a set of one's own into
#            COCO gives the new class id 81, which is COCO's "sink".
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# One of its requirements (coco-ash, a copy of pycocotools) is on the index no more.
"$work/venv/bin/pip" install --quiet pycocotools==2.0.11 numpy==2.4.6 pandas==2.3.3 matplotlib==3.10.9 \
    seaborn==0.13.2 requests==2.34.2 tqdm
"$work/venv/bin/pip" install --quiet --no-deps coco-assistant==0.4.0
mkdir -p "$work/images/first" "$work/images/second" "$work/annotations"
cd "$work"
export MPLCONFIGDIR="$work" MPLBACKEND=Agg
"$work/venv/bin/python" -W ignore - <<'PY' 2>"$work/progress"
import contextlib
import io
import json
import sys
from importlib.metadata import version

from coco_assistant import COCO_Assistant
from pycocotools.coco import COCO

print("coco-assistant", version("coco-assistant"))


def write(name, classes):
    data = {
        "info": {}, "licenses": [],
        "images": [{"id": 1, "file_name": f"{name}.jpg", "width": 100, "height": 100}],
        "categories": [{"id": i, "name": n, "supercategory": ""} for i, n in classes.items()],
        "annotations": [
            {"id": k + 1, "image_id": 1, "category_id": i, "bbox": [10 * k, 0, 10, 10],
             "area": 100, "iscrowd": 0, "segmentation": []}
            for k, i in enumerate(classes)
        ],
    }
    with open(f"annotations/{name}.json", "w") as handle:
        json.dump(data, handle)


write("first", {1: "person", 2: "car", 4: "dog"})
write("second", {1: "person", 2: "boat"})
with contextlib.redirect_stdout(io.StringIO()):
    COCO_Assistant("images", "annotations").merge()
    merged = COCO("results/merged/annotations/merged.json")
ids = [c["id"] for c in merged.dataset["categories"]]
dog, boat = merged.dataset["annotations"][2], merged.dataset["annotations"][4]
names = {key: [c["name"] for c in merged.dataset["categories"] if c["id"] == a["category_id"]]
         for key, a in (("dog", dog), ("boat", boat))}
name = merged.cats[dog["category_id"]]["name"]
print("class ids: expected 4 different ones, seen", ids)
print("names of the dog's and of the boat's id: expected one each, seen", names)
print("the dog's object by pycocotools: expected 'dog', seen", repr(name))
sys.exit(0 if ids == [1, 2, 4, 4] and names["dog"] == names["boat"] and name == "boat" else 1)
PY
