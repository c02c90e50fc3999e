"""Fixtures and settings of all tests: recorded originals, real images, an index cache of their own."""

import importlib.util
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules in this folder
from running import Runner

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell; some tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

LEFT_OUT: list[str] = []
"""Tests that `-m "not slow"` skips; see `pytest_terminal_summary`."""


def pytest_deselected(items: list[pytest.Item]) -> None:
    left_out = (item for item in items if item.config.option.markexpr == "not slow" and item.get_closest_marker("slow"))
    LEFT_OUT.extend(item.nodeid for item in left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # in a worker of xdist, since only workers collect
        session.config.workeroutput["left_out"] = LEFT_OUT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    LEFT_OUT[:] = getattr(node, "workeroutput", {}).get("left_out", LEFT_OUT)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Counts the skipped slow tests, of a whole run by file."""
    if LEFT_OUT:
        files = Counter(test.partition("::")[0] for test in LEFT_OUT)
        terminalreporter.section("left out")
        terminalreporter.write_line(", ".join(f"{file} {number}" for file, number in sorted(files.items())))
        terminalreporter.write_line(f"{len(LEFT_OUT)} slow tests were left out; make test-all runs them too")


ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps annotation indexes in a folder of the test run, never in the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """`golden("fcos/assign")`: the cases of one function of an original, arrays as torch tensors."""
    file = SHARED / "golden" / "load.py"
    if not file.exists():
        pytest.skip(f"recorded outputs of the originals are not at {file}")
    spec = importlib.util.spec_from_file_location("golden_load", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda rel: module.load(rel, torch=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and weights: BCCD, a COCO subset, photos, MobileNetV2."""
    folder = SHARED / "data"
    if not folder.exists():
        pytest.skip(f"real images are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that gives all runs of a test file one data set of shapes."""
    return f"data.root={tmp_path_factory.mktemp('data') / 'shapes'}"


@pytest.fixture(scope="session")
def train() -> Iterator[Runner]:
    """`train(overrides, folder, kill=None)`: run train.py from a folder and return what it printed."""
    runner = Runner()
    yield runner
    runner.close()
