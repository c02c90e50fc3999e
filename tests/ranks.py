"""Evaluations and trainings on one rank and on two: python tests/ranks.py FOLDER writes FOLDER/{1,2}_{RANK}.json.

A process imports everything once and forks for each rank, since most of the time would go into imports.
Each file maps a case to what that rank was told; `test_evaluation_ranks` compares them.
"""

import json
import math
import os
import signal
import socket
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).parent / "datamodules"))
import trained
from tiny_data import coco, write_coco, write_image  # pyright: ignore[reportMissingImports]

from datamodules.batch import Batch
from datamodules.coco import CocoDataModule
from datamodules.imagefolder import ImageFolderDataModule
from detectors.backbones.mobilenet import MobileNetV2
from detectors.detections import Detections
from detectors.faster_rcnn import FasterRCNN, RegionDecoder, RegionSampler
from detectors.fcos import FCOS, FCOSDecoder, FCOSOutputs
from detectors.rpn import AnchorSampler
from lit_modules import detection_module
from lit_modules.classifier import ClassifierModule
from lit_modules.faster_rcnn import FasterRCNNModule
from lit_modules.fcos import FCOSModule
from lit_modules.optimizers import sgd
from lit_modules.schedules import constant

SIZES = (1, 3, 7)
KINDS = ("plain", "one rank finds nothing", "one rank has no objects", "images cannot be read")
CASES = [(kind, number) for kind in KINDS for number in SIZES]
BATCH = 2


def of_rank_one(number: int) -> list[int]:
    """Rows that the second of two ranks gets of equal canvases; the only row if there is no more."""
    return [row for row in range(number) if row // BATCH % 2] or [0]


UNREADABLE = {1: [], 3: [2], 7: [1, 2, 3]}
"""Rows, by the number of images; rows 2 and 3 are a whole batch, which is the second rank's."""


def image_id(row: int) -> int:
    return 10 * (row + 1)


def write(folder: Path, kind: str, number: int) -> None:
    """Noise of 64 px, or in the plain case of three canvases, with boxes where the detector puts its own.

    Images differ in their number of boxes, so that it shows in the losses which of them share a batch.
    """
    canvases = [(64, 64), (64, 96), (96, 64)] if kind == "plain" else [(64, 64)]
    sizes = [canvases[row % len(canvases)] for row in range(number)]
    three: list[Any] = [[8, 8, 24, 24], {"bbox": [24, 32, 23, 25], "category_id": 3}, [38, 6, 22, 25]]
    boxes = [three[: 1 + row % 3] for row in range(number)]
    if kind == "one rank has no objects":
        for row in of_rank_one(number):
            boxes[row] = []
    write_coco(folder, sizes, boxes)
    if kind == "images cannot be read":
        for row in UNREADABLE[number]:
            (folder / "train" / f"train_{row}.png").write_bytes(b"")


def write_classes(root: Path) -> None:
    """Two pictures of noise in each of seven classes, one of them broken."""
    for row in range(14):
        write_image(root / "train" / f"class{row // 2}" / f"{row}.png", (64, 64), seed=row)
    (root / "train" / "class1" / "3.png").write_bytes(b"")


class Detector(FCOSModule):
    """Random weights, biased so that it finds boxes of about 24 px of either class everywhere."""

    def __init__(self, blind: set[int]) -> None:
        torch.manual_seed(0)
        super().__init__(
            MobileNetV2(weights=None, norm="gn", frozen_stages=0), 2, partial(sgd), partial(constant),
            pyramid_channels=32, num_convs=1, prior=0.5, decoder=FCOSDecoder(score_threshold=0.45),
        )  # fmt: skip
        bias = cast(FCOS, self.network).head.distances.bias
        torch.nn.init.constant_(cast(torch.Tensor, bias), math.log(12))
        self.blind = blind
        self.seen: list[Any] = []

    def detect(self, outputs: FCOSOutputs, batch: Batch) -> Detections:
        found = super().detect(outputs, batch)
        self.seen += [info.image_id for info in batch.infos]
        for row, info in enumerate(batch.infos):
            if info.image_id in self.blind:
                found.scores[row], found.labels[row] = 0, -1
        return found


def trainer(ranks: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip


def evaluated(ranks: int, datamodule: CocoDataModule, blind: set[int]) -> dict[str, Any]:
    """All that a rank knows after an evaluation."""
    module, ours = Detector(blind), trainer(ranks)
    ours.validate(module, datamodule, verbose=False)
    last = module.last
    found = last.predictions
    return {
        "scalars": last.metrics.scalars,
        "per_class": last.metrics.per_class,
        "losses": last.mean_losses,
        "logged": {name: value.item() for name, value in ours.callback_metrics.items()},
        "seen": module.seen,
        "skipped": module.skipped.images["val"],
        "scored": None if last.truth is None else last.truth.image_ids.tolist(),
        "predictions": found and [found.image_index.tolist(), found.boxes.tolist(), found.scores.tolist()],
    }


def classified(ranks: int, root: Path) -> dict[str, Any]:
    """What a rank knows after the evaluation of a classifier with random weights, one image of which is unreadable."""
    torch.manual_seed(0)
    module = ClassifierModule(
        MobileNetV2(weights=None, norm="gn", frozen_stages=0), 7, partial(sgd), partial(constant)
    )  # fmt: skip
    data = ImageFolderDataModule(
        root=str(root), num_classes=7, resize=64, eval_batch_size=BATCH, num_workers=0, on_error="skip",
        cache_dir=str(root.parent / "cache"), val_split="train",
    )  # fmt: skip
    trainer(ranks).validate(module, data, verbose=False)
    last = module.last
    return {
        "scalars": last.metrics.scalars, "per_class": last.metrics.per_class, "losses": last.mean_losses,
        "skipped": module.skipped.images["val"],
    }  # fmt: skip


def proposed(ranks: int, root: Path) -> dict[str, Any]:
    """What a rank knows after the evaluation of a two-stage detector with random weights."""
    torch.manual_seed(0)
    module = FasterRCNNModule(
        MobileNetV2(weights=None, norm="gn", frozen_stages=0), 2, partial(sgd), partial(constant),
        pyramid_channels=32, anchor_sizes=(24.0,) * 5, head_channels=64, anchor_sampler=AnchorSampler(num_samples=64),
        region_sampler=RegionSampler(num_samples=64), decoder=RegionDecoder(score_threshold=0.0),
    )  # fmt: skip
    network = cast(FasterRCNN, module.network)
    for layer in (network.rpn.logits, network.logits):  # something of everything is said
        torch.nn.init.normal_(layer.weight, std=1.0)
    torch.nn.init.zeros_(network.rpn.deltas.weight)  # proposals are anchors, some of which fit
    datamodule = coco(root, resize=64, eval_batch_size=BATCH, cache_dir=str(root.parent / "cache"))
    trainer(ranks).validate(module, datamodule, verbose=False)
    last = module.last
    return {
        "scalars": last.metrics.scalars, "losses": last.mean_losses,
        "confusions": {name: part.counts.tolist() for name, part in last.metrics.confusions.items()},
    }  # fmt: skip


def all_cases(folder: Path, ranks: int) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for kind, number in CASES:
        data = folder / f"{kind} {number}".replace(" ", "_")
        blind = {image_id(row) for row in of_rank_one(number)} if kind == "one rank finds nothing" else set()
        datamodule = coco(data, resize=64, eval_batch_size=BATCH, on_error="skip", cache_dir=str(folder / "cache"))
        answers[f"{kind} {number}"] = evaluated(ranks, datamodule, blind)

    for number in SIZES:
        answers[f"two stages {number}"] = proposed(ranks, folder / f"plain_{number}")
    answers["classifier"] = classified(ranks, folder / "classes")
    for kind in trained.KINDS:
        answers[f"trained {kind}"] = trained.trained(kind, ranks, folder / "objects")

    def fail(*_: object) -> None:
        raise ValueError("no score today")

    detection_module.evaluate = fail  # of which only rank 0 makes use
    try:
        evaluated(ranks, coco(folder / "plain_3", resize=64, cache_dir=str(folder / "cache")), set())
    except ValueError as error:
        answers["error"] = str(error)
    return answers


def main(folder: Path) -> None:
    for kind, number in CASES:
        write(folder / f"{kind} {number}".replace(" ", "_"), kind, number)
    write_classes(folder / "classes")
    trained.write_objects(folder / "objects")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for ranks, rank in ((2, 0), (2, 1), (1, 0)):
        if child := os.fork():
            children.append(child)
            continue
        signal.alarm(400)  # ends a rank that waits for ever
        if ranks > 1:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0")
        (folder / f"{ranks}_{rank}.json").write_text(json.dumps(all_cases(folder, ranks)))
        os._exit(0)
    failed = [code for child in children if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))]
    sys.exit(f"ranks ended with {failed}" if failed else 0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(Path(sys.argv[1]))
