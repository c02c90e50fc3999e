"""What a published checkpoint is in this project: contents of the form of our own checkpoints."""

import logging
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import Tensor

from boxwright.checkpoints.building import expected_state
from boxwright.config.errors import ConfigError
from boxwright.config.files import CONF
from boxwright.config.resolvers import register_resolvers
from boxwright.zoo.coco_classes import CATEGORY_IDS, CLASS_NAMES
from boxwright.zoo.download import digest_of, local_file
from boxwright.zoo.entry import Entry, Settings
from boxwright.zoo.names import NO_DATA
from datamodules.voc import VOC_CLASSES
from detectors.weights import caffe2, detectron2, fcos_core, read_weights, torchvision
from detectors.weights.pickles import read_pickle
from detectors.weights.renaming import Mapped
from lit_modules.machine import environment
from lit_modules.stored import FORMAT

log = logging.getLogger(__name__)

NAMES: dict[str, Callable[[Mapping[str, Tensor]], Mapped]] = {
    "torchvision_fcos": torchvision.coco_fcos,
    "torchvision_retinanet": torchvision.coco_retinanet,
    "torchvision_faster_rcnn": torchvision.coco_faster_rcnn,
    "detectron2_retinanet": detectron2.retinanet,
    "detectron2_faster_rcnn_fpn": detectron2.faster_rcnn_fpn,
    "detectron2_faster_rcnn_c4": detectron2.faster_rcnn_c4,
    "detectron2_faster_rcnn_dc5": detectron2.faster_rcnn_c4,
    "detectron2_rpn_fpn": detectron2.rpn_fpn,
    "detectron2_rpn_c4": detectron2.rpn_c4,
    "detectron2_x101_faster_rcnn_fpn": lambda state: detectron2.resnext(detectron2.faster_rcnn_fpn(state)),
    "fcos_core": fcos_core.fcos,
    "caffe2_faster_rcnn_fpn": caffe2.faster_rcnn_fpn,
    "caffe2_faster_rcnn_c4": caffe2.faster_rcnn_c4,
}
"""How the tensors of each source become ours, by `Entry.names`."""
_COMMON = (f"data.root={NO_DATA}", "logger=csv", "trainer.precision=32-true")
_DATA: dict[str, Settings] = {
    "coco": ("data=coco",),
    "voc": ("data=voc",),
    "object": ("data=coco", "data.single_class=object"),
}
_CLASSES: dict[str, tuple[Sequence[str], Sequence[int]]] = {
    "coco": (CLASS_NAMES, CATEGORY_IDS),
    "voc": (VOC_CLASSES, range(1, len(VOC_CLASSES) + 1)),
    "object": (("object",), (1,)),
}
"""Names and numbers by `Entry.classes`."""
TOLERANCE = 0.002
"""What an evaluation of the published weights may be off by: resizing that rounds elsewhere, other rules of clipping
and of pixels (docs/zoo.md), other versions of libraries. Chosen, since nothing of the kind is published."""
_COUNTER = "num_batches_tracked"
NOT_RUN = {"detectron2_rpn_c4": "backbone.layer4."}
"""Layers of a backbone that neither run nor are in the files, by `Entry.names`: C5 behind a network over C4."""


def read_published(entry: Entry, file: Path | None = None) -> dict[str, Any]:
    """Contents of the form of our checkpoints: from a given file, or from the published one, downloaded once.

    `metrics` has the published figures, as fractions, under names such as published/AP, that no evaluation gives.
    ConfigError where the file can't be had, and where it holds something else.
    """
    path = local_file(entry) if file is None else file
    if file is not None and (problem := digest_of(entry, file).differs(file)):
        log.info("%s is not the file that was published as %s: %s", file, entry.name, problem)
    config = config_of(entry)
    try:
        mapped = NAMES[entry.names](_tensors(path))
        if "deformable_stages" in config["model"]["backbone"]:
            config["model"]["backbone"]["deformable_stages"] = _deformable_stages(mapped.state)
        expected = expected_state(config["model"])
        if (beginning := NOT_RUN.get(entry.names)) is not None:
            mapped = mapped.change(_of_zeros(beginning, expected, mapped.state))
        state = with_counters(mapped, expected)
    except ValueError as error:
        raise ConfigError(f"{path} can't be used as {entry.name}: {error}") from error
    if mapped.left_out:
        reasons = dict.fromkeys(mapped.left_out.values())
        log.info("%s: %d tensors of the file left out: %s", entry.name, len(mapped.left_out), "; ".join(reasons))
    class_names, category_ids = _CLASSES[entry.classes]
    return {
        "state_dict": {f"network.{name}": value for name, value in state.items()},
        "boxwright": {
            "format": FORMAT,
            "config": config,
            "class_names": list(class_names),
            "category_ids": list(category_ids),
            "exif": "apply",
            "metrics": {f"published/{metric}": value for metric, value in fractions(entry).items()},
            "thresholds": {},
            "versions": environment(),
            "published": {"name": entry.name, "source": entry.source, "split": entry.split, "file": str(path)},
        },
    }


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """The named tensors of a file: a state dict, or a pickle of detectron2 (`model`) or Caffe2 (`blobs`)."""
    if path.suffix != ".pkl":
        return read_weights(path)
    content = read_pickle(path)
    whole = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    return caffe2.blobs_of(whole.get("model", content))


def _deformable_stages(state: Mapping[str, Tensor]) -> list[int]:
    """Stages whose blocks are deformable: the file tells, and the authors' recipes of one name differ in it."""
    found = {re.match(r"backbone\.layer(\d)\.\d+\.conv2\.offset\.weight", name) for name in state}
    return sorted({int(match[1]) + 1 for match in found if match is not None})


def with_counters(mapped: Mapped, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mapped tensors with the counters of batch norms that the network has, and without those that it lacks."""
    names = {name.removeprefix("network.") for name in expected}
    state = {name: value for name, value in mapped.state.items() if name in names or not name.endswith(_COUNTER)}
    return state | {name: torch.tensor(0) for name in names if name.endswith(_COUNTER) and name not in state}


def _of_zeros(beginning: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the tensors of some layers that a file lacks."""
    names = {name.removeprefix("network."): value for name, value in expected.items()}
    lacking = {name: value for name, value in names.items() if name.startswith(beginning) and name not in state}
    return {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in lacking.items()}


def config_of(entry: Entry) -> dict[str, Any]:
    """The whole config of a run that would have given the entry: conf/ with its settings, resolved."""
    register_resolvers()
    lines = [*_DATA[entry.classes], *entry.network, *entry.decoding, *_COMMON, f"name={entry.name}"]
    lines += [f"expect.{metric}={value}" for metric, value in fractions(entry).items()]
    lines += [f"expect.data={entry.data}", f"expect.source='{entry.source}'", f"expect.tolerance={TOLERANCE}"]
    with _our_conf():
        cfg = compose("train", lines)
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def fractions(entry: Entry) -> dict[str, float]:
    """The published figures of an entry as fractions of 1."""
    return {metric: round(percent / 100, 6) for metric, percent in entry.figures.items()}


@contextmanager
def _our_conf() -> Generator[None]:
    """Composes from conf/ alone, also within a program that uses Hydra for itself."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
