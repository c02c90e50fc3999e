"""What surrounds the main function of every script."""

import os
import warnings
from pathlib import Path

import pytest
from pytorch_lightning.plugins.environments import SLURMEnvironment

from boxwright.frame import quieten


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
