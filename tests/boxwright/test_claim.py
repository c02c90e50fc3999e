"""A run's folder belongs to one process at a time, on file systems with locks and without."""

import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from scripts import Script

from boxwright.config.resolvers import register_resolvers
from boxwright.runs import claim, names
from boxwright.runs.claim import FILE, Claim, InUseError, OwnFolder, make_own
from boxwright.runs.folder import Run, is_untouched


@contextmanager
def elsewhere(do: Callable[[], object]) -> Iterator[int]:
    """Runs a function in another process, which then waits; it is killed at the end of the block at the latest."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            kept = do()  # noqa: F841
            os.write(write, b"done")
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    try:
        assert os.read(read, 4) == b"done"
        yield process
    finally:
        os.close(read)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_BEAT", 0.05)
    monkeypatch.setattr(claim, "_WATCH", 1.0)
    monkeypatch.setattr(claim, "_SETTLE", 0.1)


def on(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)


def test_a_folder_in_use_is_refused_with_host_and_process(tmp_path):
    with elsewhere(lambda: Claim(tmp_path)) as process, pytest.raises(InUseError) as refused:
        Claim(tmp_path)
    assert f"{tmp_path} is in use by process {process} on {socket.gethostname()}, since 20" in str(refused.value)
    assert f"kill {process}" in str(refused.value)


def test_a_folder_is_free_again_at_the_end_and_after_a_kill(tmp_path):
    with elsewhere(lambda: Claim(tmp_path)):
        pass
    Claim(tmp_path).release()
    assert not list(tmp_path.iterdir())
    with elsewhere(lambda: Claim(tmp_path)):
        pass


def test_a_workers_copy_of_the_lock_does_not_outlive_a_killed_run(tmp_path):
    read, write = os.pipe()

    def run() -> Claim:
        mine = Claim(tmp_path)
        if (worker := os.fork()) == 0:
            signal.pause()
        os.write(write, worker.to_bytes(4, "little"))
        return mine

    with elsewhere(run):
        worker = int.from_bytes(os.read(read, 4), "little")
    try:
        Claim(tmp_path).release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_run_on_another_host_is_known_by_its_heartbeat(tmp_path, no_locks, quick, monkeypatch, capsys):
    def there() -> Claim:
        on("far", monkeypatch)
        return Claim(tmp_path)

    with elsewhere(there) as process, pytest.raises(InUseError, match=f"process {process} on far, since") as refused:
        Claim(tmp_path)
    assert "kill" not in str(refused.value)  # a process of another host cannot be killed from this one
    assert f"was left by process {process} on far: looking for" in capsys.readouterr().err


def test_a_lock_of_a_dead_run_on_another_host_is_removed_by_itself(tmp_path, no_locks, quick, monkeypatch):
    def there() -> Claim:
        on("far", monkeypatch)
        return Claim(tmp_path)

    with elsewhere(there):
        pass
    mine = Claim(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["process"] == os.getpid()
    mine.release()
    (tmp_path / FILE).write_text(json.dumps({"host": "far", "process": 1, "since": "yesterday"}))
    os.utime(tmp_path / FILE, (1, 1))
    monkeypatch.setattr(claim, "_WATCH", 1e9)  # a heartbeat this old is not watched any longer
    Claim(tmp_path).release()


def test_without_locks_a_process_of_this_host_is_checked_to_be_alive(tmp_path, no_locks, quick):
    with elsewhere(lambda: Claim(tmp_path)), pytest.raises(InUseError):
        Claim(tmp_path)
    began = time.monotonic()
    Claim(tmp_path).release()
    assert time.monotonic() - began < claim._WATCH


def test_of_two_processes_that_take_over_a_dead_lock_at_once_one_is_refused(tmp_path, no_locks, quick, monkeypatch):
    pause, other = time.sleep, {"host": "other", "process": 1, "since": "now"}
    monkeypatch.setattr(time, "sleep", lambda s: (pause(s), (tmp_path / FILE).write_text(json.dumps(other))))
    with pytest.raises(InUseError, match="process 1 on other"):
        Claim(tmp_path)


def test_a_lock_that_its_holder_removes_meanwhile_is_free(tmp_path, monkeypatch):
    gone, take = Claim(tmp_path), Claim._take

    def released(self: Claim, descriptor: int) -> None:
        gone.release()
        take(self, descriptor)

    monkeypatch.setattr(Claim, "_take", released)
    mine = Claim(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["process"] == os.getpid()
    monkeypatch.undo()
    with elsewhere(lambda: None):
        mine.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}', "nonsense"])
def test_a_lock_that_a_crash_has_truncated_is_free(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    Claim(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_not_claimed(tmp_path):
    (tmp_path / FILE).mkdir()  # root can write to any folder, so the lock's file is a folder here
    Claim(tmp_path).release()


def test_a_folder_with_only_a_lock_is_not_a_run(tmp_path):
    held = Claim(tmp_path)
    assert is_untouched(tmp_path)
    held.release()
    assert is_untouched(tmp_path)


@pytest.mark.parametrize("error", [None, ValueError("no"), SystemExit(75)])
def test_a_run_holds_its_folder_until_its_end(tmp_path, error):
    def refused() -> None:
        with pytest.raises(InUseError):
            Claim(tmp_path)

    run = Run(tmp_path, OmegaConf.create(), None, None, claim=Claim(tmp_path))
    with suppress(ValueError, SystemExit), run, elsewhere(refused):
        if error is not None:
            raise error
    with elsewhere(lambda: Claim(tmp_path)):
        pass


def test_starts_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        config = OmegaConf.create({"hydra": {"run": {"dir": names.run_folder("t", None, "now")}}})
        OwnFolder().on_run_start(config)
        folders.append(config.hydra.run.dir)
    assert folders == ["runs/t/now", "runs/t/now_2", "runs/t/now_3"]
    assert all(Path(folder).is_dir() for folder in folders)
    assert make_own("runs/evaluate/now") == "runs/evaluate/now"


def test_a_given_folder_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for folder in (names.run_folder("t", None, "now"), "runs/t/before", names.output_folder("evaluate", "out", "now")):
        config = OmegaConf.create({"hydra": {"run": {"dir": folder}, "sweep": {"dir": folder}}})
        OwnFolder().on_run_start(config)
        OwnFolder().on_multirun_start(config)
        assert config.hydra.run.dir == config.hydra.sweep.dir == folder
        assert not Path(folder).exists()


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("a file")
    config = OmegaConf.create({"hydra": {"run": {"dir": names.run_folder("t", None, "now")}}})
    with pytest.raises(SystemExit):
        OwnFolder().on_run_start(config)
    assert f"{tmp_path}/runs/t/now can't be made: Not a directory" in capsys.readouterr().err


def test_other_ranks_neither_make_nor_claim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    config = OmegaConf.create({"hydra": {"run": {"dir": names.run_folder("t", None, "now")}}})
    OwnFolder().on_run_start(config)
    assert not Path("runs").exists()


SCRIPTS = {
    "evaluate.py": ["predictions=absent.json", "data=coco", "data.root=."],
    "predict.py": ["checkpoint=absent.ckpt", "source=absent.jpg"],
    "inspect_data.py": ["data=coco", "data.root=absent"],
    "benchmark.py": ["data=coco", "data.root=absent", "rounds=0"],
    "push.py": ["checkpoint=absent.ckpt", "repo=a/b", "license=mit"],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_two_processes_of_a_script_do_not_share_their_output(name, tmp_path, monkeypatch, capfd):
    script, words = Script(name, tmp_path, monkeypatch, capfd), [*SCRIPTS[name], "output=out/mine"]
    register_resolvers()
    (tmp_path / "out/mine").mkdir(parents=True)
    with elsewhere(lambda: Claim(tmp_path / "out/mine")) as process:
        refused = script(*words)
        assert [file.name for file in (tmp_path / "out/mine").iterdir()] == [FILE]
    assert refused.status == 2
    assert f"out/mine is in use by process {process} on {socket.gethostname()}, since 20" in refused.said
    assert refused.said.endswith(", or give another output=FOLDER\n")
    assert "in use" not in script(*words).said  # but refused for what it was given
    assert not (tmp_path / "out/mine").exists()
