"""Where the curves go: a CSV file always, Weights & Biases by default."""

import csv
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

log = logging.getLogger(__name__)


class CSVLogger(Logger):
    """`metrics.csv`: a row for each call, a column for each name, floats with every digit.

    A resumed run goes on in the same file: rows after its checkpoint's step are dropped, since they are
    computed again, and a row of the same step and names as an earlier one takes its place.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        if self.file.exists():
            with self.file.open(newline="") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or [])
                self._rows = list(reader)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Forget what was logged after a step."""
        self._rows = [row for row in self._rows if int(row["step"]) <= step]
        self._rewrite()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: repr(float(value)) for name, value in metrics.items()}}
        self._columns += (new := [name for name in row if name not in self._columns])
        before = len(self._rows)
        self._rows = [old for old in self._rows if int(old["step"]) != step or named(old) != named(row)]
        self._rows.append(row)
        if new or len(self._rows) <= before:
            self._rewrite()
        else:
            with self.file.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def _rewrite(self) -> None:
        part = self.file.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(part, self.file)


def named(row: Mapping[str, Any]) -> set[str]:
    return {name for name, value in row.items() if value not in ("", None)}


class WandbLogger(LightningWandbLogger):
    """W&B that never asks: without an API key the run is offline, and all that it writes stays in its folder."""

    def __init__(
        self,
        folder: str,
        project: str = "boxwright",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: str | None = None,
    ) -> None:
        path = Path(folder)
        mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
        for variable, sub in (
            ("DIR", ""),
            ("CACHE_DIR", "cache"),
            ("CONFIG_DIR", "config"),
            ("DATA_DIR", "data"),
        ):
            os.environ.setdefault(f"WANDB_{variable}", str(path / "wandb" / sub) if sub else str(path))
        os.environ.setdefault("WANDB_SILENT", "true")
        identity = path / "wandb_id"
        if rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]
            import wandb

            if wandb.run is not None:  # of the sweep's job before: Lightning would log into it
                wandb.finish()
            if not identity.exists():
                identity.write_text(secrets.token_hex(4))
            if mode == "offline":
                log.info("W&B: offline in %s (no API key, or so asked); `wandb sync` uploads it", path / "wandb")
        super().__init__(
            project=project,
            entity=entity,
            group=group,
            tags=list(tags or []),
            name=path.name,
            id=identity.read_text() if identity.exists() else None,
            save_dir=folder,
            mode=mode,
            resume="allow",
        )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(dict(metrics), step)


def has_api_key() -> bool:
    """Whether W&B could log in without asking: an environment variable, or an entry in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return host in netrc.read_text()
    except OSError:
        return False
