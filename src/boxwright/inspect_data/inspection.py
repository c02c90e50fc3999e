"""Inspects a data set before training: what is in it, what is wrong with it, how well targets cover its boxes."""

import itertools
import logging
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from boxwright.config.errors import ConfigError
from boxwright.inspect_data import checks
from boxwright.inspect_data.checks import NO_BOX, UNREADABLE, Problems
from boxwright.inspect_data.coverage import Targets, cover
from boxwright.inspect_data.terminal import print_tables, with_bar
from datamodules.base import DetectionDataModule
from datamodules.survey import Survey
from lit_modules.stored import without_weights
from reports.inspection_tables import Coverage, Inspection, Repetition, SplitCounts

log = logging.getLogger(__name__)

_BATCHES, _BATCH_IMAGES = 2, 16


@dataclass(frozen=True)
class Opened:
    """A data set whose splits are open, and the problems found in it so far."""

    cfg: DictConfig
    data: dict[str, Any]
    """The settings with which as much as possible opens."""
    module: DetectionDataModule
    surveys: dict[str, Survey]
    """Splits that open, by role: `train`, `val`."""
    found: Problems

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.module.class_names


def open_splits(cfg: DictConfig) -> Opened:
    """Opens every split that can be opened; the reason why another can't is a problem.

    Classes that `data.classes` lacks are a problem too, and are dropped to find further ones. Raises ConfigError where
    no split opens.
    """
    warnings.filterwarnings("ignore", "split ")  # those of `datamodules.checks`: they are listed in `Problems`
    found = Problems()
    data = cast(dict[str, Any], OmegaConf.to_container(cfg.data, resolve=True)) | {
        "on_error": "skip", "check_boxes": False,
    }  # fmt: skip
    while True:
        module: DetectionDataModule = instantiate({**data, "empty_images": "keep"})
        module.prepare_data()
        surveys: dict[str, Survey] = {}
        reasons: list[str] = []
        seen: set[str] = set()
        for role in ("train", "val"):
            try:
                surveys[role] = module.survey(role)
            except (OSError, ValueError) as error:
                lines = str(error).splitlines()
                reasons.append("\n".join(line for line in lines if line not in seen))  # what lies there, only once
                seen.update(lines)
        reasons = [reason for reason in reasons if reason]
        for reason in reasons:
            if reason not in found.listed:
                found.add("a split can't be opened as it is configured", reason)
        if not reasons or data.get("other_classes", "drop") == "drop":
            break
        data["other_classes"] = "drop"
    if not surveys:
        raise ConfigError("\n".join(["No split can be opened:", *(f"  - {reason}" for reason in found.listed)]))
    return Opened(cfg, data, module, surveys, found)


def check_annotations(opened: Opened) -> None:
    """Collects the problems of the annotations, and warns of legal boxes that may not be intended."""
    seen: set[str] = set()
    check_boxes: bool = opened.cfg.data.get("check_boxes", True)  # which a data set of one's own may lack
    for role, survey in opened.surveys.items():
        if survey.name not in seen:  # val_fraction parts one index
            checks.collect(survey, opened.found, opened.cfg.read_images, check_boxes)
            if told := survey.findings.told():
                log.info("%s: %s", survey.name, told)
        seen.add(survey.name)
        if survey.without_box and role == "train" and check_boxes:
            opened.found.add(NO_BOX, f"{survey.name}{opened.module.named(survey.name)}: {survey.without_box}")
        elif survey.without_box:
            use = "train on" if role == "train" else "score"
            opened.found.warnings.append(
                f"{role}, {survey.name}{opened.module.named(survey.name)}, has no box to {use}: {survey.without_box}"
            )
        checks.warn_of_boxes(role, survey, opened.module.min_box, opened.class_names, opened.found)


def check_images(opened: Opened) -> None:
    """Reads every image file; with `read_images=false` looks only whether the files exist."""
    if opened.cfg.read_images:
        checks.read_images(opened.module, opened.surveys, opened.found)
        return
    for role, survey in opened.surveys.items():
        for at in survey.missing:
            image_id = survey.truth.image_ids[at].item()
            opened.found.add(UNREADABLE, f"{role}, image {image_id!r}: {survey.paths[at]} does not exist; restore it")


def count_boxes(opened: Opened) -> list[SplitCounts]:
    """Counts the images and boxes of each split, and warns of classes without boxes."""
    splits = [checks.count(role, survey, len(opened.class_names)) for role, survey in opened.surveys.items()]
    checks.warn_of_classes(splits, opened.class_names, opened.found)
    return splits


def _repetition(opened: Opened) -> Repetition | None:
    """Computes how images are repeated in training; None where they aren't, or none has a box."""
    survey, module = opened.surveys.get("train"), opened.module
    if survey is None or module.repeat_threshold is None or not survey.used.any():
        return None
    drops_empty = opened.data.get("empty_images") == "drop"
    return checks.repetition(survey, len(opened.class_names), module.repeat_threshold, drops_empty)


def measure_coverage(opened: Opened) -> Coverage | None:
    """Measures how well targets cover the boxes of the first split; None where training uses none of them."""
    role, survey = next(iter(opened.surveys.items()))
    if not survey.used.any():
        return None
    cfg, bar = opened.cfg, partial(with_bar, "assigning locations")
    targets = Targets.of(_model(cfg))
    return cover(survey, opened.module.resize_rule, role, cfg.sample, cfg.seed, bar, targets)


def first_batches(opened: Opened) -> list[list[Any]]:
    """Makes the first batches that training would see; none without a training split."""
    if "train" not in opened.surveys:
        return []
    from reports.inspection import TrainingImage

    batches: list[list[Any]] = []
    try:
        # The stream is the same with any number of workers, and errors are clearer without.
        loader = instantiate({**opened.data, "num_workers": 0}).train_dataloader()
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
            for info in () if opened.cfg.read_images else batch.unread:  # else listed already
                text = f"train, image {info.image_id!r}: {info.error}"
                if text not in opened.found.listed:
                    opened.found.add(UNREADABLE, text)
    except (OSError, ValueError) as error:
        opened.found.add("training batches can't be made", str(error))
    return batches


def save(opened: Opened, splits: list[SplitCounts], coverage: Coverage | None, batches: list[list[Any]]) -> int:
    """Writes inspection.html, prints its tables, and returns the number of problems."""
    from reports.html import write_page
    from reports.inspection import data_page  # imports matplotlib

    found, counts = opened.found, dict(opened.found.counts.most_common())
    inspection = Inspection(
        opened.class_names, splits, found.listed, counts, found.warnings, coverage, _repetition(opened)
    )
    file = Path(HydraConfig.get().runtime.output_dir) / "inspection.html"
    root = Path(opened.data["root"]).expanduser().absolute()
    write_page(file, data_page(inspection, batches, root, _facts(opened)))
    print_tables(inspection)
    log.info("saved as %s", file)
    return sum(counts.values())


def _model(cfg: DictConfig) -> Any:
    """Builds the module that would be trained, on the meta device: without values."""
    model = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))["model"]
    with torch.device("meta"):
        return instantiate(without_weights(model))


def _facts(opened: Opened) -> dict[str, str]:
    """The settings that the numbers on the page depend on."""
    cfg, data, module = opened.cfg, opened.data, opened.module
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
