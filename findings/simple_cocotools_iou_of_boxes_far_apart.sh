#!/usr/bin/env bash
# Library:   simple-cocotools 1.0.2 (numpy 2.4.6, scipy 1.17.1), CocoEvaluator on boxes.
# Expected:  its README: "a simple, modern alternative to pycocotools", with a table of box mAP
#            beside the official values. The IoU of two boxes is intersection over union, 0 for
#            boxes that do not touch.
# Happens:   the overlaps in x and in y are multiplied before they are cut at 0, so that two
#            negative ones make a positive intersection; and the "union" is the area of the
#            smallest box around both. Two boxes that lie diagonally apart have an IoU that
#            grows with their distance, towards 1. Boxes that do overlap get too low an IoU.
# Output:    IoU of boxes in opposite corners of 500 x 500: expected 0.0, seen 0.6944
#            IoU of 10 x 10 boxes shifted by (2, 2): expected 0.4706, seen 0.4444
#            mAP and mAR of a detection in the wrong corner: expected 0.0, seen 0.4 and 0.4
# Hurts:     a detector that puts a box anywhere gets a good score, on small objects in large
#            images most of all; matching of several objects pairs the wrong ones.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet simple-cocotools==1.0.2 numpy==2.4.6 scipy==1.17.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from simple_cocotools import CocoEvaluator
from simple_cocotools.detections import Detection, box_iou

print("simple-cocotools", version("simple-cocotools"), "scipy", version("scipy"))


def real_iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def seen_iou(a, b):
    return float(box_iou(Detection(1, np.array(a, float)), Detection(1, np.array(b, float))))


corner, other = [10, 10, 50, 50], [450, 450, 490, 490]
near = ([0, 0, 10, 10], [2, 2, 12, 12])
print(f"opposite corners: expected {real_iou(corner, other):.4f}, seen {seen_iou(corner, other):.4f}")
print(f"shifted by (2, 2): expected {real_iou(*near):.4f}, seen {seen_iou(*near):.4f}")

truth = {"boxes": np.array([corner], float), "labels": np.array([1])}
found = {"boxes": np.array([other], float), "labels": np.array([1]), "scores": np.array([0.9])}
evaluator = CocoEvaluator()
evaluator.update([found], [truth])
box = evaluator.summarize(verbose=False)["box"]
print(f"mAP: expected 0.0, seen {float(box['mAP']):.4f}; mAR: expected 0.0, seen {float(box['mAR']):.4f}")
sys.exit(0 if seen_iou(corner, other) > 0.5 and seen_iou(*near) < 0.46 and box["mAP"] > 0.3 else 1)
PY
