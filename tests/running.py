"""Helpers of the tests that run `train.py` for real."""

import csv
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

HARNESS = Path(__file__).parent / "harness.py"
TINY = [
    "model/backbone=mobilenet_v2", "data=shapes", "logger=csv", "scale_schedule=false", "test=false", "name=t",
    "model.backbone.weights=null", "model.backbone.norm=gn", "model.backbone.frozen_stages=0",
    "model.pyramid_channels=32", "model.num_convs=1",
    "data.train_images=24", "data.val_images=6", "data.image_size=64", "data.resize=64", "data.batch_size=4",
    "data.num_workers=0", "schedule.warmup_steps=3", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "trainer.max_steps=10", "trainer.val_check_interval=4",
    "callbacks.checkpoints.every_steps=2", "callbacks.pictures.num_fixed=0", "callbacks.pictures.num_worst=0",
    "~callbacks.report",
]  # fmt: skip
"""FCOS on 64 px shapes without a report: 6 steps an epoch, about a second per run."""

REPORTED = [override for override in TINY if override != "~callbacks.report"]


FULL = [
    *TINY,
    "callbacks.averaging.decay=0.9",
    "trainer.accumulate_grad_batches=2",
    "trainer.gradient_clip_val=5",
]
"""The same with everything that has a state: an average, a schedule in its warm-up, accumulated gradients."""

FASTER_RCNN = [
    "model=faster_rcnn", "model.head_channels=64", "model.anchor_sampler.num_samples=64",
    "model.region_sampler.num_samples=32", "model.train_proposer.candidates_per_level=100",
    "model.train_proposer.max_proposals=100", "model.proposer.candidates_per_level=50",
    "model.proposer.max_proposals=50", "model.anchor_sizes=[8.0,16.0,32.0,64.0,128.0]",
]  # fmt: skip


def with_faster_rcnn(overrides: list[str]) -> list[str]:
    """The overrides of a small Faster R-CNN in place of FCOS."""
    return [override for override in overrides if override != "model.num_convs=1"] + FASTER_RCNN


OTHERS = {
    "retinanet": ["model=retinanet"],
    "rpn": [
        "model=rpn", "model.anchor_sampler.num_samples=64", "model.decoder.candidates_per_level=50", "data=coco",
        "data.classes=[disc]", "data.train_split=train", "data.val_split=val",
    ],
}  # fmt: skip
_SHAPES_ONLY = ("data=shapes", "data.train_images=", "data.val_images=", "data.image_size=")


def with_model(model: str, overrides: list[str]) -> list[str]:
    """The same of another model than FCOS, small too; of a proposal network on one class of shapes drawn before."""
    if model not in OTHERS:
        return with_faster_rcnn(overrides) if model == "faster_rcnn" else overrides
    unused = ("model.num_convs=", *_SHAPES_ONLY) if model == "rpn" else ()
    kept = [override for override in overrides if not override.startswith(unused)]
    return [*kept, *OTHERS[model], "model.anchor_sizes=[8.0,16.0,32.0,64.0,128.0]"]


MOMENTS: dict[str, dict[str, Any]] = {
    "before the first checkpoint": {"at": "batch_end", "batch": 1},
    "between accumulated micro-batches": {"at": "batch_end", "batch": 7},
    "last batch of an epoch": {"at": "batch_end", "batch": 12},
    "during validation": {"at": "validation", "batch": 1},
    "second validation": {"at": "validation_start", "batch": 2},
    "last validation, after the last step": {"at": "validation_start", "batch": 3},
    "while a checkpoint is being written": {"at": "saving", "number": 3},
    "second epoch": {"at": "batch_start", "batch": 18},
}


class Runner:
    """Runs `train.py`, or another root script, through the harness's server."""

    def __init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        self._server = subprocess.Popen(
            [sys.executable, str(HARNESS), "--serve"],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(
        self,
        overrides: list[str],
        folder: Path,
        kill: dict[str, Any] | None = None,
        expect: int | None = None,
        script: str = "train.py",
        path: Path | None = None,
    ) -> str:
        """Runs to the end, or to the kill, and returns what was printed; `path` is the value of PYTHONPATH."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        log = folder / "printed.txt"
        request = {
            "script": script,
            "path": None if path is None else str(path),
            "overrides": overrides,
            "folder": str(folder),
            "log": str(log),
            "env": {"KILL": json.dumps(kill)},
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        printed = log.read_text()
        if expect is None:
            expect = -9 if kill and kill.get("sig", "SIGKILL") == "SIGKILL" else 0
        assert code == expect, f"exit code {code} instead of {expect}:\n{printed}"
        return printed

    def close(self) -> None:
        self._server.kill()
        self._server.wait()


def only_run(folder: Path, name: str = "t") -> Path:
    (run,) = (folder / "runs" / name).iterdir()
    return run


def curves(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the columns that depend on the clock."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if v and not k.startswith(("time/", "images_per_s", "memory_mb"))}
            for row in csv.DictReader(file)
        ]


def last_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step_*.ckpt"))[-1]


def state(run: Path) -> dict[str, Any]:
    """The last checkpoint without entries that may differ between equal runs."""
    contents = torch.load(last_checkpoint(run), weights_only=True)
    return {key: contents[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")} | {
        key: contents[key] for key in ("current_model_state", "averaging_state") if key in contents
    }


def assert_equal_bits(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f"{where} differs by {(a.double() - b.double()).abs().max()}"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal_bits(x, y, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a} and {b}"


def tensorboard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def events(*files: Path) -> Iterator[Any]:
    """All events in TensorBoard's files, in order."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for file in files:
        yield from LegacyEventFileLoader(str(file)).Load()


def names(event: Any) -> list[str]:
    return [value.tag for value in event.summary.value]


def scalar(event: Any, name: str) -> float:
    return next(value.simple_value for value in event.summary.value if value.tag == name)


def wandb_records(file: Path) -> Iterator[Any]:
    """Records of an offline W&B run: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 2**15 - position % 2**15 < 7:  # too short for a record's head: the block is padded
            position += 2**15 - position % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """What an offline W&B run has logged: a mapping for each call; media are nested mappings."""
    rows = []
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            rows.append(_nested(record.history.item))
    return rows


def wandb_config(file: Path) -> dict[str, Any]:
    """The config of an offline W&B run, without W&B's own part."""
    config: dict[str, Any] = {}
    for record in wandb_records(file):
        for update in (record.config.update, record.run.config.update):
            config |= _nested(update)
    return {key: value for key, value in config.items() if key != "_wandb"}


def wandb_summary(file: Path) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for record in wandb_records(file):
        summary |= _nested(record.summary.update)
    return summary


def _nested(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *parents, last = item.nested_key or [item.key]
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
    return found
