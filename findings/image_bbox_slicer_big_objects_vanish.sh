#!/usr/bin/env bash
# Library:   image_bbox_slicer 0.4 (numpy 2.4.6), Slicer.slice_bboxes_by_size.
# Expected:  with keep_partial_labels = True, whose docstring says that the slicer keeps
#            "labels that are partly in a tile", a tile that an object reaches into has a box for it.
# Happens:   an object is looked for by its four corners. Where none of them lies in the tile
#            (the object covers the tile, or crosses it from side to side) the tile gets no box.
#            The note in the code names "none of them" as a case and takes it for "not there".
# Output:    600 x 600 cut into 9 tiles, one object from (50, 50) to (550, 550)
#            tiles that show it: 9; tiles with a box: expected 9, seen 4
#            the tile in the middle is all object: expected [0, 0, 200, 200], seen no box
# Hurts:     with the default ignore_empty_tiles these tiles are thrown away, so that the set
#            lacks the inside of every big object; with False they become background with the
#            object all over them, and a detector is trained to be silent on it. Aerial and
#            microscopy images, for which one cuts tiles, are full of such objects.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet image_bbox_slicer==0.4 numpy==2.4.6 pillow==13.0.0 pascal-voc-writer==0.1.4
mkdir "$work/images" "$work/labels"
cd "$work"
export MPLCONFIGDIR="$work" MPLBACKEND=Agg
"$work/venv/bin/python" -W ignore - <<'PY'
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import image_bbox_slicer as ibs
from pascal_voc_writer import Writer
from PIL import Image

print("image_bbox_slicer", version("image_bbox_slicer"))
here = Path.cwd()
Image.new("RGB", (600, 600)).save("images/a.png")
writer = Writer(str(here / "images" / "a.png"), 600, 600)
writer.addObject("field", 50, 50, 550, 550)
writer.save("labels/a.xml")

slicer = ibs.Slicer()
slicer.config_dirs(
    img_src=str(here / "images"), ann_src=str(here / "labels"),
    img_dst=str(here / "cut_images"), ann_dst=str(here / "cut_labels"),
)
slicer.keep_partial_labels = True
slicer.ignore_empty_tiles = False
slicer.slice_by_size(tile_size=(200, 200))
boxes = []
for path in sorted(Path("cut_labels").glob("*.xml")):
    boxes.append([[int(v.text) for v in o.find("bndbox")] for o in ET.parse(path).getroot().iter("object")])
with_box = [bool(b) for b in boxes]
print(f"tiles {len(boxes)}; with a box: expected 9, seen {sum(with_box)}")
print("the tile in the middle: expected [[0, 0, 200, 200]], seen", boxes[4])
sys.exit(0 if len(boxes) == 9 and sum(with_box) == 4 and boxes[4] == [] else 1)
PY
