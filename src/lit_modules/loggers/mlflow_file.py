"""The tables of MLflow's store in an SQLite file."""

import sqlite3
from contextlib import closing
from pathlib import Path


def cut(file: Path, run: str, step: int) -> set[tuple[str, int]]:
    """Deletes the values of a run after an optimizer step; returns the names and steps that remain.

    MLflow keeps the newest value of each name in a table of its own, which is made anew.
    """
    columns = "key, value, timestamp, step, is_nan, run_uuid"
    newest = "ROW_NUMBER() OVER (PARTITION BY key ORDER BY step DESC, timestamp DESC, value DESC)"
    with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE run_uuid = ? AND step > ?", (run, step))
        connection.execute("DELETE FROM latest_metrics WHERE run_uuid = ?", (run,))
        connection.execute(
            f"INSERT INTO latest_metrics ({columns}) SELECT {columns} FROM"
            f" (SELECT {columns}, {newest} AS place FROM metrics WHERE run_uuid = ?) WHERE place = 1",
            (run,),
        )
        return set(connection.execute("SELECT DISTINCT key, step FROM metrics WHERE run_uuid = ?", (run,)))
