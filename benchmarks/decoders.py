"""RetinaNet's decoders beside torchvision's `postprocess_detections`: time and AP on the same head outputs.

    python benchmarks/decoders.py [--rounds 15] [--classes 80] [--images 16] [--canvas 640]

Head outputs are made like a trained network's: each of 20 objects an image excites the anchors around it, the more the
better they fit, with noisy deltas, and some 1000 scores of each level pass 0.05 by chance. The decoders take turns,
an image at a time; AP is the evaluator's, against the boxes that the outputs were made from.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from detectors.anchors import RETINANET
from detectors.boxes import boxes_to_deltas
from detectors.retinanet import RetinaNetDecoder, RetinaNetOutputs
from evaluation.metrics import evaluate
from evaluation.truth import Predictions, Truth

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CHANCE = 1000
"""Scores of a level that pass the threshold without an object; at most 5 % of a level's."""

Decode = Callable[[RetinaNetOutputs, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Heads:
    outputs: list[RetinaNetOutputs]
    boxes: list[Tensor]
    labels: list[Tensor]


def trained_like(num_images: int, num_classes: int, canvas: int) -> Heads:
    """Outputs of images one by one, and the objects they were made from."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    anchors = RETINANET.grid((canvas, canvas))
    sizes = tuple((-(-canvas // stride)) ** 2 * RETINANET.per_cell for stride in RETINANET.strides)
    heads = Heads([], [], [])
    for _ in range(num_images):
        side = canvas * torch.exp(-0.5 - 2.5 * torch.rand(20, 2, generator=generator))
        corner = torch.rand(20, 2, generator=generator) * (canvas - side)
        boxes = torch.cat((corner, corner + side), dim=1)
        labels = torch.randint(num_classes, (20,), generator=generator)
        logits, deltas = 1.5 * noise(len(anchors), num_classes), 2 * noise(len(anchors), 4)
        for level in logits.split(sizes):
            passing = min(CHANCE, level.numel() // 20)
            level -= level.flatten().kthvalue(level.numel() - passing).values + 2.944  # the logit of 0.05
        iou, of = box_iou(anchors, boxes).max(dim=1)
        near = (iou > 0.4).nonzero()[:, 0]
        logits[near, labels[of[near]]] = (iou[near] - 0.45) * 8 + 0.5 * noise(len(near))
        deltas[near] = boxes_to_deltas(anchors[near], boxes[of[near]], WEIGHTS) + 0.5 * noise(len(near), 4)
        heads.outputs.append(RetinaNetOutputs(logits[None], deltas[None], anchors, sizes))
        heads.boxes.append(boxes)
        heads.labels.append(labels)
    return heads


def ours(fast: bool) -> Decode:
    decoder = RetinaNetDecoder(box_weights=WEIGHTS, fast_decode=fast)

    def decode(outputs: RetinaNetOutputs, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = decoder(outputs, size)
        real = found.labels[0] >= 0
        return found.boxes[0][real], found.scores[0][real], found.labels[0][real]

    return decode


def torchvisions(num_classes: int) -> Decode:
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes, detections_per_img=100)
    model.box_coder = BoxCoder(WEIGHTS)

    def decode(outputs: RetinaNetOutputs, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = outputs.level_sizes
        head = {
            "cls_logits": list(outputs.logits.split(parts, dim=1)),
            "bbox_regression": list(outputs.deltas.split(parts, dim=1)),
        }
        height, width = size[0].tolist()
        (found,) = model.postprocess_detections(head, [list(outputs.anchors.split(parts))], [(height, width)])
        return found["boxes"], found["scores"], found["labels"]

    return decode


def ap(heads: Heads, found: list[tuple[Tensor, Tensor, Tensor]], num_classes: int, canvas: int) -> tuple[float, float]:
    def of_images(lists: list[Tensor]) -> np.ndarray:
        return np.concatenate([np.full(len(rows), image) for image, rows in enumerate(lists)])

    boxes = torch.cat(heads.boxes).double().numpy()
    ids = list(range(len(heads.boxes)))
    truth = Truth(
        image_ids=ids,
        sizes=np.full((len(ids), 2), canvas),
        image_index=of_images(heads.boxes),
        boxes=boxes,
        labels=torch.cat(heads.labels).numpy(),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        crowd=np.zeros(len(boxes), bool),
        difficult=np.zeros(len(boxes), bool),
        class_names=[str(k) for k in range(num_classes)],
        category_ids=list(range(num_classes)),
    )
    predicted = Predictions(
        of_images([one[0] for one in found]),
        torch.cat([one[0] for one in found]).double().numpy(),
        torch.cat([one[1] for one in found]).double().numpy(),
        torch.cat([one[2] for one in found]).numpy(),
    )
    scores = evaluate(truth, predicted).scalars
    return scores["AP"], scores["AP50"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 15), ("classes", 80), ("images", 16), ("canvas", 640)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    heads = trained_like(options.images, options.classes, options.canvas)
    over = [
        int((level.sigmoid() > 0.05).sum()) for level in heads.outputs[0].logits.split(heads.outputs[0].level_sizes, 1)
    ]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {options.classes} classes, "
        f"{options.canvas} px, {len(heads.outputs[0].anchors)} anchors; scores over 0.05 by level: {over}"
    )
    size = torch.tensor([[options.canvas, options.canvas]])
    decoders = {
        "torchvision": torchvisions(options.classes),
        "class-wise": ours(fast=False),
        "fast_decode": ours(fast=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in decoders}
    with torch.inference_mode():
        for turn in range(options.rounds + 1):
            image = turn % options.images
            for name, decode in decoders.items():
                start = time.perf_counter()
                decode(heads.outputs[image], size)
                seconds[name].append(time.perf_counter() - start)
        for outputs in heads.outputs:
            for name, decode in decoders.items():
                found[name].append(decode(outputs, size))
    print("| decoder | ms an image | torchvision's time / its own | AP | AP50 |\n|---|---|---|---|---|")
    for name in decoders:
        taken = seconds[name][1:]
        ratio = statistics.median(a / b for a, b in zip(seconds["torchvision"][1:], taken, strict=True))
        scores = ap(heads, found[name], options.classes, options.canvas)
        print(f"| {name} | {1e3 * statistics.median(taken):.1f} | {ratio:.2f} | {scores[0]:.4f} | {scores[1]:.4f} |")


if __name__ == "__main__":
    main()
