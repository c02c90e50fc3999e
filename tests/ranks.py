"""Evaluates and trains on one rank and on two: python tests/ranks.py FOLDER [CASE] writes 2_0.json for rank 0 of two.

A process imports everything once and forks for each rank, since most of the time would go into imports.
Each file maps a case to the results of that rank; `test_evaluation_ranks` compares them.
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
    """Rows that rank 1 of two evaluates where all canvases are equal; the only row if there is just one."""
    return [row for row in range(number) if row // BATCH % 2] or [0]


UNREADABLE = {1: [], 3: [2], 7: [1, 2, 3]}
"""Rows by the number of images; rows 2 and 3 are a whole batch, that of the second rank."""


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


class Lopsided(Detector):
    """Logs what the ranks don't share, and values that no reduction keeps."""

    def log_metrics(self, split: str) -> None:
        super().log_metrics(split)
        for name, value in (("nan", math.nan), ("none", -1.0), ("own", -2.0 - self.global_rank)):
            self.log_metric(f"{split}/{name}", value)
        if self.global_rank == 0:
            self.log_metric(f"{split}/of_rank_0", 0.5)


def trainer(ranks: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip


def evaluated(ranks: int, datamodule: CocoDataModule, blind: set[int]) -> dict[str, Any]:
    """The results of an evaluation as this rank has them."""
    return answer(Detector(blind), ranks, datamodule)


def answer(module: Detector, ranks: int, datamodule: CocoDataModule) -> dict[str, Any]:
    ours = trainer(ranks)
    reduce, reductions = ours.strategy.reduce, list[object]()

    def counted(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        reductions.append(tensor)
        return reduce(tensor, *args, **kwargs)

    ours.strategy.reduce = counted
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ours.validate(module, datamodule, verbose=False)
    last = module.last
    found = last.predictions
    return {
        "scalars": last.metrics.scalars,
        "per_class": last.metrics.per_class,
        "losses": last.mean_losses,
        "logged": {name: value.item() for name, value in ours.callback_metrics.items()},
        "seen": module.seen,
        "reductions": len(reductions),
        "warned": [str(warning.message) for warning in warned if "sync_dist" in str(warning.message)],
        "skipped": module.skipped.images["val"],
        "scored": None if last.truth is None else last.truth.image_ids.tolist(),
        "predictions": found and [found.image_index.tolist(), found.boxes.tolist(), found.scores.tolist()],
    }


def predicted(ranks: int, datamodule: CocoDataModule) -> dict[str, Any]:
    """What a rank predicts, and which images it knows to be unreadable."""
    module = Detector(set())
    batches: Any = trainer(ranks).predict(module, datamodule)
    ids = [found.image_id for batch in batches for found in batch]
    return {"found": ids, "skipped": list(module.skipped.images["predict"])}


def classified(ranks: int, root: Path) -> dict[str, Any]:
    """The results of a classifier's evaluation as this rank has them; one image is unreadable."""
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
    """The results of a two-stage detector's evaluation, with random weights, as this rank has them."""
    torch.manual_seed(0)
    module = FasterRCNNModule(
        MobileNetV2(weights=None, norm="gn", frozen_stages=0), 2, partial(sgd), partial(constant),
        pyramid_channels=32, anchor_sizes=(24.0,) * 5, head_channels=64, anchor_sampler=AnchorSampler(num_samples=64),
        region_sampler=RegionSampler(num_samples=64), decoder=RegionDecoder(score_threshold=0.0),
    )  # fmt: skip
    network = cast(FasterRCNN, module.network)
    for layer in (network.rpn.logits, network.logits):  # so that every class is predicted
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
    datamodule = coco(folder / "plain_3", resize=64, eval_batch_size=BATCH, cache_dir=str(folder / "cache"))
    told = answer(Lopsided(set()), ranks, datamodule)
    answers["lopsided"] = told | {"logged": {name: repr(value) for name, value in told["logged"].items()}}
    data = folder / "images_cannot_be_read_7"
    datamodule = coco(data, resize=64, eval_batch_size=BATCH, on_error="skip", cache_dir=str(folder / "cache"))
    answers["predicted"] = predicted(ranks, datamodule)
    answers["classifier"] = classified(ranks, folder / "classes")
    for kind in trained.KINDS:
        answers[f"trained {kind}"] = trained.trained(kind, ranks, folder / "objects")

    def fail(*_: object) -> None:
        raise ValueError("no score today")

    detection_module.evaluate = fail  # only rank 0 calls it
    try:
        evaluated(ranks, coco(folder / "plain_3", resize=64, cache_dir=str(folder / "cache")), set())
    except ValueError as error:
        answers["error"] = str(error)
    return answers


def one_case(folder: Path, ranks: int, case: str) -> dict[str, Any]:
    datamodule = coco(
        folder / case.replace(" ", "_"), resize=64, eval_batch_size=BATCH, cache_dir=str(folder / "cache")
    )
    return {case: evaluated(ranks, datamodule, set())}


def main(folder: Path, case: str | None = None) -> None:
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
        signal.alarm(400)  # ends a rank that waits forever
        if ranks > 1:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0")
        answers = one_case(folder, ranks, case) if case else all_cases(folder, ranks)
        (folder / f"{ranks}_{rank}.json").write_text(json.dumps(answers))
        os._exit(0)
    failed = [code for child in children if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))]
    sys.exit(f"ranks ended with {failed}" if failed else 0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(Path(sys.argv[1]), *sys.argv[2:])
