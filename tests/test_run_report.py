"""report.html of whole runs, however they end."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pages import Page, checked
from running import REPORTED, TINY, assert_equal_bits, curves, only_run, state
from tiers import slow_but

from lit_modules.callbacks import report
from lit_modules.callbacks.report import Report
from reports.commands import override

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(train, shapes, tmp_path_factory) -> Path:
    """The folder of a run of ten steps."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "printed").write_text(train([*REPORTED, shapes, "callbacks.averaging.decay=0.9"], folder))
    return folder


def page(run: Path) -> Page:
    file = run / "report.html"
    assert file.stat().st_size < 5_000_000
    return checked(file.read_text())


def test_a_run_ends_by_naming_its_report(folder):
    assert (folder / "printed").read_text().splitlines()[-1].endswith(f"report: {only_run(folder) / 'report.html'}")


def test_the_report_of_a_finished_run_is_complete(folder):
    found = page(only_run(folder))
    assert "state finished step 10 of 10" in found.text
    assert "val split, 6 images, step 10, weights averaged over steps (decay 0.9)" in found.text
    for heading in ("Curves", "Average precision", "Precision and recall", "Confusion", "Pictures", "Config"):
        assert heading in found.headings
    assert len(found.with_class("picture")) == 6
    assert "pyramid_channels: 32" in found.text
    assert "precision 32-true" in found.text
    checkpoint = only_run(folder) / "checkpoints" / "best.ckpt"
    assert f"python evaluate.py checkpoint={checkpoint.relative_to(folder)}" in found.text
    assert "resume=" not in found.text


@pytest.mark.slow
def test_a_report_does_not_affect_the_run(train, shapes, folder, tmp_path):
    train([*TINY, shapes, "callbacks.averaging.decay=0.9"], tmp_path)
    without, run = only_run(tmp_path), only_run(folder)
    assert not (without / "report.html").exists()
    assert curves(without) == curves(run)
    assert_equal_bits(state(without), state(run))


SIGNALS = {"SIGTERM": ("SIGTERM", 75, "SIGTERM"), "SIGINT": ("SIGINT", 130, "Ctrl-C")}


@pytest.mark.parametrize(("sig", "code", "reason"), slow_but(of=SIGNALS))
def test_a_run_ended_by_sigterm_has_a_report_with_the_command_to_continue(train, shapes, tmp_path, sig, code, reason):
    kill = {"at": "batch_end", "batch": 7, "sig": sig}
    printed = train([*REPORTED, shapes, "trainer.max_steps=40"], tmp_path, kill=kill, expect=code)
    run = only_run(tmp_path)
    found = page(run)
    assert f"state stopped step 7 of 40 ({reason})" in found.text
    assert "val split, 6 images, step 4" in found.text
    assert f"python train.py resume={run.relative_to(tmp_path)}" in found.text
    assert f"report: {run / 'report.html'}" in printed


@pytest.mark.slow
def test_a_run_that_ends_before_its_first_validation_has_a_report(train, shapes, tmp_path):
    kill = {"at": "batch_end", "batch": 3, "sig": "SIGTERM"}
    train([*REPORTED, shapes], tmp_path, kill=kill, expect=75)
    found = page(only_run(tmp_path))
    assert "There was no validation yet" in found.text
    assert {"Curves", "Config", "Environment"} <= set(found.headings)


def test_a_run_that_fails_has_a_report_with_the_reason(train, shapes, tmp_path):
    train([*REPORTED, shapes, "model.lr=1e30", "schedule.warmup_steps=0"], tmp_path, expect=1)
    found = page(only_run(tmp_path))
    assert re.search(r"state stopped step \d+ of 10 \(NonFiniteLossError\)", found.text)
    assert "Lower model.lr" in found.text


@pytest.mark.slow
def test_a_run_that_reaches_max_time_is_finished(train, shapes, tmp_path):
    train([*REPORTED, shapes, "trainer.max_steps=100000", "trainer.max_time=00:00:00:02"], tmp_path)
    assert re.search(r"state finished step [\d,]+ of 100,000 \(trainer.max_time\)", page(only_run(tmp_path)).text)


@pytest.mark.slow
def test_a_killed_run_has_a_report_of_its_last_validation_and_a_resumed_one_of_the_whole(train, shapes, tmp_path):
    train([*REPORTED, shapes], tmp_path, kill={"at": "batch_end", "batch": 7})
    run = only_run(tmp_path)
    found = page(run)
    assert "state unfinished step 4 of 10" in found.text
    assert "val split, 6 images, step 4" in found.text
    before = (run / "report.html").read_bytes()

    # ended again before the next validation: the report of the last one stays
    train(["resume=last", "name=t"], tmp_path, kill={"at": "batch_end", "batch": 1, "sig": "SIGTERM"}, expect=75)
    assert (run / "report.html").read_bytes() == before

    train(["resume=last", "name=t"], tmp_path)
    found = page(run)
    assert "state finished step 10 of 10" in found.text
    assert "step 10, weights of that step, not averaged over steps" in found.text


def test_evaluate_writes_a_report_of_a_checkpoint_and_of_a_file(folder, shapes):
    checkpoint = only_run(folder) / "checkpoints" / "best.ckpt"
    scored, again = folder / "scored", folder / "again"

    data = [o for o in TINY if o.startswith(("data=", "data.train_images", "data.val_images", "data.image_size"))]
    calls = [
        [f"checkpoint={checkpoint}", f"output={scored}", "accelerator=cpu"],
        [f"predictions={scored / 'predictions.json'}", *data, shapes, f"output={again}"],
    ]
    script = f"""
import runpy, sys
for call in {calls}:
    sys.argv = ["evaluate.py", *call]
    runpy.run_path({str(ROOT / "evaluate.py")!r}, run_name="__main__")
"""
    command, env = [sys.executable, "-c", script], {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True).stdout
    assert f"report: {scored / 'report.html'}" in printed
    assert f"report: {again / 'report.html'}" in printed
    found = page(scored)
    assert re.search(r"test split, 6 images, step \d+, weights averaged over steps", found.text)
    assert "Curves" not in found.headings
    assert "python predict.py checkpoint=" in found.text

    ap = json.loads((again / "metrics.json").read_text())["scalars"]["AP"]
    assert f"AP {ap:.3f} test split" in page(again).text


def test_a_report_that_cannot_be_written_is_a_warning_with_the_reason(tmp_path, monkeypatch):
    def read(_: int | str) -> None:
        raise AssertionError

    def about():
        from reports.report import About

        return About(name="n", folder="f", state="stopped")

    problem = report.write(tmp_path / "gone" / "report.html", about, lambda: None, read)
    assert "FileNotFoundError" in problem
    assert str(tmp_path / "gone") in problem
    monkeypatch.setitem(sys.modules, "reports.html", None)  # as if its import failed
    assert "reports.html" in report.write(tmp_path / "report.html", about, lambda: None, read)
    assert not list(tmp_path.iterdir())


def test_reports_take_at_most_two_percent_of_the_time(monkeypatch):
    """A report that takes 3 s is written at most every 150 s."""
    clock, written = [0.0], []

    def write(*_: object) -> str:
        written.append(clock[0])
        clock[0] += 3
        return ""

    monkeypatch.setattr(report, "write", write)
    monkeypatch.setattr(report.time, "perf_counter", lambda: clock[0])
    trainer = SimpleNamespace(
        global_step=0,
        is_global_zero=True,
        sanity_checking=False,
        state=SimpleNamespace(fn="fit"),
        datamodule=SimpleNamespace(),
    )
    module = SimpleNamespace(folder=Path())
    callback = Report()
    callback.on_train_start(trainer, module)
    for _ in range(60):  # a validation every 10 s
        clock[0] += 10
        callback.on_validation_end(trainer, module)
        callback.on_train_batch_start(trainer, module)
        callback.on_train_batch_start(trainer, module)
    assert written[0] == 10
    assert all(later - earlier >= 153 for earlier, later in pairwise(written))
    assert len(written) >= 4
    callback.on_fit_end(trainer, module)
    assert written[-1] == clock[0] - 3


def test_the_same_problem_is_reported_once(monkeypatch, caplog):
    monkeypatch.setattr(report, "write", lambda *_: "no room")
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, datamodule=SimpleNamespace())
    callback = Report()
    for _ in range(3):
        callback.on_fit_end(trainer, SimpleNamespace(folder=Path()))
    assert [record.message for record in caplog.records] == ["no room"]


def test_only_rank_zero_writes(monkeypatch):
    monkeypatch.setattr(report, "write", lambda *_: pytest.fail("written"))
    Report().on_fit_end(SimpleNamespace(is_global_zero=False), SimpleNamespace(folder=Path()))


@pytest.mark.parametrize(
    "path", ["runs/a/b.ckpt", "runs/sweeps/data.resize=667,x/é (1)/it's.ckpt", 'a "b" $HOME\\c', "a\\'b\\"]
)
def test_commands_can_be_pasted(path):
    (word,) = shlex.split(override("checkpoint", Path(path)))
    parsed = OverridesParser.create().parse_override(word)
    assert (parsed.key_or_group, parsed.value()) == ("checkpoint", path)


def test_a_negative_number_of_pictures_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.report\.pictures=-1"):
        Report(pictures=-1)
