"""A look at a data set before training: what is in it, what is wrong with it, how detectors' targets meet it."""

import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from boxwright.checkpoints.reading import without_weights
from boxwright.config.compatible import has_whole_images
from boxwright.config.errors import ConfigError
from boxwright.frame import quieten
from boxwright.inspect_data.coverage import Targets, cover
from boxwright.inspect_data.terminal import tell
from datamodules.survey import Survey
from evaluation.truth import Truth
from evaluation.wording import counted
from reports.inspection_tables import Inspection, SplitCounts
from reports.terminal import show_bar

log = logging.getLogger(__name__)

_BATCHES, _BATCH_IMAGES = 2, 16
_LISTED = 500  # problems of one rule on the page
_UNREADABLE = "an image file can't be read as it is annotated"
_DOUBTFUL = "the boxes of a file are likely of another form"
_NO_BOX = "there is no box to train on"


@dataclass
class Found:
    """Problems make the inspection fail, warnings don't."""

    problems: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    warnings: list[str] = field(default_factory=list[str])

    def problem(self, rule: str, text: str) -> None:
        self.counts[rule] += 1
        if self.counts[rule] <= _LISTED:
            self.problems.append(text)


def inspect(cfg: DictConfig) -> int:
    """Print the tables, write inspection.html, return the number of problems."""
    quieten()
    warnings.filterwarnings("ignore", "split ")  # of `datamodules.checks`: it is all in `Found`
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.sample is not None and cfg.sample < 1:
        raise ConfigError(f"sample={cfg.sample}: expected a number of images, or null for all")
    if has_whole_images(cfg.data._target_):
        raise ConfigError("data=imagefolder has a class for each image, and no boxes to inspect")
    found = Found()
    data, module, surveys = _open(cast(dict[str, Any], OmegaConf.to_container(cfg.data, resolve=True)), found)
    names: tuple[str, ...] = module.class_names
    indexes: set[str] = set()
    check_boxes: bool = cfg.data.get("check_boxes", True)  # which a data set of one's own may lack
    for role, survey in surveys.items():
        if survey.name not in indexes:  # val_fraction parts one index
            _collect(survey, found, check_boxes)
        indexes.add(survey.name)
        if survey.without_box and role == "train" and check_boxes:
            found.problem(_NO_BOX, f"{survey.name}: {survey.without_box}")
        elif survey.without_box:
            use = "train on" if role == "train" else "score"
            found.warnings.append(f"{role}, {survey.name}, has no box to {use}: {survey.without_box}")
        _warn_of_boxes(role, survey, module.min_box, names, found)
    if cfg.read_images:
        _read_images(module, surveys, found)
    else:
        for role, survey in surveys.items():
            for at in survey.missing:
                image_id = survey.truth.image_ids[at].item()
                found.problem(_UNREADABLE, f"{role}, image {image_id!r}: {survey.paths[at]} does not exist; restore it")
    splits = [_count(role, survey, len(names)) for role, survey in surveys.items()]
    _warn_of_classes(splits, names, found)
    role, survey = next(iter(surveys.items()))
    coverage = None
    if survey.used.any():
        bar = partial(_track, "assigning locations")
        coverage = cover(survey, module.resize_rule, role, cfg.sample, cfg.seed, bar, Targets.of(_model(cfg)))
    batches = _training_batches(data, found, tell_unread=not cfg.read_images) if "train" in surveys else []
    inspection = Inspection(names, splits, found.problems, dict(found.counts.most_common()), found.warnings, coverage)

    from reports.html import write_page
    from reports.inspection import data_page  # takes matplotlib

    file, root = folder / "inspection.html", Path(data["root"]).expanduser().absolute()
    write_page(file, data_page(inspection, batches, root, _facts(cfg, data, module)))
    tell(inspection)
    log.info("saved as %s", file)
    return sum(found.counts.values())


def _open(data: dict[str, Any], found: Found) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The settings that open as much as possible, their data module, the survey of each split that opens.

    Why another doesn't is a problem. Classes that `data.classes` lacks are one too; they are dropped to find more.
    """
    data = {**data, "on_error": "skip", "check_boxes": False}
    while True:
        module = instantiate({**data, "empty_images": "keep"})
        module.prepare_data()
        surveys: dict[str, Any] = {}
        reasons: list[str] = []
        for role in ("train", "val"):
            try:
                surveys[role] = module.survey(role)
            except (OSError, ValueError) as error:
                reasons.append(str(error))
        for reason in reasons:
            if reason not in found.problems:
                found.problem("a split can't be opened as it is configured", reason)
        if not reasons or data.get("other_classes", "drop") == "drop":
            break
        data["other_classes"] = "drop"
    if not surveys:
        raise ConfigError("\n".join(["No split can be opened:", *(f"  - {reason}" for reason in found.problems)]))
    return data, module, surveys


def _model(cfg: DictConfig) -> Any:
    """The module that would be trained, without its numbers."""
    model = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))["model"]
    with torch.device("meta"):
        return instantiate(without_weights(model))


def _collect(survey: Survey, found: Found, check_boxes: bool) -> None:
    """What the reader of the annotations found."""
    for text in [*survey.findings.refused, *survey.findings.doubts] if check_boxes else ():
        found.problem(_DOUBTFUL, text)
    found.warnings += survey.notes
    found.problems += survey.findings.problems
    found.counts.update(survey.findings.counts)
    if survey.findings.filled:
        filled = ", ".join(f"{key}, {counted(count, 'time')}" for key, count in survey.findings.filled.items())
        found.warnings.append(f"{survey.name}, keys that were missing and are filled in: {filled}")


def _warn_of_boxes(role: str, survey: Survey, min_box: float, names: tuple[str, ...], found: Found) -> None:
    """Legal boxes that may not be meant: left out by their class, of a pixel, or there twice."""
    truth: Truth = survey.truth
    if survey.others:
        most = sorted(survey.others.items(), key=lambda item: -item[1][0])
        total = sum(count for _, (count, _) in most)
        listed = ", ".join(f"{name!r} {count} (the first in {path})" for name, (count, path) in most[:5])
        more = f", and of {len(most) - 5} more classes" if len(most) > 5 else ""
        found.warnings.append(f"{role}, boxes of classes that data.classes leaves out: {total}; {listed}{more}")

    def told(boxes: np.ndarray) -> str:
        some: list[str] = []
        for i in boxes[:5]:
            corners = ", ".join(f"{number:g}" for number in truth.boxes[i])
            some.append(f"{names[truth.labels[i]]} [{corners}] of image {truth.image_ids[truth.image_index[i]]}")
        return f"{len(boxes)}, xyxy {'; '.join(some)}{'; ...' if len(boxes) > len(some) else ''}"

    side = max(1.0, min_box)
    thin = np.flatnonzero((truth.boxes[:, 2:] - truth.boxes[:, :2]).min(axis=1, initial=np.inf) <= side)
    if len(thin):
        found.warnings.append(f"{role}, boxes at most {side:g} pixel wide or high: {told(thin)}")
    small = np.flatnonzero(_too_small(survey))
    if role == "train" and len(small):
        found.warnings.append(f"{role}, boxes left out of training by data.min_box={min_box:g}: {told(small)}")
    rows = np.column_stack([truth.image_index, truth.labels, truth.boxes])
    _, first = np.unique(rows, axis=0, return_index=True)
    twice = np.setdiff1d(np.arange(len(rows)), first)
    if len(twice):
        found.warnings.append(f"{role}, boxes that repeat another of their class exactly: {told(twice)}")


def _too_small(survey: Survey) -> np.ndarray:
    truth: Truth = survey.truth
    return ~(survey.used | truth.crowd | truth.difficult)


def _count(role: str, survey: Survey, num_classes: int) -> SplitCounts:
    """Training leaves out crowds, difficult and small boxes; evaluation crowds and difficult ones."""
    truth: Truth = survey.truth
    small = _too_small(survey)
    counted = survey.used if role == "train" else ~(truth.crowd | truth.difficult)
    images, labels = truth.image_index[counted], truth.labels[counted]
    of_class = np.unique(images * num_classes + labels) % num_classes
    return SplitCounts(
        role=role,
        name=survey.name,
        images=len(truth.image_ids),
        empty=len(truth.image_ids) - len(np.unique(images)),
        boxes=len(truth.boxes),
        crowd=int(truth.crowd.sum()),
        difficult=int((truth.difficult & ~truth.crowd & ~counted).sum()),
        small=int(small.sum()) if role == "train" else None,
        others=sum(count for count, _ in survey.others.values()),
        per_class=np.bincount(labels, minlength=num_classes),
        images_per_class=np.bincount(of_class, minlength=num_classes),
    )


def _warn_of_classes(splits: list[SplitCounts], names: tuple[str, ...], found: Found) -> None:
    for split in splits:
        absent = [name for name, count in zip(names, split.per_class.tolist(), strict=True) if not count]
        effect = "can't be learnt" if split.role == "train" else "have no AP"
        if 0 < len(absent) < len(names):  # else there is no box at all, which is said
            found.warnings.append(
                f"{split.role}, classes without a box, which {effect}: {len(absent)}, {', '.join(absent)}"
            )


def _read_images(module: Any, surveys: dict[str, Any], found: Found) -> None:
    """Unreadable images are problems; copies within a split are told, and those of train in val, which are a leak."""
    firsts: dict[str, dict[bytes, str]] = {}
    for role, survey in surveys.items():
        first = firsts[role] = dict[bytes, str]()
        copies, leaks = list[tuple[str, str]](), list[tuple[str, str]]()
        checks = itertools.chain.from_iterable(module.image_files(role))
        for check in _track(f"reading {role} images", checks, len(survey.paths)):
            path = survey.paths[check.row]
            if check.error is not None:
                found.problem(_UNREADABLE, f"{role}, {check.error}")
                continue
            if role == "val" and check.digest in firsts.get("train", {}):
                leaks.append((firsts["train"][check.digest], path))
            if first.setdefault(check.digest, path) != path:
                copies.append((first[check.digest], path))
        for what, pairs in (
            ("images that are there more than once", copies),
            ("images that are in train as well, which makes its scores too good", leaks),
        ):
            if pairs:
                found.warnings.append(f"{role}, {what}: {_pairs(pairs, len(survey.paths))}")


def _pairs(copies: list[tuple[str, str]], number: int) -> str:
    pairs = "; ".join(a if a == b else f"{a} = {b}" for a, b in copies[:5])
    return f"{len(copies)} of {number}, {pairs}{'; ...' if len(copies) > 5 else ''}"


def _training_batches(data: dict[str, Any], found: Found, tell_unread: bool) -> list[list[Any]]:
    """The first batches that training would see."""
    from reports.inspection import TrainingImage

    batches: list[list[Any]] = []
    try:
        # The stream is the same with any number of workers, and errors are clearer without.
        loader = instantiate({**data, "num_workers": 0}).train_dataloader()
        for batch in itertools.islice(loader, _BATCHES):
            height, width = batch.images.shape[-2:]
            images: list[Any] = []
            for at, info in enumerate(batch.infos[:_BATCH_IMAGES]):
                is_box = batch.labels[at] >= 0
                own_height, own_width = batch.sizes[at].tolist()
                images.append(
                    TrainingImage(
                        batch.images[at].permute(1, 2, 0).numpy(),
                        batch.boxes[at][is_box].double().numpy(),
                        batch.labels[at][is_box].numpy(),
                        f"{info.image_id}\n{own_width} x {own_height} on a canvas of {width} x {height}",
                    )
                )
            batches.append(images)
            for info in batch.unread if tell_unread else ():
                text = f"train, image {info.image_id!r}: {info.error}"
                if text not in found.problems:
                    found.problem(_UNREADABLE, text)
    except (OSError, ValueError) as error:
        found.problem("training batches can't be made", str(error))
    return batches


def _facts(cfg: DictConfig, data: dict[str, Any], module: Any) -> dict[str, str]:
    """What the numbers on the page depend on."""
    scale, transforms = module.multi_scale, cast(dict[str, Any], data.get("augmentations") or {})
    shown = min(_BATCH_IMAGES, module.batch_size)
    drawn = f"; training draws its size between {scale[0]:g} and {scale[1]:g} times that" if scale else ""
    return {
        "network input": module.rule_name + drawn,
        "batch": f"{module.batch_size} images" + (f", {shown} of them shown" if shown < module.batch_size else ""),
        "mirrored": f"left to right with probability {module.flip:g}, top to bottom {module.vertical_flip:g}",
        "augmentations": ", ".join(transforms) or "none",
        "image files": "all read" if cfg.read_images else "not read (read_images=false)",
    }


def _track(what: str, items: Iterable[Any], total: int) -> Iterable[Any]:
    return track(items, what, total, transient=True) if show_bar() else items
