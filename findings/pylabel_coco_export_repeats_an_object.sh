#!/usr/bin/env bash
# Library:   pylabel 0.1.55 (pandas 2.3.3), ImportCoco followed by ExportToCoco.
# Expected:  the export holds the annotations of the import, each once; an image without
#            objects, which COCO allows and which background images are, adds an image and no
#            annotation. (The exporter's own comment says that there is none to add.)
# Happens:   the row of such an image writes the annotation of the row before it once more:
#            same image, same id, same box. The class that decides whether there is something to
#            write is left over from the row before. Each background image repeats an object.
# Output:    images 1 to 4, objects in 1 and 4: expected 2 annotations, seen 4
#            their ids: expected 2 different ones, seen [0, 0, 0, 3]
#            their images: expected [1, 4], seen [1, 1, 1, 4]
# Hurts:     background images are added against false alarms; here each adds one more copy of
#            an object. Training weighs it several times, an evaluation counts a perfect
#            detector's object as found once and missed twice, and ids are no longer unique.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pylabel==0.1.55 pandas==2.3.3 numpy==2.4.6
cd "$work"
export MPLCONFIGDIR="$work" MPLBACKEND=Agg
"$work/venv/bin/python" -W ignore - <<'PY' 2>"$work/progress"
import json
import sys
from importlib.metadata import version

from pylabel import importer

print("pylabel", version("pylabel"))
data = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in (1, 2, 3, 4)],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
    "annotations": [
        {"id": k, "image_id": image, "category_id": 1, "bbox": [10 * k, 10, 20, 20], "area": 400,
         "iscrowd": 0, "segmentation": []}
        for k, image in ((1, 1), (2, 4))
    ],
}
with open("in.json", "w") as handle:
    json.dump(data, handle)
importer.ImportCoco("in.json").export.ExportToCoco("out.json")
with open("out.json") as handle:
    out = json.load(handle)
ids = [a["id"] for a in out["annotations"]]
images = [a["image_id"] for a in out["annotations"]]
print(f"images: expected 4, seen {len(out['images'])}")
print(f"annotations: expected 2, seen {len(ids)}; their ids {ids}, their images {images}")
same = all(a["bbox"] == [10, 10, 20, 20] for a in out["annotations"] if a["image_id"] == 1)
sys.exit(0 if len(out["images"]) == 4 and images == [1, 1, 1, 4] and ids[0] == ids[1] and same else 1)
PY
