#!/usr/bin/env bash
# Library:   hotcoco 1.3.0 (numpy 2.4.6), COCOeval.confusion_matrix.
# Expected:  as everywhere else in the same package, which has pycocotools' numbers: a detection
#            inside a crowd region (iscrowd 1) is set aside, it is neither right nor wrong.
#            The docstring calls what lands in the background row false positives.
# Happens:   crowds are left out of the objects, the detections on them are not: each is an
#            unmatched detection, so a false positive of the background row. tide_errors(),
#            calibration() and image_diagnostics() of the same object count none of them.
# Output:    an object that is found, a crowd with three detections on it; AP 1.0
#            false positives by TIDE (all kinds together): expected 0, seen 0
#            false positives by image_diagnostics: expected 0, seen 0
#            false positives by the confusion matrix: expected 0, seen 3
# Hurts:     on images with crowds the matrix says that the detector sees persons in the
#            background, and the better it finds the single ones in a crowd, the worse it
#            looks beside its own AP. No parameter excludes them.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet hotcoco==1.3.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io
import sys
from importlib.metadata import version

from hotcoco import COCO, COCOeval

print("hotcoco", version("hotcoco"))


def thing(number, box, crowd):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": box,
            "area": box[2] * box[3], "iscrowd": crowd}


truth = COCO({
    "images": [{"id": 1, "file_name": "a.png", "width": 300, "height": 300}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [thing(1, [10, 10, 60, 60], 0), thing(2, [100, 100, 180, 180], 1)],
})
boxes = [[10, 10, 60, 60], [110, 110, 40, 40], [160, 160, 40, 40], [220, 220, 40, 40]]
found = truth.load_res([
    {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - 0.1 * k}
    for k, box in enumerate(boxes)
])
result = COCOeval(truth, found, "bbox")
with contextlib.redirect_stdout(io.StringIO()):
    result.run()
ap = result.get_results()["AP"]
errors = result.tide_errors()["counts"]
tide = sum(number for kind, number in errors.items() if kind != "Miss")
diagnostics = result.image_diagnostics()["img_summary"][1]["fp"]
matrix = int(result.confusion_matrix()["matrix"][-1, 0])
print(f"AP: expected 1.0, seen {ap:.3f}")
print(f"false positives by TIDE: expected 0, seen {tide}; by image_diagnostics: expected 0, seen {diagnostics}")
print(f"false positives by the confusion matrix: expected 0, seen {matrix}")
sys.exit(0 if ap > 0.999 and (tide, diagnostics, matrix) == (0, 0, 3) else 1)
PY
