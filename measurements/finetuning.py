"""Measure the ways of docs/finetuning.md on BCCD: AP and time of training after equally many steps.

    python measurements/finetuning.py --bccd ../shared/data/bccd_voc --coco ../shared/data/coco_small \\
        --weights ../shared/data/weights/mobilenet_v2_imagenet.pth [--folder FOLDER] [--seeds 0 1 2]

Trains a stand-in for a detector of COCO on 128 images, then the recipe small_dataset from ImageNet's trunk and from
the stand-in, with a backbone that trains, is frozen, or is frozen at first; last a few steps with rates by layer, which
need timm. Runs that are finished in FOLDER are not repeated. Seconds are those in steps, without validations; processor
seconds are those of the whole process and its workers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS, FROZEN = 160, 40
SIZE = ["data.resize=192", "data.num_workers=1", "logger=csv", "callbacks.pictures.num_fixed=0", "~callbacks.report"]
STAND_IN = [
    "experiment=overfit", "data.train_split=train", "trainer.max_steps=300", "trainer.val_check_interval=300",
    "callbacks.pictures.num_worst=0", *SIZE,
]  # fmt: skip
CELLS = [
    "experiment=small_dataset", "data.classes=[RBC,WBC,Platelets]", f"trainer.max_steps={STEPS}",
    "trainer.val_check_interval=80", "schedule.warmup_steps=20", "callbacks.pictures.num_worst=0", *SIZE,
]  # fmt: skip
FREEZE = "callbacks.freezing.parts=[backbone]"
BY_LAYER = [
    "model/backbone=timm", "model.backbone.name=test_convnext", "model.backbone.weights=null",
    "optimizer.backbone_layer_decay=0.8", "trainer.max_steps=20", "trainer.val_check_interval=20",
]  # fmt: skip


def train(folder: Path, name: str, overrides: list[str]) -> Path:
    """The finished run of this name: found, or trained anew; `cpu.json` in it has its processor seconds."""
    for run in sorted((folder / "runs" / name).glob("*")):
        if (run / "cpu.json").exists():
            return run
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(ROOT / "train.py"), f"name={name}", *overrides], cwd=folder, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = sorted((folder / "runs" / name).glob("*"))[-1]
    (run / "cpu.json").write_text(json.dumps(after.ru_utime - before.ru_utime))
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bccd", "coco", "weights"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--folder", type=Path, default=Path("finetuning"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trunk = f"model.backbone.weights={given.weights.absolute()}"
    stand_in = train(folder, "stand_in", [*STAND_IN, f"data.root={given.coco.absolute()}", trunk])
    start = f"init_from={stand_in / 'checkpoints' / 'best.ckpt'}"
    ways = {
        "imagenet": [trunk],
        "detector": [start],
        "frozen": [start, FREEZE],
        "frozen_at_first": [start, FREEZE, f"callbacks.freezing.until_step={FROZEN}"],
        "imagenet_frozen": [trunk, FREEZE],
    }
    cells = [*CELLS, f"data.root={given.bccd.absolute()}"]
    print("| start | seed | AP | AP50 | seconds in steps | processor seconds |\n|---|---|---|---|---|---|")
    rows: list[str] = []
    for seed in given.seeds:
        for way, overrides in ways.items():
            run = train(folder, f"{way}_{seed}", [*cells, *overrides, f"seed={seed}"])
            told = json.loads((run / "finished.json").read_text())
            cpu = json.loads((run / "cpu.json").read_text())
            rows.append(
                f"| {way} | {seed} | {told['val']['AP']:.3f} | {told['val']['AP50']:.3f} | {told['train_seconds']:.0f} "
                f"| {cpu:.0f} |"
            )
    train(folder, "by_layer", [*cells, *BY_LAYER])
    print("\n".join(rows))


if __name__ == "__main__":
    main()
