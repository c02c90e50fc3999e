"""What the type of a setting does not tell: how small and how large its values may be. Imports nothing heavy.

For settings of Lightning's Trainer, which would refuse them without their key, fail at some step, or train nothing; and
for those of which any number gives a network, a loss and a rate, such as a negative weight decay. Other values are
checked by the classes and functions of this project that they are passed to.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

Limit = tuple[Callable[[Any], bool], str]
"""Whether a value is legal, and what is expected."""


def _from(least: int, words: str = "", *others: Any) -> Limit:
    return lambda value: value in others or value >= least, f"{least} or more{words}"


def _between(least: float, most: float, words: str = "", open_ends: bool = False) -> Limit:
    """Null is legal where the type has it; `open_ends`: both ends are not."""
    return lambda value: value is None or (least < value < most if open_ends else least <= value <= most), (
        f"more than {least:g} and less than {most:g}{words}" if open_ends else f"{least:g} to {most:g}{words}"
    )


def _positive(words: str = "") -> Limit:
    return lambda value: value is None or value > 0, f"more than 0{words}"


def _are_milestones(value: Any) -> bool:
    return all(step >= 0 and (step <= 1 or step == int(step)) for step in cast("list[float]", value))


def _are_devices(value: Any) -> bool:
    if isinstance(value, str):
        return value == "auto" or re.fullmatch(r"-1|\d+(,\d+)*,?", value.replace(" ", "")) is not None
    return len(cast("list[int]", value)) > 0 if isinstance(value, list) else value == -1 or value > 0


def _share(without: str) -> Limit:
    """Of the batches that there are: an integer is their number."""
    return lambda value: value >= 1 if isinstance(value, int) else 0 < value <= 1, (
        f"1 or more batches, or a fraction of them up to 1.0{without}"
    )


def _share_of_samples() -> Limit:
    return lambda value: 0 < value <= 1, "a share over 0 and up to 1: without any object nothing is learnt"


def _is_time(value: str) -> bool:
    return re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value) is not None and any(map(int, value.split(":")))


def _is_name(value: str) -> bool:
    is_plain = value.isprintable() and not set('"\\$') & set(value)
    return is_plain and all(part.strip(". ") for part in value.split("/"))


_DEVICES: Limit = (_are_devices, "1 or more, -1 or auto for all there are, or a list of their numbers")

LIMITS: dict[str, Limit] = {
    "name": (_is_name, 'the name of a folder below runs/, without ", \\ and $'),
    "seed": (lambda value: 0 <= value < 2**32, "0 to 4294967295"),
    "devices": _DEVICES,
    "trainer.devices": _DEVICES,
    "trainer.num_nodes": _from(1),
    "trainer.max_steps": _from(1, ", or -1 to train until trainer.max_epochs", -1),
    "trainer.max_epochs": _from(1, ", or -1 to train until trainer.max_steps", -1),
    "trainer.max_time": (
        lambda value: value is None or _is_time(value.strip()),
        'days:hours:minutes:seconds over 0, such as "00:12:00:00", or null',
    ),
    "trainer.val_check_interval": _from(1, " optimizer steps, or null for one validation after each epoch", None),
    "trainer.limit_train_batches": _share(""),
    "trainer.limit_val_batches": _share(": checkpoints are compared by their validation"),
    "trainer.limit_test_batches": _share("; test=false leaves the test out"),
    "trainer.accumulate_grad_batches": _from(1),
    "trainer.gradient_clip_val": _from(0, ", or null to clip nothing", None),
    "trainer.log_every_n_steps": _from(1),
    "model.num_convs": _from(0),
    "model.head_convs": _from(0),
    "model.pyramid_channels": _from(1, "", None),
    "model.head_channels": _from(1),
    "model.grid_offset": _between(0, 1, " of a stride"),
    "model.backbone.groups": _from(1),
    "model.backbone.width_per_group": _from(1),
    "model.loss.center_sampling": _positive(", in strides, or null for all of a box"),
    "model.loss.focal_alpha": _between(0, 1, ", the weight of objects; the background has the rest", open_ends=True),
    "model.loss.focal_gamma": _from(0),
    "model.loss.box_loss_weight": _from(0),
    "model.anchor_sampler.positive_fraction": _share_of_samples(),
    "model.region_sampler.positive_fraction": _share_of_samples(),
    "model.train_proposer.min_size": _from(0, " pixels"),
    "model.proposer.min_size": _from(0, " pixels"),
    "model.decoder.min_size": _from(0, " pixels"),
    "data.num_classes": _from(1),
    "data.flip": _between(0, 1),
    "data.vertical_flip": _between(0, 1),
    "data.min_box": _from(0, " pixels"),
    "data.train_images": _from(1),
    "data.val_images": _from(1),
    "data.image_size": _from(64, " pixels, in which the shapes have room"),
    "optimizer.momentum": _between(0, 1),
    **{
        f"optimizer.{name}": _from(0)
        for name in ("weight_decay", "bias_lr_factor", "bias_decay_factor", "norm_decay_factor", "backbone_lr_factor")
    },
    "schedule.milestones": (_are_milestones, "steps, or fractions of the run, of 0 or more"),
    "schedule.gamma": _positive(),
    "schedule.warmup_steps": _from(0),
    "schedule.warmup_factor": _between(0, 1),
    "schedule.final_factor": _between(0, 1),
    "schedule.patience": _from(0, " validations"),
    "schedule.factor": _between(0, 1, "; the rate falls", open_ends=True),
    "schedule.threshold": _from(0),
}


def unlimited(cfg: DictConfig) -> Iterator[str]:
    """A run without an end, whose schedule could not follow its length."""
    ends = ("trainer.max_steps", "trainer.max_epochs")
    if all(OmegaConf.select(cfg, key) == -1 for key in ends):
        yield (
            f"{'=-1 and '.join(ends)}=-1: the schedule follows the length of the run; give one of them "
            "(trainer.max_time may end the run earlier)"
        )
