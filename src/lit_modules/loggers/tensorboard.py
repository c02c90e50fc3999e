"""TensorBoard's event files in the folder of a run."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from pytorch_lightning.loggers import TensorBoardLogger as LightningTensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from evaluation.analysis import Analysis
from reports.validation_pictures import Picture, drawn


class TensorBoardLogger(LightningTensorBoardLogger):
    """Curves and pictures in `tensorboard/` of the run's folder: `tensorboard --logdir runs` shows all runs.

    A resumed run adds a file, in which TensorBoard is told to forget what was logged after the checkpoint's step.
    """

    def __init__(self, folder: str) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError(
                "logger=tensorboard: the package tensorboard is not installed; pip install tensorboard, or choose "
                "logger=csv"
            )
        super().__init__(folder, name="", version="tensorboard", default_hp_metric=False)

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Hides what was logged after a step."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def log_validation(self, analysis: Analysis, shown: Mapping[str, Sequence[Picture]], step: int) -> None:
        """Logs the pictures of a validation, each with its true and predicted boxes side by side."""
        self.log_pictures(analysis, shown, step)

    @rank_zero_only
    def log_pictures(self, analysis: Analysis, shown: Mapping[str, Sequence[Picture]], step: int) -> None:
        experiment = cast(Any, self.experiment)  # pyright: ignore[reportUnknownMemberType]
        for role, pictures in shown.items():
            for place, picture in enumerate(pictures):
                name = picture.stem if role == "fixed" else str(place + 1)
                image = np.ascontiguousarray(drawn(analysis, picture))
                experiment.add_image(f"pictures_{role}/{name}", image, step, dataformats="HWC")
