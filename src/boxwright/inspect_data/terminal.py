"""The tables of an inspection in the terminal."""

import logging
from collections.abc import Iterable
from typing import Any

from rich.progress import track

from evaluation.wording import counted
from reports import inspection_tables
from reports.inspection_tables import OWN, RECALL_IOU, Inspection
from reports.tables import Table
from reports.terminal import as_text, rich_table, show_bar

log = logging.getLogger(__name__)

_SHOWN = 20  # problems, and rows of a table


def print_tables(inspection: Inspection) -> None:
    """Prints the page's tables, shortened, and the first problems."""
    _print("Splits", inspection_tables.split_table(inspection))
    _print("Classes", inspection_tables.class_table(inspection))
    if found := inspection.repetition:
        _print(inspection_tables.repeat_text(found), inspection_tables.repeat_table(found, inspection.class_names))
    if coverage := inspection.coverage:
        fcos = f"FCOS ({OWN})" if coverage.is_of_fcos else "FCOS"
        _print(f"{fcos}: boxes of each level, by half their longer side", inspection_tables.level_table(coverage))
        _print(f"{fcos}: share of boxes that no location is trained for", inspection_tables.location_table(coverage))
        _print(
            f"Anchors: share of boxes that some anchor matches at IoU {RECALL_IOU}, of each detector's standard anchors"
            + (f" and of {OWN}" if OWN in coverage.best_iou else ""),
            inspection_tables.size_table(coverage),
        )
        for line in inspection_tables.advice(coverage, of_model=True):
            log.info("%s", line)
    for warning in inspection.warnings:
        log.warning("warning: %s", warning)
    total = sum(inspection.problem_counts.values())
    if not total:
        warnings = counted(len(inspection.warnings), "warning")
        log.info("no problems%s", f", but {warnings}, see above" if inspection.warnings else "")
        return
    rules = "; ".join(f"{rule}: {count}" for rule, count in inspection.problem_counts.items())
    log.warning("%s (%s)", counted(total, "problem"), rules)
    for problem in inspection.problems[:_SHOWN]:
        log.warning("  %s", problem)
    if total > _SHOWN:
        log.warning("  ... %d more", total - _SHOWN)


def _print(heading: str, table: Table) -> None:
    left = len(table.rows) - _SHOWN
    more = f"\n... {left} more rows, see the page" if left > 0 else ""
    log.info("%s\n%s%s", heading, as_text(rich_table(table, _SHOWN), width=110), more)


def with_bar(heading: str, items: Iterable[Any], total: int) -> Iterable[Any]:
    """The items, under a progress bar where a terminal shows one."""
    return track(items, heading, total, transient=True) if show_bar() else items
