"""A logger for TensorBoard that continues a resumed run."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pytorch_lightning.loggers import TensorBoardLogger as LightningTensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from evaluation.analysis import Analysis
from lit_modules.loggers.forgiven import Forgiven
from lit_modules.loggers.settings import flattened
from lit_modules.loggers.tensorboard_file import cut
from reports.terminal import metrics_text
from reports.validation_pictures import Picture, as_jpeg, drawn

_SETTINGS = "_hparams_/session_start_info"
"""The name under which TensorBoard keeps the settings of a run."""


class TensorBoardLogger(LightningTensorBoardLogger):
    """Writes event files to the run's folder, `tensorboard/`, one for each part of a resumed run.

    Each call writes to the disk before it returns, so that a kill loses nothing up to the last checkpoint. A failure to
    write costs a warning, not the run.
    """

    def __init__(self, folder: str) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError(
                "logger=tensorboard: the package tensorboard is not installed; pip install tensorboard, or choose "
                "logger=csv"
            )
        super().__init__(folder, name="", version="tensorboard")
        self._forgiven = Forgiven("TensorBoard")
        self._kept: set[tuple[str, int]] = set()

    @property
    def _writer(self) -> Any:
        return cast(Any, self.experiment)  # pyright: ignore[reportUnknownMemberType]

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Deletes what was logged after a step, from the files and from a TensorBoard that has read them."""
        with self._forgiven():
            files = list(Path(self.log_dir).glob("events.out.tfevents.*"))
            for file in files:
                self._kept |= cut(file, step)
            if files:
                self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the settings that a run began with, by dotted names, and the monitored metric."""
        if any(name == _SETTINGS for name, _ in self._kept):
            return
        with self._forgiven():
            summaries = import_module("torch.utils.tensorboard.summary")
            settings = flattened({key: value for key, value in params.items() if key != "overrides"})
            metric = settings.get("callbacks.checkpoints.monitor", "val/loss")
            for summary in summaries.hparams(settings, {metric: 0.0}):
                self._writer._get_file_writer().add_summary(summary)
            self._writer.flush()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._forgiven():
            super().log_metrics({name: metrics[name] for name in metrics if self._is_new(name, step)}, step)
            self._writer.flush()

    @rank_zero_only
    def log_validation(self, analysis: Analysis, pictures: Mapping[str, Sequence[Picture]], step: int) -> None:
        """Logs pictures of the fixed and the worst images, and the metrics of each class as a table."""
        self.log_pictures(analysis, pictures, step)
        with self._forgiven():
            if self._is_new("analysis/per_class/text_summary", step):
                table = metrics_text(analysis.metrics)
                self._writer.add_text(
                    "analysis/per_class", "\n".join(f"    {line}" for line in table.split("\n")), step
                )
                self._writer.flush()

    @rank_zero_only
    def log_pictures(self, analysis: Analysis, pictures: Mapping[str, Sequence[Picture]], step: int) -> None:
        """Logs the pictures of the run's folder: fixed images by their names, the worst by their rank."""
        with self._forgiven():
            for role, shown in pictures.items():
                for rank, picture in enumerate(shown, 1):
                    name = f"pictures/{role}/{picture.stem if role == 'fixed' else rank}"
                    if self._is_new(name, step):
                        self._add_picture(name, analysis, picture, step)
            self._writer.flush()

    def _add_picture(self, name: str, analysis: Analysis, picture: Picture, step: int) -> None:
        """Adds a JPEG, where `add_image` would make a PNG."""
        protocol = import_module("tensorboard.compat.proto.summary_pb2")
        image = drawn(analysis, picture)
        height, width, channels = image.shape
        content = protocol.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=as_jpeg(image)
        )
        self._writer._get_file_writer().add_summary(
            protocol.Summary(value=[protocol.Summary.Value(tag=name, image=content)]), step
        )

    @rank_zero_only
    def save(self) -> None:
        """Does nothing: each call has written to the disk already, and the run's folder has config.yaml."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with self._forgiven():
            super().finalize(status)

    def _is_new(self, name: str, step: int | None) -> bool:
        """Whether a value was not logged before the run was killed: a validation may be repeated."""
        return (name, step or 0) not in self._kept
