"""Record the runs of this folder with the version in which it is started: python tests/earlier_runs/record.py

Runs in a temporary folder, kills the runs at the moments below, and stores their files and what this version makes of
them. It replaces the files here; README.md says which version made those, and why not to replace them.
"""

import json
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from earlier_runs import replay, skeletons
from running import Runner, wandb_records

SHARED = [
    "model/backbone=mobilenet_v2", "model.backbone.weights=null", "model.backbone.frozen_stages=0",
    "scale_schedule=false", "test=false", "logger=csv", "data.resize=64", "data.batch_size=4", "data.num_workers=0",
    "schedule.warmup_steps=3", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "trainer.max_steps=8", "callbacks.pictures.num_fixed=0", "callbacks.pictures.num_worst=0",
]  # fmt: skip
SHAPES = [
    "data=shapes", "data.root=data/shapes", "data.train_images=12", "data.val_images=6", "data.image_size=64",
]  # fmt: skip
ONE_STAGE = ["model.backbone.norm=gn", "model.pyramid_channels=32", "model.num_convs=1", "model.prior=0.2"]
FCOS = ["model=fcos", *ONE_STAGE]
ANCHORS = "model.anchor_sizes=[8.0,16.0,32.0,64.0,128.0]"
SMALLEST_LOSS = ["callbacks.checkpoints.monitor=val/loss", "callbacks.checkpoints.mode=min"]
FIRST_IS_BEST = "callbacks.checkpoints.monitor=val/AP_large"
"""No object is large, so each validation gives -1 and rounding cannot change the best step, as it could with AP."""


def every(steps: int) -> list[str]:
    return [f"callbacks.checkpoints.every_steps={steps}", f"trainer.val_check_interval={steps}"]


RUNS: dict[str, tuple[list[str], dict[str, Any] | None]] = {
    "fcos": (
        [*FCOS, *SHAPES, *every(2), "schedule=multistep", "schedule.milestones=[0.75]", "optimizer=sgd",
         "callbacks.averaging.decay=0.9", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=5",
         "callbacks.back_to_best.at=3", FIRST_IS_BEST],
        {"at": "batch_end", "batch": 9},
    ),
    "retinanet": (
        ["model=retinanet", *ONE_STAGE, ANCHORS, *SHAPES, *every(3), "optimizer=adamw", "schedule=cosine",
         "model.lr=5.0e-4", "trainer.log_every_n_steps=2", *SMALLEST_LOSS, "~callbacks.report"],
        {"at": "validation", "batch": 1},
    ),
    "rpn": (
        ["model=rpn", "model.backbone.norm=gn", "model.pyramid_channels=32", ANCHORS, "data=coco",
         "data.root=data/shapes", "data.annotations='annotations/things_{split}.json'", "data.train_split=train",
         "data.val_split=val", "data.test_split=val", "data.num_classes=1", *every(2), "schedule=plateau",
         "schedule.patience=0", "schedule.threshold=0.9", "schedule.factor=0.5", *SMALLEST_LOSS, "~callbacks.report"],
        {"at": "batch_end", "batch": 5},
    ),
    "faster_rcnn": (
        ["model=faster_rcnn", "model.backbone.norm=gn", "model.pyramid_channels=32", "model.head_channels=64", ANCHORS,
         "model.roi_samples=2000", "model.roi_positive_fraction=1.0", "model.proposal_nms_threshold=1.0",
         "model.candidates_per_level=50", "model.proposals=50", *SHAPES, *every(4), "schedule=constant",
         "trainer.gradient_clip_val=5", "callbacks.back_to_best.at=6", FIRST_IS_BEST, "~callbacks.report"],
        {"at": "batch_end", "batch": 5},
    ),
    "classifier": (
        ["model=classifier", "data=imagefolder", "data.root=data/classes", "data.num_classes=3",
         "data.eval_batch_size=2", "model.lr=1.0e-3", *every(4), "trainer.max_steps=6",
         "callbacks.checkpoints.monitor=val/top5", "~callbacks.report"],
        {"at": "batch_end", "batch": 5},
    ),
    "dashboard": (
        [*FCOS, *SHAPES, *every(30), "model.lr=0.002", "logger=wandb", "trainer.max_steps=60", "~callbacks.report"],
        {"at": "batch_end", "batch": 58},
    ),
    "finished": (
        [*FCOS, *SHAPES, *every(2), "model.center_sampling=1.5", "model.normalize_targets=true",
         "model.centerness_on_box=true", "model.box_loss=giou", "trainer.max_steps=4", "test=true",
         "~callbacks.report"],
        None,
    ),
}  # fmt: skip
"""Overrides of each run, and the moment of the kill, if any."""
SWEEP = [*SHARED, *FCOS, *SHAPES, *every(2), "name=halves", "trainer.max_steps=4", "~callbacks.report"]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        train = Runner()
        record_runs(train, folder)
        record_expected(train, folder / "played")
        train.close()


def record_runs(train: Runner, folder: Path) -> None:
    here = skeletons.STORED
    for part in ("data", "runs"):
        shutil.rmtree(here / part, ignore_errors=True)
    train([*SHARED, *RUNS["finished"][0], "name=drawn", "trainer.max_steps=1"], folder)  # draws the data
    shutil.copytree(folder / "data" / "shapes", here / "data" / "shapes")
    for part in ("data", "runs"):
        shutil.rmtree(folder / part)
    skeletons.write_data(folder / "data")
    for name, (overrides, kill) in RUNS.items():
        train([*SHARED, *overrides, f"name={name}"], folder, kill=kill)
    train(["-m", *SWEEP, "model.lr=0.01,wrong"], folder, expect=1)
    job = "model.lr=0.02"  # started with the command that a sweep uses
    train([*SWEEP, job, f"hydra.run.dir='runs/sweeps/halves/{job}'"], folder, kill={"at": "batch_end", "batch": 3})
    for file in sorted((folder / "runs").rglob("*")):
        store(file, here / file.relative_to(folder), str(folder))


def record_expected(train: Runner, folder: Path) -> None:
    expected = {}
    for name, play in replay.PLAYS.items():
        (folder / name).mkdir(parents=True)
        expected[name] = play(train, folder / name)
    (skeletons.STORED / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def store(file: Path, stored: Path, folder: str) -> None:
    """Stores the files that a later version may read, without paths of this machine."""
    kept = file.suffix in (".yaml", ".json", ".txt", ".csv", ".ckpt", ".wandb") or file.name == "wandb_id"
    inside_wandb = "wandb" in file.parts and file.suffix != ".wandb" and file.name != "overrides.json"
    if not kept or inside_wandb or file.name.startswith(("sweep.", "multirun.")):
        return
    stored.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink():
        links = stored.with_name("links.json")
        known = json.loads(links.read_text()) if links.exists() else {}
        links.write_text(json.dumps(known | {file.name: str(file.readlink())}, indent=1) + "\n")
    elif file.suffix == ".ckpt":
        skeletons.store_checkpoint(file, stored.with_name(f"{file.name}.json.gz"))
    elif file.suffix == ".wandb":
        stored.write_bytes(file.read_bytes()[:7] + b"".join(in_blocks(without_machine(wandb_records(file)))))
    else:
        stored.write_text(file.read_text().replace(f"{folder}/", ""))


def without_machine(records: Iterable[Any]) -> Iterator[bytes]:
    """W&B's records except those that describe the machine."""
    for record in records:
        if record.WhichOneof("record_type") not in ("environment", "stats", "artifact", "files", "output_raw"):
            if record.HasField("run"):
                record.run.ClearField("host")
            yield record.SerializeToString()


def in_blocks(records: Iterable[bytes]) -> Iterator[bytes]:
    """Records in LevelDB's log format, as `running.wandb_records` reads it; the last is cut short, as by a kill."""
    *whole, last = records
    position = 7
    for record in [*whole, last[: len(last) // 2]]:
        part, is_first = record, True
        while is_first or part:
            room = 2**15 - position % 2**15
            if room < 7:
                yield bytes(room)
                position, room = position + room, 2**15
            piece, part = part[: room - 7], part[room - 7 :]
            is_last = not part and record in whole
            kind = (1 if is_first else 4) if is_last else (2 if is_first else 3)
            yield struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            position, is_first = position + 7 + len(piece), False


if __name__ == "__main__":
    main()
