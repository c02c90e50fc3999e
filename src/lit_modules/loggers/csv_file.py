"""The logger that writes a run's curves to `metrics.csv`."""

import csv
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from evaluation.files import write_text

log = logging.getLogger(__name__)


class CSVLogger(Logger):
    """Writes `metrics.csv`: a row for each call, a column for each name, floats with every digit.

    A resumed run continues the same file: rows after its checkpoint's step are dropped, since they are
    computed again, and a row of the same step and names as an earlier one takes its place. A file that can't be
    written costs a warning; it is whole again as soon as it can be.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._behind = False
        if self.file.exists():
            self._read()

    def _read(self) -> None:
        text = self.file.read_bytes().decode("utf-8", "replace")
        whole = text[: text.rfind("\n") + 1]  # a crash may have cut a row
        reader = csv.DictReader(io.StringIO(whole, newline=""))
        columns: list[str] = []
        rows: list[dict[Any, Any]] = []
        damaged = whole != text
        try:
            columns += reader.fieldnames or ()
            rows += reader
        except csv.Error:
            damaged = True
        self._rows = [row for row in rows if None not in row and str(row.get("step")).isdecimal()]
        if damaged or len(self._rows) < len(rows) or "step" not in columns:
            log.warning("%s is damaged: %d of its rows can be read and are kept", self.file, len(self._rows))
        self._columns = columns if self._rows else []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Deletes rows that were logged after a step."""
        self._rows = [row for row in self._rows if int(row["step"]) <= step]
        self._write()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder holds config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: repr(float(value)) for name, value in metrics.items()}}
        self._columns += (new := [name for name in row if name not in self._columns])
        before = len(self._rows)
        self._rows = [old for old in self._rows if int(old["step"]) != step or named(old) != named(row)]
        self._rows.append(row)
        self._write(None if new or len(self._rows) <= before else row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._behind:
            self._write()

    def _write(self, row: dict[str, Any] | None = None) -> None:
        """Adds a row to the file, or writes all of it."""
        if not self._columns:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        try:
            if row is None or self._behind:
                writer.writeheader()
                writer.writerows(self._rows)
                write_text(self.file, text.getvalue())
            else:
                writer.writerow(row)
                self._append(text.getvalue().encode())
            self._behind = False
        except OSError as error:
            if not self._behind:
                log.warning("curves: %s; the run continues, and tries again at each row", error.strerror or error)
            self._behind = True

    def _append(self, line: bytes) -> None:
        size = self.file.stat().st_size
        try:
            with self.file.open("ab") as file:
                file.write(line)
        except OSError as error:
            os.truncate(self.file, size)  # no half rows
            raise OSError(error.errno, f"can't write {self.file} ({error.strerror})") from error


def named(row: Mapping[str, Any]) -> set[str]:
    return {name for name, value in row.items() if value not in ("", None)}
