"""Compare the decoders of RetinaNet and FCOS with torchvision's `postprocess_detections` on the same head outputs.

    python measurements/decoders.py [--rounds 15] [--classes 80] [--images 16] [--canvas 640] [--device cuda]

Head outputs are made like a trained network's: each of 20 objects per image raises the scores of the anchors around it,
the better they fit the more (FCOS: of the points around its centre), with noisy boxes, and some 1000 scores of each
level pass 0.05 by chance. The decoders take turns on passes of one image and of four; "equal" counts the images with
torchvision's detections, except for boxes that clipping left empty, which it keeps. AP is the evaluator's, against the
boxes that the outputs were made from. FCOS has torchvision's threshold of 0.2 on sqrt(class x centerness); ours lets
every class score over 0.2^2 pass, which finds the same detections, and drops those below the threshold afterwards.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import by_turns, times_faster, versions
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from detectors.anchors import RETINANET
from detectors.boxes import boxes_to_deltas
from detectors.detections import Detections
from detectors.fcos import FCOSDecoder, FCOSOutputs, assign_fcos, grid_points
from detectors.retinanet import RetinaNetDecoder, RetinaNetOutputs
from evaluation.metrics import evaluate
from evaluation.truth import Predictions, Truth

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
STRIDES = RETINANET.strides
OBJECTS = 20
CHANCE = 1000
"""Scores of a level that pass the threshold without an object; at most 5 % of its scores."""
LOGIT = -2.944
"""The logit of 0.05."""

Outputs = RetinaNetOutputs | FCOSOutputs
Found = tuple[Tensor, Tensor, Tensor]
Decode = Callable[[Outputs, Tensor], list[Found]]


@dataclass(frozen=True)
class Heads:
    outputs: list[Any]
    """Head outputs of single images."""
    boxes: list[Tensor]
    labels: list[Tensor]

    def passes(self, size: int) -> list[Any]:
        """The same outputs in batches of `size` images."""
        together = []
        for first in range(0, len(self.outputs) - size + 1, size):
            part = self.outputs[first : first + size]
            names = [name for name, value in vars(part[0]).items() if isinstance(value, Tensor) and len(value) == 1]
            together.append(replace(part[0], **{name: torch.cat([vars(x)[name] for x in part]) for name in names}))
        return together


def trained_like(model: str, num_images: int, num_classes: int, canvas: int) -> Heads:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    heads = Heads([], [], [])
    for _ in range(num_images):
        side = canvas * torch.exp(-0.5 - 2.5 * torch.rand(OBJECTS, 2, generator=generator))
        corner = torch.rand(OBJECTS, 2, generator=generator) * (canvas - side)
        boxes = torch.cat((corner, corner + side), dim=1)
        labels = torch.randint(num_classes, (OBJECTS,), generator=generator)
        make = retinanet_outputs if model == "retinanet" else fcos_outputs
        heads.outputs.append(make(boxes, labels, num_classes, canvas, noise))
        heads.boxes.append(boxes)
        heads.labels.append(labels)
    return heads


def by_chance(num_rows: int, num_classes: int, sizes: tuple[int, ...], noise: Callable[..., Tensor]) -> Tensor:
    logits = 1.5 * noise(num_rows, num_classes)
    for level in logits.split(sizes):
        passing = min(CHANCE, level.numel() // 20)
        level -= level.flatten().kthvalue(level.numel() - passing).values - LOGIT
    return logits


def retinanet_outputs(
    boxes: Tensor, labels: Tensor, num_classes: int, canvas: int, noise: Callable[..., Tensor]
) -> RetinaNetOutputs:
    anchors = RETINANET.grid((canvas, canvas))
    sizes = tuple((-(-canvas // stride)) ** 2 * RETINANET.per_cell for stride in STRIDES)
    logits, deltas = by_chance(len(anchors), num_classes, sizes, noise), 2 * noise(len(anchors), 4)
    iou, of = box_iou(anchors, boxes).max(dim=1)
    near = (iou > 0.4).nonzero()[:, 0]
    logits[near, labels[of[near]]] = (iou[near] - 0.45) * 8 + 0.5 * noise(len(near))
    deltas[near] = boxes_to_deltas(anchors[near], boxes[of[near]], WEIGHTS) + 0.5 * noise(len(near), 4)
    return RetinaNetOutputs(logits[None], deltas[None], anchors, sizes)


def fcos_outputs(
    boxes: Tensor, labels: Tensor, num_classes: int, canvas: int, noise: Callable[..., Tensor]
) -> FCOSOutputs:
    maps = [torch.empty(1, 1, -(-canvas // stride), -(-canvas // stride)) for stride in STRIDES]
    points, strides = grid_points(maps, STRIDES)
    points = points - strides[:, None] / 2  # torchvision's points lie at the corners of cells
    sizes = tuple(x.numel() for x in maps)
    assigned, target = assign_fcos(points, strides, sizes, boxes[None], labels[None], center_sampling=1.5)
    near = (assigned[0] >= 0).nonzero()[:, 0]
    logits = by_chance(len(points), num_classes, sizes, noise)
    logits[near, assigned[0, near]] = 1 + noise(len(near))
    distances = strides[:, None] * (1 + noise(len(points), 4)).clamp(min=0.1) * 4
    distances[near] = target[0, near] * (1 + 0.05 * noise(len(near), 4))
    centerness = noise(len(points)) + 1
    return FCOSOutputs(logits[None], distances[None], centerness[None], points, strides, sizes)


def ours(decoder: RetinaNetDecoder | FCOSDecoder, lowest: float) -> Decode:
    def decode(outputs: Any, sizes: Tensor) -> list[Found]:
        found: Detections = decoder(outputs, sizes)
        real = found.scores > lowest
        return [(found.boxes[i][real[i]], found.scores[i][real[i]], found.labels[i][real[i]]) for i in range(len(real))]

    return decode


def torchvisions(name: str, num_classes: int) -> tuple[Decode, Any]:
    build = detection.retinanet_resnet50_fpn if name == "retinanet" else detection.fcos_resnet50_fpn
    model: Any = build(weights=None, weights_backbone=None, num_classes=num_classes, detections_per_img=100)
    if name == "retinanet":
        model.box_coder = BoxCoder(WEIGHTS)

    def decode(outputs: Any, sizes: Tensor) -> list[Found]:
        parts = outputs.level_sizes
        head = {"cls_logits": outputs.logits}
        if name == "retinanet":
            head["bbox_regression"], anchors = outputs.deltas, outputs.anchors
        else:
            half = outputs.strides[:, None] / 2
            anchors = torch.cat((outputs.points - half, outputs.points + half), dim=1)
            head["bbox_regression"] = outputs.distances / outputs.strides[:, None]
            head["bbox_ctrness"] = outputs.centerness[..., None]
        found = model.postprocess_detections(
            {key: list(value.split(parts, dim=1)) for key, value in head.items()},
            [list(anchors.split(parts))] * len(sizes),
            [(height, width) for height, width in sizes.tolist()],
        )
        return [(one["boxes"], one["scores"], one["labels"]) for one in found]

    return decode, model


def equal(ours: Found, theirs: Found) -> bool:
    """Whether the detections are equal, except for boxes of theirs that clipping left empty; ours has others there."""
    full = (theirs[0][:, 2:] > theirs[0][:, :2]).all(dim=1)
    boxes, _, labels = (x[full] for x in theirs)
    n = len(boxes)
    return torch.equal(ours[2][:n], labels) and torch.allclose(ours[0][:n], boxes, rtol=1e-4, atol=1e-2)


def ap(heads: Heads, found: list[Found], num_classes: int, canvas: int) -> tuple[float, float]:
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
        torch.cat([one[0] for one in found]).double().cpu().numpy(),
        torch.cat([one[1] for one in found]).double().cpu().numpy(),
        torch.cat([one[2] for one in found]).cpu().numpy(),
    )
    scores = evaluate(truth, predicted).scalars
    return scores["AP"], scores["AP50"]


def decoders_of(name: str, num_classes: int) -> dict[str, Decode]:
    decode, model = torchvisions(name, num_classes)
    if name == "fcos":
        mine = FCOSDecoder(model.score_thresh**2, model.nms_thresh)
        return {"torchvision": decode, "ours": ours(mine, model.score_thresh)}
    return {
        "torchvision": decode,
        "class-wise": ours(RetinaNetDecoder(box_weights=WEIGHTS), 0.0),
        "top_class_only": ours(RetinaNetDecoder(box_weights=WEIGHTS, top_class_only=True), 0.0),
    }


def moved(outputs: Any, device: torch.device) -> Any:
    return replace(outputs, **{key: x.to(device) for key, x in vars(outputs).items() if isinstance(x, Tensor)})


def one_after_another(decode: Decode, passes: list[Any], sizes: Tensor) -> Callable[[], list[Found]]:
    turns = cycle(passes)
    return lambda: decode(next(turns), sizes)


@torch.inference_mode()
def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    device, rows = torch.device(options.device), []
    heads = trained_like(name, options.images, options.classes, options.canvas)
    decoders = decoders_of(name, options.classes)
    for batch in options.batches:
        passes = [moved(outputs, device) for outputs in heads.passes(batch)]
        sizes = torch.tensor([[options.canvas, options.canvas]] * batch, device=device)
        cases = {key: one_after_another(decode, passes, sizes) for key, decode in decoders.items()}
        seconds = by_turns(cases, options.rounds, device, warm_up=3)
        found = {key: [one for x in passes for one in decode(x, sizes)] for key, decode in decoders.items()}
        for key in decoders:
            scores = ap(heads, found[key], options.classes, options.canvas)
            same = sum(map(equal, found[key], found["torchvision"]))
            rows.append({
                "model": name, "batch": batch, "decoder": key, "seconds": seconds[key], "AP": scores[0],
                "AP50": scores[1], "equal": same, "images": len(found[key]),
                "times": times_faster(seconds, key, "torchvision"),
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 15), ("classes", 80), ("images", 16), ("canvas", 640)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--models", nargs="+", default=["retinanet", "fcos"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    about = versions(torch.device(options.device)) | {"classes": options.classes, "canvas": options.canvas}
    print(about)
    print("| model | images a pass | decoder | ms an image | torchvision's time / its own | equal | AP | AP50 |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [row for name in options.models for row in measure(name, options)]
    for row in rows:
        ms = 1000 * statistics.median(row["seconds"]) / row["batch"]
        print(
            f"| {row['model']} | {row['batch']} | {row['decoder']} | {ms:.1f} | {row['times']:.2f} | "
            f"{row['equal']} of {row['images']} | {row['AP']:.4f} | {row['AP50']:.4f} |"
        )
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
