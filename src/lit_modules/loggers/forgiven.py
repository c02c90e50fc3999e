"""Turns errors of a dashboard into a warning, so that they never cost a run."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Forgiven:
    """Turns an error within `with forgiven():` into a warning; later errors are ignored in silence."""

    def __init__(self, dashboard: str) -> None:
        self.dashboard = dashboard
        self._refused = False

    @contextmanager
    def __call__(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            if not self._refused:
                log.warning(
                    "%s: %s: %s; the run continues without what it rejects", self.dashboard, type(error).__name__, error
                )
            self._refused = True
