#!/usr/bin/env bash
# Library:   labelformat 0.1.17 against pycocotools 2.0.11 (numpy 2.4.6), its command line with
#            --output-format coco.
# Expected:  its README: converts "seamlessly" between popular formats, COCO among them. A COCO
#            file can be opened by COCO's own API and scored with it; the format's page gives
#            every object an id, an area and iscrowd.
# Happens:   annotations are written with image_id, category_id and bbox alone. COCO's API stops
#            at the first one (KeyError 'id'), as does what builds on it, torchvision's
#            CocoDetection for one. With ids added by hand, scoring stops at the missing iscrowd.
#            A COCO file that goes in with all of them, and with a crowd, comes out so too.
# Output:    keys of an object: expected id, area, iscrowd among them, seen bbox, category_id, image_id
#            COCO(file): expected 2 objects, seen KeyError 'id'
#            crowds: expected 1, seen 0
# Hurts:     who converts a set to COCO to train or to score with the usual tools can't; who adds
#            the keys with iscrowd 0 turns every crowd into an ordinary object.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet labelformat==0.1.17 pycocotools==2.0.11 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from pycocotools.coco import COCO

print("labelformat", version("labelformat"), "pycocotools", version("pycocotools"))
data = {
    "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 200}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 40], "area": 1200,
         "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [90, 90, 100, 100], "area": 8000,
         "iscrowd": 1, "segmentation": {"size": [200, 200], "counts": [18090, 8000, 13910]}},
    ],
}
Path("in.json").write_text(json.dumps(data))


def objects(path):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return f"{len(COCO(path).anns)} objects"
        except KeyError as error:
            return f"KeyError {error}"


subprocess.run(
    [str(Path(sys.executable).parent / "labelformat"), "convert", "--task", "object-detection",
     "--input-format", "coco", "--input-file", "in.json",
     "--output-format", "coco", "--output-file", "out.json"],
    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
out = json.loads(Path("out.json").read_text())["annotations"]
keys = sorted(out[0])
crowds = sum(a.get("iscrowd", 0) for a in out)
before, after = objects("in.json"), objects("out.json")
print("keys of an object: expected id, area and iscrowd among them, seen", ", ".join(keys))
print(f"opened by COCO's API: expected {before}, seen {after}")
print(f"crowds: expected 1, seen {crowds}")
ok = not {"id", "area", "iscrowd"} & set(keys) and before == "2 objects" and after == "KeyError 'id'"
sys.exit(0 if ok and crowds == 0 else 1)
PY
