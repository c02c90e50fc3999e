#!/usr/bin/env bash
# Library:   coco-froc-analysis 0.2.15 (numpy 1.26.4; it asks for numpy < 2), froc_point.
# Expected:  its README: a detection is a hit where its centre lies in a ground truth box (or,
#            with use_iou, where the IoU passes the threshold). One far away from every object
#            is a false positive, and the object stays missed.
# Happens:   detections and objects of an image are paired by a minimal-cost assignment, in
#            which pairs that don't meet the rule cost much. They are paired all the same
#            where nothing better is left, and every pair counts as a hit: the cost isn't
#            looked at afterwards. In an image with an object, any box anywhere is a true
#            positive, as many as there are objects.
# Output:    one object, one detection in the opposite corner of the image
#            use_iou=False: expected hits 0, false 1; seen hits 1, false 0
#            use_iou=True:  expected hits 0, false 1; seen hits 1, false 0
# Hurts:     sensitivity says for how many objects the image has any box of the class: with
#            enough boxes anywhere it is 100 %, and false positives only show up in images
#            without objects or beyond their number. Sensitivities from it can't be
#            compared with recall from a COCO evaluator (0 here).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet coco-froc-analysis==0.2.15 numpy==1.26.4
cd "$work"
export MPLCONFIGDIR="$work" MPLBACKEND=Agg
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from coco_froc_analysis.froc.froc_curve import froc_point

print("coco-froc-analysis", version("coco-froc-analysis"))
truth = {
    "images": [{"id": 1, "file_name": "a.png", "width": 500, "height": 500}],
    "categories": [{"id": 1, "name": "lesion"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600,
         "iscrowd": 0}
    ],
}
found = [{"image_id": 1, "category_id": 1, "bbox": [440, 440, 40, 40], "score": 0.9}]
same = True
for use_iou in (False, True):
    stats = froc_point(truth, found, score_thres=0.5, use_iou=use_iou, iou_thres=0.5)[1]
    print(f"use_iou={use_iou}: expected hits 0, false 1; seen hits {stats['LL']}, false {stats['NL']}")
    same = same and (stats["LL"], stats["NL"]) == (1, 0)
sys.exit(0 if same else 1)
PY
