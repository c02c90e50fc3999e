"""A logger for MLflow that needs no server, and continues a resumed run."""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from lit_modules.loggers.forgiven import Forgiven
from lit_modules.loggers.mlflow_file import cut
from lit_modules.loggers.settings import flattened

log = logging.getLogger(__name__)

_METRICS, _SETTINGS = 1000, 100
"""The most that MLflow accepts in one call."""
_LONGEST_NAME, _LONGEST_TEXT = 250, 6000


class MLflowLogger(Logger):
    """Curves and config in an MLflow store: by default the database `runs/mlflow.db`, which all runs share.

    `tracking_uri`: None takes MLFLOW_TRACKING_URI where that is set. A resumed run continues the same MLflow run, whose
    id is in the run's folder. With Lightning's own logger class names would lose all but ASCII letters, MLflow would
    reject more than 1000 metrics in a call and changed settings of a resumed run, and the default would be files that
    MLflow 3.17 rejects.
    What MLflow rejects once the run has begun costs a warning, not the run.
    """

    def __init__(self, folder: str, experiment: str = "boxwright", tracking_uri: str | None = None) -> None:
        super().__init__()
        require_packages()
        self._folder = Path(folder)
        self._experiment = experiment
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._files = None if given else Path("runs/mlflow").resolve()
        self.tracking_uri = given or f"sqlite:///{Path('runs/mlflow.db').resolve()}"
        self._forgiven = Forgiven("MLflow")
        self._kept: set[tuple[str, int]] = set()
        self._best_step = -1
        self._client: Any = None
        self._run_id = ""
        self._connect(tracking_uri)

    @rank_zero_only
    def _connect(self, given: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it reports its use; read at import
        from mlflow.tracking import MlflowClient

        for library in ("mlflow", "alembic"):  # which log every table that they create
            logging.getLogger(library).setLevel(logging.WARNING)
        if self._files is not None:
            self._files.parent.mkdir(exist_ok=True)
        try:
            self._client = MlflowClient(self.tracking_uri)
        except Exception as error:
            raise ValueError(
                f"logger.mlflow.tracking_uri={given}: MLflow can't use {self.tracking_uri} ({error}); expected"
                " sqlite:///FILE, the address of a server, or null for runs/mlflow.db"
            ) from error

    @property
    def experiment(self) -> Any:
        """The client of MLflow, once its run has begun; None on ranks other than 0."""
        self._begin()
        return self._client

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str:
        self._begin()
        return self._run_id

    @rank_zero_only
    def _begin(self) -> None:
        """Begins a run, or continues the one that `mlflow_id` in the run's folder names."""
        if self._run_id:
            return
        identity = self._folder / "mlflow_id"
        if identity.exists():
            self._run_id = identity.read_text()
            self._client.update_run(self._run_id, status="RUNNING")
            return
        run = self._client.create_run(self._experiment_id(), run_name=self._folder.resolve().name)
        self._run_id = run.info.run_id
        identity.write_text(self._run_id)

    def _experiment_id(self) -> str:
        """Finds the id of the experiment, which is created where it does not exist."""
        from mlflow.exceptions import MlflowException

        files = None if self._files is None else self._files.as_uri()
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return self._client.create_experiment(self._experiment, artifact_location=files)
            except MlflowException:  # another run has, in the meantime
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return found.experiment_id

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Deletes what was logged after a step, from a database; a server keeps it."""
        if not (self._folder / "mlflow_id").exists():
            return
        self._begin()
        with self._forgiven():
            if self.tracking_uri.startswith("sqlite:"):
                from sqlalchemy import make_url

                self._kept = cut(Path(make_url(self.tracking_uri).database or ""), self._run_id, step)
            else:
                log.info(
                    "MLflow: %s keeps what was logged after step %d, beside what comes now", self.tracking_uri, step
                )

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs settings by dotted names; a changed one, which MLflow can't change, becomes a tag `resumed.NAME`."""
        self._begin()
        with self._forgiven():
            from mlflow.entities import Param

            settings = flattened({key: value for key, value in params.items() if key != "overrides"})
            texts = {accepted(name): str(value)[:_LONGEST_TEXT] for name, value in settings.items()}
            known: dict[str, str] = self._client.get_run(self._run_id).data.params
            new = [Param(name, text) for name, text in texts.items() if name not in known]
            for part in parts(new, _SETTINGS):
                self._client.log_batch(self._run_id, params=part)
            for name in texts.keys() & known.keys():
                if texts[name] != known[name]:
                    self._client.set_tag(self._run_id, f"resumed.{name}"[:_LONGEST_NAME], texts[name])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs values by their names; where a validation is repeated, the first values are kept."""
        with self._forgiven():
            from mlflow.entities import Metric

            now, step = time.time_ns() // 1_000_000, step or 0
            rows = {accepted(name): float(value) for name, value in metrics.items()}
            new = [Metric(name, value, now, step) for name, value in rows.items() if (name, step) not in self._kept]
            for part in parts(new, _METRICS):
                self.experiment.log_batch(self._run_id, metrics=part)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Logs the metrics of the best checkpoint as `best/` at its step."""
        best: dict[str, float] = checkpoint_callback.best_metrics
        if best and checkpoint_callback.best_step != self._best_step:
            self._best_step = checkpoint_callback.best_step
            self.log_metrics({f"best/{name}": value for name, value in best.items()}, self._best_step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run_id:
            with self._forgiven():
                self._client.set_terminated(self._run_id, "FAILED" if status == "failed" else "FINISHED")


def require_packages() -> None:
    """Raises ValueError where a package is missing: mlflow-skinny comes without those of the store."""
    missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if find_spec(name) is None]
    if missing:
        raise ValueError(f"logger=mlflow: {', '.join(missing)} not installed; pip install mlflow, or choose logger=csv")


def parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Splits items into consecutive parts of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def accepted(name: str) -> str:
    """Makes a name that MLflow accepts: all but letters, digits and `_-. :/` becomes `_`, as do words `.` and `..`."""
    words = (re.sub(r"[^\w.\- :]", "_", word) for word in name.split("/"))
    return "/".join("_" if word in ("", ".", "..") else word for word in words)[:_LONGEST_NAME]
