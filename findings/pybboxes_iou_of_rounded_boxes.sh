#!/usr/bin/env bash
# Library:   pybboxes 0.2.0 against pycocotools 2.0.11 (numpy 2.4.6), compute_iou on COCO boxes.
# Expected:  its README: computations on boxes in COCO's format, which are floats (the official
#            files have hundredths of a pixel); compute_iou says it gives the IoU, its annotated
#            type allows floats. The README names rounding once, for what its examples print.
# Happens:   x, y, width and height are each rounded to whole pixels before anything is computed,
#            and the area of the intersection is cut to a whole number. For YOLO's boxes the
#            corners are rounded alike, with the image's size.
# Output:    boxes of 3.4 and 3.6 pixels that begin 0.2 apart: expected 0.7171, seen 0.1905
#            boxes of 30 x 3.5 that all but coincide: expected 0.9930, seen 0.7073
#            boxes that do not touch, 0.2 apart: expected 0.0, seen 0.1111
# Hurts:     matches and suppression of small or thin objects go the wrong way at any threshold,
#            while the values look like ordinary IoUs; large boxes hide it.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pycocotools==2.0.11
# Its own pins (numpy 1.24.2) are not needed for boxes and would shut out newer Pythons.
"$work/venv/bin/pip" install --quiet --no-deps pybboxes==0.2.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from pybboxes.functional import compute_iou
from pycocotools import mask

print("pybboxes", version("pybboxes"), "pycocotools", version("pycocotools"))
pairs = {
    "begin 0.2 apart": ([10.4, 10.4, 3.4, 3.4], [10.6, 10.6, 3.6, 3.6]),
    "all but the same": ([10.49, 10.0, 30.0, 3.49], [10.51, 10.0, 30.0, 3.51]),
    "do not touch": ([9.6, 10.0, 4.6, 4.0], [14.4, 10.0, 4.6, 4.0]),
}
seen, expected = {}, {}
for name, (a, b) in pairs.items():
    expected[name] = float(mask.iou(np.array([a]), np.array([b]), [0])[0, 0])
    seen[name] = float(compute_iou(a, b, bbox_type="coco"))
    print(f"{name}: expected {expected[name]:.4f}, seen {seen[name]:.4f}")
ok = all(abs(seen[n] - expected[n]) > 0.1 for n in pairs)
sys.exit(0 if ok else 1)
PY
