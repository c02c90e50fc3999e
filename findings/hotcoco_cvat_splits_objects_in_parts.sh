#!/usr/bin/env bash
# Library:   hotcoco 1.3.0 (numpy 2.4.6), COCO.to_cvat and COCO.from_cvat.
# Expected:  an object stays one object on its way to CVAT. COCO's page of the format says that one
#            object may need several polygons, if something covers its middle; CVAT has a
#            group for shapes that belong together. hotcoco's own VOC and YOLO exports keep one.
#            The docstring: polygon segmentations become polygon elements.
# Happens:   every polygon becomes a shape of its own, without a group, and the box is dropped
#            where there is a polygon. Read back (or exported by CVAT) the parts are separate
#            objects, each with its own small box. A crowd without polygons becomes an ordinary box,
#            with no count of it (the VOC export counts its crowds as difficult).
# Output:    a car behind a pole, two polygons, and a crowd: expected 1 object and 1 crowd,
#            seen 3 objects and 0 crowds
#            boxes of the car: expected [[10, 20, 100, 40]],
#            seen [[10, 20, 40, 40], [70, 20, 40, 40]]
#            best IoU of the car's old box with a new one: expected 1.0, seen 0.4
# Hurts:     whatever stands behind a pole, a table or another object is cut up. After a round of
#            corrections in CVAT a detector learns the parts; one that finds the whole car has
#            missed two objects and raised a false alarm.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet hotcoco==1.3.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from hotcoco import COCO, mask

print("hotcoco", version("hotcoco"))
before = COCO({
    "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 200}],
    "categories": [{"id": 1, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 100, 40], "area": 3200,
         "iscrowd": 0, "segmentation": [[10, 20, 50, 20, 50, 60, 10, 60],
                                        [70, 20, 110, 20, 110, 60, 70, 60]]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 100, 100, 80], "area": 8000,
         "iscrowd": 1, "segmentation": {"size": [200, 200], "counts": [4100, 8000, 27900]}},
    ],
})
before.to_cvat("a.xml")
after = COCO.from_cvat("a.xml").dataset["annotations"]
crowds = sum(a["iscrowd"] for a in after)
car = [[int(v) for v in a["bbox"]] for a in after if a["bbox"][1] < 90]
overlap = max(mask.bbox_iou([[10, 20, 100, 40]], [list(map(float, b)) for b in car], [False] * len(car))[0])
print(f"expected 1 object and 1 crowd, seen {len(after) - crowds} objects and {crowds} crowds")
print("boxes of the car: expected [[10, 20, 100, 40]], seen", car)
print(f"best IoU with the car's own box: expected 1.0, seen {overlap:.2f}")
ok = len(after) == 3 and crowds == 0 and car == [[10, 20, 40, 40], [70, 20, 40, 40]]
sys.exit(0 if ok else 1)
PY
