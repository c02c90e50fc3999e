"""Checks whether model, metric and batch size are compatible with the data set; imports nothing heavy."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from boxwright.config.errors import ConfigError
from boxwright.config.files import nearest, options, origin
from boxwright.config.signatures import class_constant, constant, inherits


def scored(data: str) -> tuple[str, ...]:
    """Lists the metrics of an evaluation on a data set of this `_target_`, the one to compare by first."""
    groups: tuple[str, ...] = class_constant(data, "metrics", ("coco",))
    return tuple(name for group in groups for name in constant("evaluation.truth", f"{group.upper()}_METRICS"))


def has_whole_images(data: str) -> bool:
    """Whether a data set of this `_target_` has a class for each image, and no boxes."""
    return class_constant(data, "whole_images", False)


def match_problems(cfg: DictConfig) -> Iterator[str]:
    """Yields a message for a detector on data without boxes, and for a classifier on data with boxes."""
    if cfg.get("data") is None:
        return
    whole = has_whole_images(cfg.data._target_)
    if whole and cfg.get("predictions") is not None:
        yield "predictions=FILE.json with data=imagefolder: a results file has boxes, and an image folder has none"
    if cfg.get("model") is None or whole == inherits(cfg.model._target_, "lit_modules.classifier.ClassifierModule"):
        return
    if whole:
        models = [model for model in options("model") if model != "classifier"]
        yield (
            f"data=imagefolder has a class for each image and no boxes: give model=classifier, or a data set with "
            f"boxes for model={', '.join(models)}"
        )
    else:
        yield "model=classifier needs a class for each image: give data=imagefolder, or another model"


def class_problems(cfg: DictConfig) -> Iterator[str]:
    """Another number of classes in the model than in the data: labels would be those of other classes, or of none."""
    numbers = [OmegaConf.select(cfg, f"{part}.num_classes") for part in ("model", "data")]
    if None not in numbers and numbers[0] != numbers[1]:
        model, data = numbers
        yield (
            f"model.num_classes={model} ({origin('model.num_classes')}), but data.num_classes={data}: a model has the "
            "classes of its data, and background is none of them; leave model.num_classes out. What the data have is "
            "stated by data.num_classes, or by data.classes=[..]"
        )


def start_problems(cfg: DictConfig) -> Iterator[str]:
    """Classes to start from, and no checkpoint that has them."""
    given: DictConfig | None = cfg.get("init_classes")
    if not given:
        return
    if cfg.get("init_from") is None:
        yield (
            f"init_classes={dict(given)} ({origin('init_classes')}) names classes of the checkpoint that a run starts "
            "from: give init_from=CHECKPOINT, or leave it out"
        )
    if strays := [name for name, other in given.items() if not isinstance(other, str | None)]:
        yield (
            f"init_classes.{strays[0]}={given[strays[0]]!r} ({origin('init_classes')}): expected the name of a class "
            "(in quotes where it is a number) or null"
        )


def monitor_problems(cfg: DictConfig) -> Iterator[str]:
    """Yields messages on metrics that no validation of this data set computes, and on a mode that keeps the worst."""
    callbacks: dict[str, Any] = dict(cfg.get("callbacks") or {})
    for name, callback in callbacks.items():
        monitor: str | None = callback.get("monitor")
        if monitor is None:
            continue
        classes: list[str] | None = cfg.data.get("classes")
        legal = ["val/loss", *(f"val/{metric}" for metric in scored(cfg.data._target_))]
        of_classes = [f"val/AP_class/{of_class}" for of_class in classes or ()]
        stems = ["val/loss_"] if has_whole_images(cfg.data._target_) else ["val/loss_", "val/AP_class/"]
        key, mode = f"callbacks.{name}.monitor", f"callbacks.{name}.mode"
        if monitor not in legal + of_classes and not monitor.startswith(tuple(stems[:1] if classes else stems)):
            near = nearest(monitor, legal + of_classes)
            yield (
                f"{key}={monitor!r} ({origin(key)}): no metric of this data set{near}; "
                f"there are {', '.join(legal)}, {', '.join(f'{stem}*' for stem in stems)}"
            )
        best = "min" if monitor.startswith("val/loss") else "max"
        if callback.get("mode", best) != best:
            yield f"{mode}={callback.mode!r} ({origin(mode)}): expected {best}, where {monitor} is best"


def refuse_uneven_batch(cfg: DictConfig) -> None:
    """Raises ConfigError before the imports, where the number of devices is known; else the sampler raises it later."""
    devices = cfg.trainer.devices
    if not isinstance(devices, int) or devices < 1:
        return
    parts = devices * cfg.trainer.num_nodes * cfg.trainer.accumulate_grad_batches
    size = cfg.data.batch_size
    if size % parts:
        nearest = " or ".join(str(n) for n in (size // parts * parts, -(-size // parts) * parts) if n)
        raise ConfigError(
            f"data.batch_size={size}, the images of one optimizer step, must be divisible by trainer.devices x "
            f"trainer.num_nodes x trainer.accumulate_grad_batches = {parts}; the nearest that is: {nearest}"
        )
