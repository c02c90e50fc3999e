"""The private parts of Hydra that this project uses exist, and do what it uses them for."""

import ast
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from boxwright.config import hydra_internals
from boxwright.config.files import CONF
from boxwright.config.resolvers import register_resolvers

SRC = Path(hydra_internals.__file__).parents[2]


def test_the_parser_of_arguments_knows_the_options_that_are_asked_for():
    line = ["--config-dir=mine", "-m", "a=1", "b=2"]
    parsed = hydra_internals.get_args_parser().parse_args(line)
    assert (parsed.overrides, parsed.config_dir, parsed.multirun) == (["a=1", "b=2"], "mine", True)
    assert [parsed.config_path, parsed.config_name, parsed.help] == [None, None, False]


def test_a_sweep_is_split_into_jobs():
    overrides = OverridesParser.create().parse_overrides(["a=1,2", "b=3,4", "c=5"])
    assert hydra_internals.split_jobs(overrides)[1] == ["a=1", "b=4", "c=5"]
    assert len(hydra_internals.split_jobs(overrides)) == 4


def test_hydras_own_launcher_and_sweeper_are_recognized():
    register_resolvers()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            hydra = compose("train", ["data.root=x"], return_hydra_config=True).hydra
    finally:
        GlobalHydra.instance().clear()
    assert hydra_internals.is_basic(hydra.launcher._target_)
    assert hydra_internals.is_basic(hydra.sweeper._target_)
    assert hydra.launcher._target_.startswith(hydra_internals.LAUNCHER_LOG)
    assert not hydra_internals.is_basic("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher")


def test_a_failed_job_gives_its_exception_without_raising_it():
    error = ValueError("no")
    job = JobReturn()
    job.return_value, job.status = error, JobStatus.FAILED
    with pytest.raises(ValueError, match="no"):
        _ = job.return_value
    assert hydra_internals.returned(job) is error


def test_no_other_file_uses_private_parts_of_hydra():
    for file in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hydra._internal"):
                assert file == Path(hydra_internals.__file__)
            assert not (isinstance(node, ast.Attribute) and node.attr == "_return_value") or file == Path(
                hydra_internals.__file__
            )
