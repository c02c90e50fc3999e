"""When the disk fills while a file is written, the earlier file remains, the error names it, and a run can continue."""

import csv
import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from running import TINY, assert_equal_bits, curves, last_checkpoint, only_run, state

from boxwright.checkpoints.reading import AtomicCheckpointIO
from boxwright.runs.log import LogFile
from datamodules.index import cached
from datamodules.records import ImageRecord, Records
from evaluation.files import write_text
from evaluation.results import write_predictions
from evaluation.truth import Predictions, Truth
from lit_modules.loggers.csv_file import CSVLogger
from reports.html import write_page


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """Limits the size of files that this process can write; the system's error is handled like that of a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def checkpoint(folder: Path, size: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(size)}}, folder / "step_1.ckpt")
    return folder / "step_1.ckpt"


def config(folder: Path, size: int) -> Path:
    write_text(folder / "config.yaml", "é" * size)
    return folder / "config.yaml"


def report(folder: Path, size: int) -> Path:
    write_page(folder / "report.html", f"<p>{'x' * size}</p>")
    return folder / "report.html"


def predictions(folder: Path, size: int) -> Path:
    truth = Truth(
        image_ids=np.array([1]), sizes=np.array([[9, 9]]), image_index=np.zeros(0, int), boxes=np.zeros((0, 4)),
        labels=np.zeros(0, int), areas=np.zeros(0), crowd=np.zeros(0, bool), difficult=np.zeros(0, bool),
        class_names=("a",), category_ids=(1,),
    )  # fmt: skip
    found = Predictions(np.zeros(size, int), np.ones((size, 4)), np.ones(size), np.zeros(size, int))
    write_predictions(folder / "predictions.json", truth, found)
    return folder / "predictions.json"


def index(folder: Path, size: int) -> Path:
    (folder / "x.jpg").touch()

    def read() -> Records:
        records = Records(np.ndarray.tolist, "box")
        records.class_names, records.category_ids = ["a"], [1]
        (row,) = records.add_images([ImageRecord(str(folder / "x.jpg"), "source", 1, (10, 10))])
        for number in range(size):
            records.add_box(row, 0, (1, 2, 3, 5), annotation_id=number)
        return records

    return cached("test", ["a"], [f"a source of {size} boxes"], read, folder).path


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "a checkpoint": checkpoint, "a run's config": config, "a report": report, "predictions": predictions,
    "an index": index,
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("room", [0, 5000], ids=["at once", "half-way"])
def test_a_file_that_cannot_be_written_is_unchanged_and_named(
    tmp_path: Path, write: Callable[[Path, int], Path], room: int
) -> None:
    file = write(tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(room), pytest.raises(OSError, match=r"can't write .*\(File too large\); free some space") as error:
        write(tmp_path, 40_000)
    assert str(file) in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write(tmp_path, 40_000)
    assert len(file.read_bytes()) > 40_000


def rows(file: Path) -> list[str]:
    with file.open(newline="") as stream:
        return [f"{row['step']}: {row['loss']}" for row in csv.DictReader(stream)]


def test_curves_on_a_full_disk_give_one_warning_and_are_complete_later(tmp_path, caplog):
    logger = CSVLogger(str(tmp_path))
    for step in (1, 2):
        logger.log_metrics({"loss": step / 2}, step)
    before = logger.file.read_bytes()
    with caplog.at_level(logging.WARNING), full_disk(len(before) + 3):  # there is room for half of the next row
        for step in (3, 4):
            logger.log_metrics({"loss": step / 2}, step)
        logger.log_metrics({"loss": 2.0, "AP": 0.5}, 4)  # a new column, for which the whole file is rewritten
    (told,) = caplog.messages
    assert f"can't write {logger.file} (File too large); the run continues" in told
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert logger.file.read_bytes() == before
    logger.log_metrics({"loss": 2.5}, 5)
    assert rows(logger.file) == ["1: 0.5", "2: 1.0", "3: 1.5", "4: 2.0", "4: 2.0", "5: 2.5"]


def test_pending_rows_of_curves_are_written_when_the_run_ends(tmp_path):
    logger = CSVLogger(str(tmp_path))
    with full_disk():
        logger.log_metrics({"loss": 0.5}, 1)
    assert not logger.file.exists()
    logger.finalize("success")
    assert rows(logger.file) == ["1: 0.5"]


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda data: data[:-3], ["1: 0.5", "2: 1.0"]),
        (lambda data: data + b"\x00" * 64, ["1: 0.5", "2: 1.0", "3: 1.5"]),
        (lambda data: data + b"4,2,3,4,5\r\n", ["1: 0.5", "2: 1.0", "3: 1.5"]),
        (lambda data: b"\xff\xfe\x00" * 50, []),
        (lambda data: b"x" * 200_000 + b"\n", []),
        (lambda data: data + b"4," + b"x" * 200_000 + b"\r\n", ["1: 0.5", "2: 1.0", "3: 1.5"]),
        (lambda data: b"", []),
    ],
    ids=[
        "cut in a row",
        "zeros at the end",
        "too long a row",
        "no text",
        "too long a name",
        "too long a value",
        "empty",
    ],
)
def test_damaged_curves_do_not_prevent_a_resume(tmp_path, caplog, damage, left):
    logger = CSVLogger(str(tmp_path))
    for step in (1, 2, 3):
        logger.log_metrics({"loss": step / 2}, step)
    logger.file.write_bytes(damage(logger.file.read_bytes()))
    resumed = CSVLogger(str(tmp_path))
    resumed.drop_after(3)
    resumed.log_metrics({"loss": 9.0}, 4)
    assert rows(resumed.file) == [*left, "4: 9.0"]
    assert f"metrics.csv is damaged: {len(left)} of its rows" in caplog.text


def test_a_log_that_cannot_be_written_gives_one_warning(tmp_path, capsys):
    handler = LogFile(str(tmp_path / "log.txt"))
    log = logging.getLogger("full")
    log.propagate = False  # pytest-xdist cannot transfer half a character
    log.addHandler(handler)
    try:
        log.warning("犬 and half a character: \ud800")
        with full_disk(1):
            for number in range(3):
                log.warning("line %d", number)
        assert capsys.readouterr().err.count("log.txt can't be written (File too large); the run continues") == 1
    finally:
        log.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").startswith("犬 and half a character: \\ud800\n")


@pytest.mark.slow
def test_a_run_whose_disk_fills_ends_with_a_clear_error_and_resumes_exactly(train, tmp_path_factory):
    data = f"data.root={tmp_path_factory.mktemp('data') / 'shapes'}"
    whole, broken = (tmp_path_factory.mktemp(name) for name in ("whole", "broken"))
    train([*TINY, data], whole)
    printed = train([*TINY, data], broken, kill={"at": "batch_end", "batch": 5, "sig": "SIGXFSZ"}, expect=1)
    run = only_run(broken)
    before = last_checkpoint(run)
    step = int(before.stem.removeprefix("step_"))
    assert 0 < step < 10
    assert "Traceback" not in printed
    last = printed.splitlines()[-1]
    assert f"can't write {run}/checkpoints/step_" in last
    assert f"(File too large); free some space on its disk; then resume={run} continues from step {step}" in last
    assert [path.name for path in run.rglob("*.part")] == []
    assert (run / "checkpoints" / "last.ckpt").resolve() == before

    train([f"resume={run}"], broken)
    assert_equal_bits(state(run), state(only_run(whole)))
    assert curves(run) == curves(only_run(whole))
