#!/usr/bin/env bash
# Library:   ensemble-boxes 1.0.9 (numpy 2.4.6), soft_nms.
# Expected:  Soft-NMS (Bodla et al. 2017) keeps overlapping boxes, but with a lowered
#            score: with the linear rule score x (1 - IoU), with the Gaussian rule
#            score x exp(-IoU^2 / sigma). The function's docstring says that it returns
#            confidence scores, and calls `thresh` a threshold that matters for Soft-NMS.
# Happens:   the lowered scores only decide what falls below `thresh`; what is returned
#            are the scores that went in. By the default threshold of 0.001 hardly a box
#            falls away, so that the result is the input, duplicates at full confidence.
# Output:    linear:   expected [0.9, 0.0615], seen [0.9, 0.8]
#            Gaussian: expected [0.9, 0.1455], seen [0.9, 0.8]
# Hurts:     fusing detections with it (folds, flips, scales) passes every duplicate to the
#            evaluator at full score: each is a false positive, ranked as before, as
#            without any suppression. No warning.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ensemble-boxes==1.0.9 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import math
import sys
from importlib.metadata import version

import numpy as np
from ensemble_boxes import soft_nms

print("ensemble-boxes", version("ensemble-boxes"), "numpy", version("numpy"))
box_a, box_b = [0.0, 0.0, 0.5, 0.5], [0.02, 0.0, 0.52, 0.5]
iou = 0.48 / 0.52  # both 0.5 wide and high, shifted by 0.02
same = True
for name, method, decay in (
    ("linear", 1, 1 - iou),
    ("Gaussian", 2, math.exp(-(iou**2) / 0.5)),
):
    boxes, scores, labels = soft_nms(
        [np.array([box_a, box_b])], [np.array([0.9, 0.8])], [np.array([0, 0])],
        method=method, iou_thr=0.5, sigma=0.5, thresh=0.001,
    )
    expected = [0.9, 0.8 * decay]
    print(f"{name}: expected {np.round(expected, 4).tolist()}, seen {scores.tolist()}")
    same = same and scores.tolist() == [0.9, 0.8]
sys.exit(0 if same else 1)
PY
