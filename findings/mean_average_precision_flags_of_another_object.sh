#!/usr/bin/env bash
# Library:   mean-average-precision 2024.1.5.0 (numpy 2.4.6, pandas 3.1.1), MetricBuilder's
#            "map_2d", with its columns `difficult` and `crowd`.
# Expected:  by VOC's rules, which its description names (VOC PASCAL mAP), an object marked
#            difficult is neither to be found nor counted: a detector that finds the one
#            ordinary object first has AP 1, in whatever order the objects are listed.
# Happens:   two things. As soon as an image has two or more detections of a class, the
#            flags are laid out transposed: the n-th detection sees the flag of about the
#            n-th object in place of all objects' flags, so that a right detection of an
#            ordinary object is set aside as "on a difficult one". And difficult objects
#            stay in the number that recall is divided by.
# Output:    difficult object listed first: expected 1.0, seen 0.0
#            difficult object listed last:  expected 1.0, seen 0.5
#            no difficult object at all:    expected 1.0, seen 1.0
# Hurts:     on VOC2007 with its difficult objects the number is too low, and it changes
#            when a file lists its objects in another order. With all flags 0 the numbers
#            are right, so that a test on clean data finds nothing.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mean-average-precision==2024.1.5.0 numpy==2.4.6 pandas==3.1.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from mean_average_precision import MetricBuilder

print("mean-average-precision", version("mean-average-precision"))
# xmin, ymin, xmax, ymax, class, difficult, crowd
hard = [200, 200, 260, 260, 0, 1, 0]
plain = [10, 10, 80, 80, 0, 0, 0]
# xmin, ymin, xmax, ymax, class, score: the ordinary object, then a weak false positive
found = np.array([[10, 10, 80, 80, 0, 0.9], [400, 10, 450, 60, 0, 0.1]], dtype=float)


def ap(objects):
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=1)
    metric.add(found, np.array(objects, dtype=float))
    return float(metric.value(iou_thresholds=0.5)["mAP"])


seen = [ap([hard, plain]), ap([plain, hard]), ap([plain])]
for name, value in zip(("listed first", "listed last", "absent"), seen):
    print(f"difficult object {name}: expected 1.0, seen {value}")
sys.exit(0 if seen == [0.0, 0.5, 1.0] else 1)
PY
