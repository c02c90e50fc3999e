"""The decorator around the main function of every script."""

import logging
import os
import warnings
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from pytorch_lightning.plugins.environments import SLURMEnvironment

from boxwright.frame import name_unused, quieten


@pytest.fixture
def login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which Slurm is installed, outside of any job."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored afterwards
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("quiet", "number"), [(False, 1), (True, 0)])
def test_where_slurm_is_installed_no_hint_is_printed_past_the_log(login_node: None, quiet: bool, number: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if quiet:
            quieten()
        assert not SLURMEnvironment.detect()
    assert len([warning for warning in caught if "srun" in str(warning.message)]) == number


def test_settings_without_effect_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["data=coco", "logger=csv", "testing=1", "+callbacks.log.a=1", "callbacks.averaging.decay=0.9", "~test"]
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": {"overrides": {"task": lines}}}))
    with caplog.at_level(logging.INFO):
        name_unused("logger", "test", "callbacks", used=("callbacks.averaging",))
        assert [record.message for record in caplog.records] == [
            "without effect here: logger=csv +callbacks.log.a=1 ~test"
        ]
        caplog.clear()
        name_unused("model")
    assert not caplog.records
