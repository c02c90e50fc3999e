"""Runs a root script inside the test's own process."""

import logging
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    status: int
    said: str
    """What was printed and logged."""


class Script:
    """Runs a script: `script(overrides)` in the test's own folder."""

    def __init__(
        self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.name, self.monkeypatch, self.capfd = name, monkeypatch, capfd
        monkeypatch.chdir(folder)

    def __call__(self, *overrides: str) -> Ended:
        root, status = logging.getLogger(), 0
        handlers, level = root.handlers[:], root.level
        self.monkeypatch.setattr(sys, "argv", [self.name, *overrides])
        self.capfd.readouterr()
        try:
            runpy.run_path(str(ROOT / self.name), run_name="__main__")
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
        return Ended(status, "".join(self.capfd.readouterr()))
