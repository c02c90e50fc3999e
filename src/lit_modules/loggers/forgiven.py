"""What a dashboard refuses costs a warning, not the run."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Forgiven:
    """`with forgiven():` turns an error of a dashboard into a warning; later ones are passed over in silence."""

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
                    "%s: %s: %s; the run continues without what it refuses", self.dashboard, type(error).__name__, error
                )
            self._refused = True
