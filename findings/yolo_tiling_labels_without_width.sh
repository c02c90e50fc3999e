#!/usr/bin/env bash
# Library:   yolo-tiling 0.0.31 (shapely 2.1.2, numpy 2.4.6), YoloTiler on YOLO boxes.
# Expected:  its README: cuts images and their labels into tiles; with
#            include_negative_samples=False, tiles without any instance are left out. An object
#            that ends exactly where a tile begins is not in that tile.
# Happens:   a tile counts an object as its own if the two touch. What they share is then a line,
#            which is written as a box of width (or height) 0, and the tile is kept as one that
#            has an object. Where they touch in a single point, at a corner of four tiles, the
#            run ends with an AttributeError of a geometry without an outline.
# Output:    640 x 640 in tiles of 320; an object from (160, 50) to (320, 270), its right side
#            on the border of two tiles
#            tiles kept: expected 1, seen 2
#            labels of the tile on the right: expected [], seen ['0 0.000000 0.500000 0.000000 0.687500']
#            an object that fills the upper left tile exactly: expected 1 label, seen AttributeError
# Hurts:     objects that are aligned to a grid or to tiles are common in synthetic data, in maps
#            and where a tiled set is tiled once more. Boxes of no area are refused by loaders or
#            give a loss by IoU nothing to divide by; tiles of pure background, which were
#            to be left out, come in as positive ones.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet yolo-tiling==0.0.31 numpy==2.4.6 shapely==2.1.2
cd "$work"
export MPLCONFIGDIR="$work" MPLBACKEND=Agg
"$work/venv/bin/python" -W ignore - <<'PY' 2>"$work/progress"
import contextlib
import io
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from yolo_tiler import TileConfig, YoloTiler

print("yolo-tiling", version("yolo-tiling"), "shapely", version("shapely"))


def tile(name, line):
    """The labels of each tile of a training image with one object."""
    for part in ("train", "valid", "test"):
        for kind in ("images", "labels"):
            Path(name, part, kind).mkdir(parents=True)
        Image.fromarray(np.zeros((640, 640, 3), np.uint8)).save(f"{name}/{part}/images/a.png")
        Path(name, part, "labels", "a.txt").write_text(line + "\n")
    Path(name, "data.yaml").write_text("names: [building]\nnc: 1\n")
    config = TileConfig(
        slice_wh=(320, 320), overlap_wh=(0.0, 0.0), annotation_type="object_detection",
        include_negative_samples=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        YoloTiler(source=name, target=f"{name}_out", config=config).run()
    files = sorted(Path(f"{name}_out", "train", "labels").glob("*.txt"))
    return {file.stem.removeprefix("a__"): file.read_text().splitlines() for file in files}


side = tile("side", "0 0.375 0.25 0.25 0.34375")
right = side.get("320_0_320_320", [])
print(f"tiles kept: expected 1, seen {len(side)}")
print("labels of the tile on the right: expected [], seen", right)
try:
    corner = f"{sum(map(len, tile('corner', '0 0.25 0.25 0.5 0.5').values()))} labels"
except AttributeError as error:
    corner = f"AttributeError: {error}"
print("an object that fills a tile: expected 1 label, seen", corner)
ok = len(side) == 2 and right == ["0 0.000000 0.500000 0.000000 0.687500"]
sys.exit(0 if ok and corner.startswith("AttributeError") else 1)
PY
