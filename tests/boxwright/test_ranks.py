"""A killed rank is reported, and kept as the reason of the run's failure, before Lightning ends all processes."""

import json
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from boxwright import ranks
from boxwright.ranks import Ranks


def watched(folder: Path, monkeypatch: pytest.MonkeyPatch, *commands: str) -> list[subprocess.Popen[bytes]]:
    """Starts processes that end as their commands say, and watches them for a run in a folder."""
    monkeypatch.setattr(ranks, "_EVERY", 0.01)
    processes = [subprocess.Popen(["sh", "-c", command]) for command in commands]
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=processes)))
    Ranks(folder).setup(cast(Any, trainer), cast(Any, None), "fit")
    return processes


def test_a_killed_rank_is_the_reason_with_a_lack_of_memory_as_its_likely_cause(tmp_path, monkeypatch, caplog):
    processes = watched(tmp_path, monkeypatch, "exec sleep 60", "kill -9 $$")
    try:
        while not (tmp_path / "failed.json").exists():
            time.sleep(0.01)
    finally:
        processes[0].kill()
        processes[0].wait()
    reason = json.loads((tmp_path / "failed.json").read_text())["reason"]
    assert reason.startswith(
        f"the process of rank 2 ({processes[1].pid}) was ended by SIGKILL: the system may have lacked"
    )
    assert reason in caplog.text


@pytest.mark.parametrize("command", ["exit 0", "exit 3"])
def test_a_rank_that_ends_by_itself_keeps_its_own_reason(command, tmp_path, monkeypatch):
    (process,) = watched(tmp_path, monkeypatch, command)
    for thread in threading.enumerate():
        if thread.name == "ranks":
            thread.join()
    assert process.poll() is not None
    assert not (tmp_path / "failed.json").exists()


def test_a_run_on_one_device_watches_no_rank(tmp_path):
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=None))
    Ranks(tmp_path).setup(cast(Any, trainer), cast(Any, None), "fit")
