"""`expect.strict`: published figures that are not reached are the exit status. Imports nothing heavy."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from boxwright.runs.folder import Run
from boxwright.runs.log import is_rank_zero
from evaluation.errors import UserError


class UnexpectedError(UserError):
    """A published figure is not reached, or none could be judged."""


def score(run: Run, results: dict[str, Any]) -> float:
    """The monitored metric of a finished run; UnexpectedError where its config is strict on figures it has missed."""
    if is_rank_zero():  # which has compared
        missed: Sequence[str] = results.get("unexpected", () if "expected" in results else ("nothing was compared",))
        refuse_unexpected(run.config, missed, f"the run in {run.folder}")
    return results["score"]


def refuse_unexpected(cfg: DictConfig, missed: Sequence[str], where: str) -> None:
    """Raises UnexpectedError where a config is strict on figures of which some are missed."""
    if missed and OmegaConf.select(cfg, "expect.strict"):  # which runs of an earlier version lack
        raise UnexpectedError("\n".join([f"expect.strict=true, {where}:", *(f"  - {line}" for line in missed)]))
