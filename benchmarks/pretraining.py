"""What a detector gains from pre-training: FCOS after 200 steps from a pre-trained trunk and from noise, three seeds.

    python benchmarks/pretraining.py [FOLDER]

Draws a folder of pictures with one of five shapes each, trains a classifier on it, then FCOS on `data=shapes` six times
with the same settings but for `model.backbone.weights`. What is finished in FOLDER is not done again, and what was
interrupted goes on. One thread takes about ten minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))
from datamodules.shapes import CLASSES, Picture  # noqa: E402

SIZE, PER_CLASS = 64, {"train": 300, "val": 60}
SEEDS = (0, 1, 2)
SMALL = [
    "model/backbone=resnet18", "logger=csv", "scale_schedule=false", "trainer.precision=32-true", "data.num_workers=0",
    "trainer.accelerator=cpu", "callbacks.pictures.num_fixed=0", "callbacks.pictures.num_worst=0",
]  # fmt: skip
PRETRAIN = [
    *SMALL, "model=classifier", "data=imagefolder", f"data.num_classes={len(CLASSES)}", f"data.resize={SIZE}",
    "data.batch_size=32", "optimizer=sgd", "model.lr=0.05", "schedule=cosine", "schedule.warmup_steps=50",
    "trainer.max_steps=700", "trainer.val_check_interval=175",
]  # fmt: skip
DETECT = [
    *SMALL, "experiment=shapes_demo", "data.train_images=400", "data.val_images=160", "data.image_size=128",
    "data.resize=128", "data.batch_size=8", "trainer.max_steps=200", "trainer.val_check_interval=200",
]  # fmt: skip


def draw_folder(root: Path) -> None:
    """One shape an image, anywhere and of any size, on the backgrounds that `data=shapes` has in that split."""
    if root.exists():
        return
    part = root.with_name(f".{root.name}.part")
    for number, (split, images) in enumerate(PER_CLASS.items()):
        for label, name in enumerate(CLASSES):
            (part / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(images):
                random = np.random.default_rng((7, number, label, i))
                picture = Picture(SIZE, number, random)
                radius = random.uniform(10, 26)
                while not picture.add(label, random.uniform(radius, SIZE - radius, 2), radius, random.uniform(0, 6.3)):
                    pass
                cv2.imwrite(str(part / split / name / f"{i}.png"), picture.pixels.clip(0, 255).astype(np.uint8))
    part.rename(root)


def train(folder: Path, name: str, overrides: list[str]) -> Path:
    """The finished run of this name, made, resumed or found."""
    runs = sorted((folder / "runs" / name).glob("*"))
    if not (runs and (runs[-1] / "finished.json").exists()):
        command = [f"resume={runs[-1]}"] if runs else [f"name={name}", *overrides]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *command], cwd=folder, check=True)
    return sorted((folder / "runs" / name).glob("*"))[-1]


def score(run: Path) -> dict[str, float]:
    return json.loads((run / "finished.json").read_text())["val"]


def refuse_changed(pretrained: Path) -> None:
    """The tensors of the trunk arrive in a detector bit for bit."""
    from detectors.backbones import ResNet

    stored = torch.load(pretrained, weights_only=True)["state_dict"]
    arrived = ResNet(18, weights=str(pretrained), norm="bn", frozen_stages=0).state_dict()
    assert all(torch.equal(value, stored[f"network.backbone.{name}"]) for name, value in arrived.items())
    print(f"{len(arrived)} tensors of the trunk arrive unchanged")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pretraining").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw_folder(folder / "single")
    classifier = train(folder, "classifier", [*PRETRAIN, f"data.root={folder / 'single'}"])
    best = classifier / "checkpoints" / "best.ckpt"
    refuse_changed(best)
    scores: dict[tuple[str, int], dict[str, float]] = {}
    for seed in SEEDS:
        for start, weights in (("noise", "null"), ("pretrained", str(best))):
            overrides = [*DETECT, f"seed={seed}", f"data.root={folder / 'shapes'}", f"model.backbone.weights={weights}"]
            scores[start, seed] = score(train(folder, f"{start}{seed}", overrides))
    print(f"\nclassifier: top-1 {score(classifier)['top1']:.3f} on other backgrounds\n")
    print(
        "| seed | AP50 from noise | AP50 from the pre-trained trunk | AP from noise | AP from the pre-trained trunk |"
    )
    print("|---|---|---|---|---|")
    for seed in SEEDS:
        noise, trunk = scores["noise", seed], scores["pretrained", seed]
        cells = (noise["AP50"], trunk["AP50"], noise["AP"], trunk["AP"])
        print(f"| {seed} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    sys.exit(any(scores["pretrained", seed]["AP50"] <= scores["noise", seed]["AP50"] for seed in SEEDS))


if __name__ == "__main__":
    main()
