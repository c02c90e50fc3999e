#!/usr/bin/env bash
# Library:   ensemble-boxes 1.0.9 (numpy 2.4.6), nms and soft_nms with `weights`.
# Expected:  a fuser returns its result and leaves its input alone, as weighted_boxes_fusion
#            and non_maximum_weighted of the same package do. The project's README calls
#            nms, soft_nms, non_maximum_weighted and weighted_boxes_fusion one after the
#            other on the same lists with the same weights, to compare them.
# Happens:   with `weights`, nms replaces the entries of the caller's score list by
#            score x weight / sum of weights. Each further call works on what the call
#            before left: the README's sequence compares the methods on different scores.
# Output:    scores before [[0.9], [0.8]], after nms [[0.6], [0.2667]]
#            weighted_boxes_fusion before nms 0.8667, after it 0.4889
#            nms once 0.6, twice 0.4
# Hurts:     scores of detections written or thresholded after the fusion are others than
#            the model gave; a sweep over iou_thr in a loop lowers the scores at every turn,
#            until a score threshold drops everything. The ranking between models changes
#            too, and AP with it. No warning. (Scores are only safe if each call gets a copy.)
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ensemble-boxes==1.0.9 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from ensemble_boxes import nms, weighted_boxes_fusion

print("ensemble-boxes", version("ensemble-boxes"), "numpy", version("numpy"))
boxes = [[[0.0, 0.0, 0.5, 0.5]], [[0.02, 0.0, 0.52, 0.5]]]
scores = [[0.9], [0.8]]
labels = [[0], [0]]
weights = [2, 1]


def plain(lists):
    return [np.round(np.asarray(one), 4).tolist() for one in lists]


def fuse():
    return float(weighted_boxes_fusion(boxes, scores, labels, weights=weights)[1][0])


fused = fuse()  # (0.9 x 2 + 0.8 x 1) / 3
untouched = plain(scores)
once = float(nms(boxes, scores, labels, iou_thr=0.5, weights=weights)[1][0])
left = plain(scores)
fused_again = fuse()
twice = float(nms(boxes, scores, labels, iou_thr=0.5, weights=weights)[1][0])

print(f"scores after nms: expected {untouched}, seen {left}")
print(f"weighted_boxes_fusion after nms: expected {fused:.4f}, seen {fused_again:.4f}")
print(f"nms a second time: expected {once:.4f}, seen {twice:.4f}")
ok = (
    untouched == [[0.9], [0.8]]
    and left == [[0.6], [0.2667]]
    and abs(fused - 2.6 / 3) < 1e-6
    and abs(fused_again - 0.488889) < 1e-4
    and abs(once - 0.6) < 1e-9
    and abs(twice - 0.4) < 1e-9
)
sys.exit(0 if ok else 1)
PY
