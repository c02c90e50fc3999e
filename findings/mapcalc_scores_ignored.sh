#!/usr/bin/env bash
# Library:   mapcalc 0.2.2 (numpy 2.4.6), calculate_map.
# Expected:  its README: the mAP "defined in the PASCAL VOC 2012 competition", computed from
#            boxes, labels and scores. There, detections are ranked by their score, the most
#            confident first; the order of the list means nothing.
# Happens:   `scores` is only checked for its length and never read. Precision and recall are
#            counted along the list as it was handed over. The same detections in another order
#            have another mAP; another set of scores has the same.
# Output:    one object; a sure hit (0.9) and an unsure false alarm (0.1)
#            sure one first: expected 1.0, seen 1.0
#            sure one last:  expected 1.0, seen 0.5
#            a bad detector, whose sure box is wrong, hit listed first: expected 0.5, seen 1.0
# Hurts:     a detector whose boxes are not sorted (after merging of tiles, of scales, of classes,
#            of several models) is scored too low, one that sorts by anything else by chance;
#            the effect of re-scoring or calibration can't be seen at all.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mapcalc==0.2.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from mapcalc import calculate_map

print("mapcalc", version("mapcalc"))
hit, miss = [10.0, 10.0, 60.0, 60.0], [200.0, 200.0, 250.0, 250.0]
truth = {"boxes": [hit], "labels": [1]}


def seen(boxes, scores):
    found = {"boxes": boxes, "labels": [1, 1], "scores": scores}
    return float(calculate_map(truth, found, 0.5))


first = seen([hit, miss], [0.9, 0.1])
last = seen([miss, hit], [0.1, 0.9])
bad = seen([hit, miss], [0.1, 0.9])
print("sure hit first: expected 1.0, seen", first)
print("sure hit last: expected 1.0, seen", last)
print("sure false alarm, hit listed first: expected 0.5, seen", bad)
sys.exit(0 if (first, last, bad) == (1.0, 0.5, 1.0) else 1)
PY
