"""The names best.ckpt and last.ckpt, also where a file system has no links."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lit_modules.callbacks.checkpoints import Checkpoints, point


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["symbolic links", "hard links", "copies"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that supports the parameter's kind of link."""
    if request.param != "symbolic links":
        monkeypatch.setattr(os, "symlink", refuse)
    if request.param == "copies":
        monkeypatch.setattr(os, "link", refuse)
    return tmp_path


class Run:
    """`Checkpoints` in a run whose weights are a text, as are its files."""

    def __init__(self, folder: Path) -> None:
        self.callback = Checkpoints()
        self.callback.folder = folder
        self.folder = folder

    def save(self, step: int, best: int, weights: str) -> None:
        self.callback.best_step = best

        def save_checkpoint(file: Path) -> None:
            part = file.with_suffix(".part")
            part.write_text(weights)
            part.replace(file)

        trainer = SimpleNamespace(
            global_step=step, is_global_zero=True, loggers=[], save_checkpoint=save_checkpoint
        )  # fmt: skip
        self.callback._write(cast(Any, trainer))

    def read(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in sorted(self.folder.iterdir())}


def test_best_and_last_have_the_contents_of_their_checkpoints(folder):
    run = Run(folder)
    run.save(2, -1, "two, before its validation")
    assert run.read() == {"last.ckpt": "two, before its validation", "step_0000002.ckpt": "two, before its validation"}
    run.save(2, 2, "two")  # the same file written again
    assert run.read() == {"best.ckpt": "two", "last.ckpt": "two", "step_0000002.ckpt": "two"}
    run.save(4, 2, "four")
    run.save(6, 2, "six")
    expected = {"best.ckpt": "two", "last.ckpt": "six", "step_0000002.ckpt": "two", "step_0000006.ckpt": "six"}
    assert run.read() == expected
    resumed = Run(folder)
    resumed.callback.best_step = 2
    resumed.callback._point_best()
    assert run.read() == expected
    resumed.save(8, 8, "eight")
    assert run.read() == {name: "six" if "6" in name else "eight" for name in run.read()}
    assert len(run.read()) == 4


def test_a_checkpoint_is_copied_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    caplog.set_level("INFO")
    run = Run(tmp_path)
    run.save(2, 2, "two")
    before = (tmp_path / "best.ckpt").stat().st_ino
    run.save(4, 2, "four")
    assert (tmp_path / "best.ckpt").stat().st_ino == before
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} can't hold links: best.ckpt and last.ckpt are copies"
    ]


def test_a_name_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "step_1.ckpt").write_text("one")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"can't write .*best\.ckpt"):
        point(tmp_path / "best.ckpt", "step_1.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["step_1.ckpt"]
