#!/usr/bin/env bash
# Library:   globox 2.9.0 against pycocotools 2.0.11 (numpy 2.4.6), COCOEvaluator's AP by size.
# Expected:  its docstring offers "the standard COCO metrics", its README COCO evaluation: the
#            numbers of pycocotools. There, a detection that matches an object outside the
#            size range is set aside.
# Happens:   the search over objects stops at the first one outside the range as soon as any
#            object inside it was looked at, even one of IoU 0. pycocotools stops only once
#            an object was really matched. A right detection whose own area lies in another
#            range than its object's is then unmatched and counts as a false positive.
#            AP, AP50 and AP75 over all sizes are right.
# Output:    AP: expected 1.0, seen 1.0
#            AP_medium: expected 1.0, seen 0.5
# Hurts:     AP_small, AP_medium and AP_large are too low wherever images hold objects on
#            both sides of a border (32 x 32, 96 x 96) in one class. As the overall AP agrees with
#            pycocotools, nobody checks the others; "weak on medium
#            objects" is then an artefact of the evaluator.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet globox==2.9.0 pycocotools==2.0.11 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json
import sys
from importlib.metadata import version

from globox import AnnotationSet, COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("globox", version("globox"), "pycocotools", version("pycocotools"))
# One medium object, and far from it one of 97 x 97 (large) that is found as 95 x 95 (medium).
objects = [[10, 10, 50, 50], [200, 200, 97, 97]]
found = [([10, 10, 50, 50], 0.8), ([201, 201, 95, 95], 0.9)]
data = {
    "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 400}],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": b, "area": b[2] * b[3],
         "iscrowd": 0, "segmentation": []}
        for i, b in enumerate(objects)
    ],
}
results = [{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in found]
with open("truth.json", "w") as handle:
    json.dump(data, handle)
with open("found.json", "w") as handle:
    json.dump(results, handle)

truth = COCO("truth.json")
official = COCOeval(truth, truth.loadRes(results), "bbox")
official.evaluate()
official.accumulate()
official.summarize()
expected = [round(float(official.stats[i]), 4) for i in (0, 4)]

ground = AnnotationSet.from_coco("truth.json")
evaluator = COCOEvaluator(ground_truths=ground, predictions=ground.from_results("found.json"))
seen = [round(float(evaluator.ap()), 4), round(float(evaluator.ap_medium()), 4)]
for name, right, value in zip(("AP", "AP_medium"), expected, seen):
    print(f"{name}: expected {right}, seen {value}")
sys.exit(0 if expected[0] == seen[0] and expected[1] == 1.0 and seen[1] < 0.6 else 1)
PY
