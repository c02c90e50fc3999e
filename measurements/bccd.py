"""Train FCOS on BCCD's trainval for a quarter of an hour and score its test split as time goes by.

    python measurements/bccd.py --data ../shared/data/bccd_voc \\
        --weights ../shared/data/weights/mobilenet_v2_imagenet.pth [--folder FOLDER] [OVERRIDE ...]

Runs `experiment=small_dataset`, then reads the run: AP after 2, 5, 10 and 15 minutes of training (without the
time of evaluations, as in metrics.csv), and pycocotools' own numbers for the last checkpoint's predictions.
`--folder` reads an existing run instead.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parents[1]
MINUTES = (2, 5, 10, 15)
SHOWN = ("AP", "AP50", "AP75", "mAP_voc07", "mAP_voc")


def minutes_and_scores(run: Path) -> list[tuple[int, float, dict[str, float]]]:
    """(step, minutes of training so far, scores) of each validation."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    every, batch = config["trainer"]["log_every_n_steps"], config["data"]["batch_size"]
    seconds, last, found = 0.0, 0, []
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(row["step"])
            if row["train/loss"]:
                seconds += min(every, step - last) * batch / float(row["images_per_s"])
                last = step
            elif row["val/AP"]:
                scores = {name[4:]: float(value) for name, value in row.items() if name.startswith("val/") and value}
                found.append((step, seconds / 60, scores))
    return found


def pycocotools_scores(run: Path, data: str) -> dict[str, float]:
    """pycocotools' scores of the last checkpoint's predictions."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = run / "last_scored"
    command = [sys.executable, str(ROOT / "evaluate.py"), f"checkpoint={run / 'checkpoints/last.ckpt'}"]
    subprocess.run([*command, f"output={folder}"], check=True)
    truth, predictions = COCO(), COCO()
    truth.dataset, names = voc_as_coco(Path(data), (Path(data) / "ImageSets/Main/test.txt").read_text().split(), run)
    truth.createIndex()
    predictions = truth.loadRes(json.loads((folder / "predictions.json").read_text()))
    judge = COCOeval(truth, predictions, "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    scores = dict(zip(("AP", "AP50", "AP75"), judge.stats[:3].tolist(), strict=True))
    precision = judge.eval["precision"][..., 0, 2]
    for k, name in enumerate(names):
        scores[f"AP {name}"], scores[f"AP50 {name}"] = (
            float(np.mean(p[p > -1])) for p in (precision[:, :, k], precision[0, :, k])
        )
    return scores


def voc_as_coco(data: Path, stems: list[str], run: Path) -> tuple[dict, list[str]]:
    """The annotations in COCO's form, read from the XML files independently of the project's reader."""
    import xml.etree.ElementTree as ElementTree

    names = yaml.safe_load((run / "config.yaml").read_text())["data"]["classes"]
    annotations = []
    for stem in stems:
        for item in ElementTree.parse(data / "Annotations" / f"{stem}.xml").iter("object"):
            box = [float(item.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax")]
            width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
            annotations.append({
                "id": len(annotations) + 1, "image_id": stem, "category_id": names.index(item.findtext("name")) + 1,
                "bbox": [box[0] - 1, box[1] - 1, width, height], "area": width * height, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    return {"images": [{"id": s} for s in stems], "annotations": annotations, "categories": categories}, names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    run = options.folder
    if run is None:
        command = [
            sys.executable, str(ROOT / "train.py"), "experiment=small_dataset", "name=bccd", "logger=csv",
            f"data.root={options.data}", "data.classes=[RBC,WBC,Platelets]",
            f"model.backbone.weights={options.weights}", *options.overrides,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        run = max(Path("runs/bccd").iterdir(), key=lambda path: path.stat().st_mtime)
    rows = minutes_and_scores(run)
    print("\n| minutes | step | " + " | ".join(SHOWN) + " |\n|---|---|" + "---|" * len(SHOWN))
    for limit in MINUTES:
        reached = [row for row in rows if row[1] <= limit + 0.1]
        if reached:
            step, minutes, scores = reached[-1]
            print(f"| {minutes:.1f} | {step} | " + " | ".join(f"{scores[name]:.3f}" for name in SHOWN) + " |")
    print(json.dumps(pycocotools_scores(run, options.data), indent=1))


if __name__ == "__main__":
    main()
