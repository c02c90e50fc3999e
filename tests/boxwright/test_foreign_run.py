"""What benchmark.py makes of a checkpoint's config beside module and data names a run's own classes alone."""

from typing import Any

import pytest
from composing import composed

from boxwright.checkpoints.trust import refuse_foreign_run
from boxwright.config.files import plain

FLIP = {"_target_": "albumentations.HorizontalFlip", "p": 0.5}
HANDLER = {"_target_": "logging.FileHandler", "filename": "ran"}


def config(**of_data: Any) -> dict[str, Any]:
    whole = plain(composed("data=shapes"))
    return {**whole, "data": {**whole["data"], **of_data}}


def test_a_run_with_augmentations_passes() -> None:
    several = {"_target_": "albumentations.OneOf", "transforms": [FLIP, {"_target_": "albumentations.Blur"}]}
    refuse_foreign_run(config(augmentations={"flip": FLIP, "several": several}))
    refuse_foreign_run({"data": {}})


@pytest.mark.parametrize(
    "node",
    [
        HANDLER,
        {**FLIP, "p": HANDLER},
        {"_target_": "albumentations.OneOf", "transforms": [FLIP, HANDLER]},
        {"_target_": "albumentations.load", "filepath_or_buffer": "ran"},
        {"_target_": "albumentations.core.serialization.Path", "0": "ran"},
        {"_target_": "albumentations.no_such_thing"},
        {"_target_": ["albumentations.HorizontalFlip"]},
    ],
)
def test_augmentations_that_are_no_transforms_are_refused(node: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data\.augmentations\.x.*_target_ is .*: a checkpoint may only name"):
        refuse_foreign_run(config(augmentations={"x": node}))


@pytest.mark.parametrize(
    ("part", "node"),
    [
        ("trainer", HANDLER),
        ("trainer", {"_target_": "pytorch_lightning.Trainer", "strategy": HANDLER}),
        ("trainer", {"_target_": "pytorch_lightning.Trainer", "plugins": [HANDLER]}),
        ("callbacks", {"averaging": HANDLER}),
    ],
)
def test_a_trainer_or_an_average_of_another_class_is_refused(part: str, node: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{part}.*_target_ is 'logging.FileHandler'"):
        refuse_foreign_run({**config(), part: node})


def test_a_trainer_out_of_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.strategy is .*has no interpolations"):
        refuse_foreign_run({**config(), "trainer": {"strategy": "${oc.create:'{_target_: logging.FileHandler}'}"}})
