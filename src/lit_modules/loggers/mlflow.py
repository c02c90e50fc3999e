"""MLflow's local store."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger as LightningMLFlowLogger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

_NEEDED = ("mlflow", "sqlalchemy", "alembic")


class MLflowLogger(LightningMLFlowLogger):
    """Curves and config in an MLflow store: by default the database `runs/mlflow.db`, which all runs share.

    `tracking_uri`: null takes MLFLOW_TRACKING_URI where that is set. A resumed run continues the same MLflow run, whose
    id lies in the run's folder; what is logged again for a step stands there twice, as MLflow keeps every value.
    """

    def __init__(self, folder: str, experiment: str = "boxwright", tracking_uri: str | None = None) -> None:
        if missing := [package for package in _NEEDED if find_spec(package) is None]:
            raise ValueError(
                f"logger=mlflow: {', '.join(missing)} not installed; pip install mlflow, or choose logger=csv"
            )
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # or it speaks of its tables at every start
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            Path("runs").mkdir(exist_ok=True)
            uri = "sqlite:///runs/mlflow.db"
        self._identity = Path(folder, "mlflow_id")
        known = self._identity.read_text() if self._identity.exists() else None
        super().__init__(experiment, run_name=Path(folder).name, tracking_uri=uri, run_id=known)

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Remembers the MLflow run for a resume."""
        self._identity.write_text(str(self.run_id))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the config once: MLflow refuses other values of the same names."""
        if not self._identity.exists():
            super().log_hyperparams(params)
