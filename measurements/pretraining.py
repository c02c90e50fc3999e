"""Measure the gain from pre-training: FCOS after 200 steps from a pre-trained and from a random backbone, three seeds.

    python measurements/pretraining.py [FOLDER]

Draws a folder of pictures with one of sixteen letters each, in any colour, font and place, trains a classifier on it,
then FCOS on pictures of several such letters six times, with the same settings but for `model.backbone.weights`. Runs
that are finished in FOLDER are not repeated, and interrupted ones are resumed. Exits with 1 unless AP50 is higher from
the pre-trained backbone with every seed.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

LETTERS = "ABCDEFGHJKLMNPRS"
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
SINGLE = {"train": 250, "val": 40}  # pictures of each letter
SEVERAL = {"train": 400, "val": 120}
SEEDS = (0, 1, 2)
SMALL = [
    "model/backbone=resnet18", "logger=csv", "scale_schedule=false", "trainer.precision=32-true", "data.num_workers=0",
    "trainer.accelerator=cpu", "callbacks.pictures.num_fixed=0", "callbacks.pictures.num_worst=0", "data.flip=0",
]  # fmt: skip
PRETRAIN = [
    *SMALL, "model=classifier", "data=imagefolder", f"data.num_classes={len(LETTERS)}", "data.resize=64",
    "data.crop_area=[0.8,1.0]", "data.batch_size=32", "optimizer=adamw", "model.lr=1.0e-3", "schedule=cosine",
    "schedule.warmup_steps=50", "trainer.max_steps=800", "trainer.val_check_interval=200",
]  # fmt: skip
DETECT = [
    *SMALL, "model=fcos", "data=coco", "data.train_split=train", "data.val_split=val", "data.test_split=val",
    f"data.num_classes={len(LETTERS)}", "data.resize=128", "data.batch_size=8", "optimizer=adamw",
    "model.lr=5.0e-4", "schedule=cosine", "schedule.warmup_steps=50", "model.backbone.norm=bn",
    "model.backbone.frozen_stages=0", "model.pyramid_channels=128", "model.num_convs=2",
    "model.loss.center_sampling=1.5", "model.loss.box_loss=giou", "model.normalize_targets=true",
    "model.centerness_on_box=true",
    "trainer.gradient_clip_val=10", "trainer.max_steps=200", "trainer.val_check_interval=100",
]  # fmt: skip


def background(size: int, random: np.random.Generator) -> np.ndarray:
    cloud = cv2.resize(random.random((6, 6, 3), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = random.standard_normal((size, size, 3), np.float32) * random.uniform(2, 8)
    return (random.uniform(40, 200, 3) + 50 * (cloud - 0.5) + grain).clip(0, 255).astype(np.uint8)


def draw(image: np.ndarray, letter: str, left: int, top: int, height: float, random: np.random.Generator) -> list[int]:
    """A letter in a colour that stands out; x, y, width and height of its pixels."""
    font, scale = FONTS[random.integers(len(FONTS))], height / 22
    (width, rise), _ = cv2.getTextSize(letter, font, scale, 2)
    mask = np.zeros(image.shape[:2], np.uint8)
    turn = cv2.getRotationMatrix2D((left + width / 2, top + rise / 2), random.uniform(-15, 15), 1)
    cv2.putText(mask, letter, (left, top + rise), font, scale, 255, int(random.integers(1, 4)), cv2.LINE_AA)
    mask = cv2.warpAffine(mask, turn, mask.shape[::-1])
    ground = image[mask > 0].mean(axis=0)
    colour = max(random.uniform(0, 255, (4, 3)), key=lambda c: np.abs(c - ground).sum())
    image[:] = image + (mask[..., None] / 255) * (colour - image)
    return [int(v) for v in cv2.boundingRect((mask > 127).astype(np.uint8))]


def draw_single(root: Path) -> None:
    for part, (split, number) in enumerate(SINGLE.items()):
        for label, letter in enumerate(LETTERS):
            (root / split / letter).mkdir(parents=True)
            for i in range(number):
                random = np.random.default_rng((part, label, i))
                image, height = background(64, random), random.uniform(20, 36)
                left, top = random.integers(4, 60 - int(height), 2).tolist()
                draw(image, letter, left, top, height, random)
                cv2.imwrite(str(root / split / letter / f"{i}.png"), image)


def draw_several(root: Path) -> None:
    """Up to six letters in the cells of a grid, as COCO JSON."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": label, "name": letter} for label, letter in enumerate(LETTERS)]
    for part, (split, number) in enumerate(SEVERAL.items()):
        (root / split).mkdir()
        images, boxes = [], []
        for i in range(number):
            random = np.random.default_rng((9, part, i))
            image = background(128, random)
            for cell in random.permutation(9)[: random.integers(2, 7)].tolist():
                label, height = int(random.integers(len(LETTERS))), random.uniform(16, 30)
                left, top = (int(random.integers(4, 44 - height)) + 42 * place for place in (cell % 3, cell // 3))
                box = draw(image, LETTERS[label], left, top, height, random)
                boxes.append({"id": len(boxes) + 1, "image_id": i, "category_id": label, "bbox": box, "iscrowd": 0,
                              "area": box[2] * box[3]})  # fmt: skip
            cv2.imwrite(str(root / split / f"{i}.png"), image)
            images.append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 128})
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def train(folder: Path, name: str, overrides: list[str]) -> Path:
    """The finished run of this name: found, resumed or trained."""
    runs = sorted((folder / "runs" / name).glob("*"))
    if not (runs and (runs[-1] / "finished.json").exists()):
        command = [f"resume={runs[-1]}"] if runs else [f"name={name}", *overrides]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *command], cwd=folder, check=True)
    return sorted((folder / "runs" / name).glob("*"))[-1]


def validations(run: Path) -> dict[int, dict[str, float]]:
    """Scores of each validation by step."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    return {int(row["step"]): {k.removeprefix("val/"): float(v) for k, v in row.items() if v} for row in rows}


def check_arrival(pretrained: Path) -> None:
    """Checks that the backbone's tensors arrive in a detector bit for bit."""
    from detectors.backbones.resnet import ResNet

    stored = torch.load(pretrained, weights_only=True)["state_dict"]
    arrived = ResNet(18, weights=str(pretrained), norm="bn", frozen_stages=0).state_dict()
    assert all(torch.equal(value, stored[f"network.backbone.{name}"]) for name, value in arrived.items())
    print(f"{len(arrived)} tensors of the backbone arrive unchanged")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pretraining").absolute()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, drawn in (("single", draw_single), ("several", draw_several)):
        if not (folder / name).exists():
            part = folder / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            drawn(part)
            part.rename(folder / name)
    classifier = train(folder, "classifier", [*PRETRAIN, f"data.root={folder / 'single'}"])
    best = classifier / "checkpoints" / "best.ckpt"
    check_arrival(best)
    found: dict[tuple[str, int], dict[int, dict[str, float]]] = {}
    for seed in SEEDS:
        for start, weights in (("noise", "null"), ("backbone", str(best))):
            overrides = [
                *DETECT,
                f"seed={seed}",
                f"data.root={folder / 'several'}",
                f"model.backbone.weights={weights}",
            ]
            found[start, seed] = validations(train(folder, f"{start}{seed}", overrides))
    print(f"\nclassifier: top-1 {max(v['top1'] for v in validations(classifier).values()):.3f}\n")
    print("| seed | step | AP50 from noise | AP50 from the backbone | AP from noise | AP from the backbone |")
    print("|---|---|---|---|---|---|")
    for seed in SEEDS:
        for step, noise in found["noise", seed].items():
            backbone = found["backbone", seed][step]
            cells = (noise["AP50"], backbone["AP50"], noise["AP"], backbone["AP"])
            print(f"| {seed} | {step} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    last = ({start: found[start, seed][200]["AP50"] for start in ("noise", "backbone")} for seed in SEEDS)
    sys.exit(any(ap50["backbone"] <= ap50["noise"] for ap50 in last))


if __name__ == "__main__":
    main()
