"""A file that is not a valid checkpoint is refused with the reason and the remedy; nothing in it is run."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from composing import composed
from corpus_checkpoints import BIAS, CHANGES, MODEL, OS, Contents, put
from running import TINY, last_checkpoint, only_run
from tiers import slow_but
from torchvision.models import mobilenet_v2

from boxwright.checkpoints.detector import load_detector
from boxwright.checkpoints.reading import load_module, read_checkpoint, without_augmentations
from boxwright.checkpoints.trust import refuse_foreign
from boxwright.config.files import options, plain
from lit_modules.stored import without_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(train: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that was killed, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    root = tmp_path_factory.mktemp("data") / "shapes"
    train([*TINY, f"data.root={root}", "callbacks.checkpoints.keep=-1"], folder, kill={"at": "batch_end", "batch": 6})
    return only_run(folder)


@pytest.fixture(scope="module")
def sound(run: Path) -> Path:
    return last_checkpoint(run)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file that hostile checkpoints try to make."""
    return tmp_path / "ran"


class Hostile:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.ran}",)


@pytest.fixture(autouse=True, scope="module")
def _time_of_reading(sound: Path) -> None:
    begin = time.process_time()
    read_checkpoint(sound)
    TIME_OF_READING.append(time.process_time() - begin)


TIME_OF_READING: list[float] = []
"""Processor seconds for reading a valid checkpoint."""


def refused(file: Path, says: str) -> str:
    begin = time.process_time()
    with pytest.raises(ValueError, match=f"(?s){re.escape(str(file))} .*{says}") as error:
        read_checkpoint(file)
    assert time.process_time() - begin < 20 * TIME_OF_READING[-1]
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


def test_a_sound_checkpoint_is_read(sound: Path) -> None:
    module = load_module(read_checkpoint(sound))
    assert sum(parameter.numel() for parameter in module.parameters()) > 2e6
    assert not module.training


# Files


def cut_short(data: bytes, ran: Path) -> bytes:
    return data[: len(data) // 2]


def one_byte_changed(data: bytes, ran: Path) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def pickled(data: bytes, ran: Path) -> bytes:
    return pickle.dumps({"state_dict": Hostile(ran)})


FILES: dict[str, tuple[Callable[[bytes, Path], bytes], str]] = {
    "cut short": (cut_short, "cut short, or not a checkpoint"),
    "one byte changed": (one_byte_changed, "was changed since it was written"),
    "empty": (lambda *_: b"", r"\(0 bytes\): it is cut short, or not a checkpoint"),
    "text": (lambda *_: b"this is a text\n", "cut short, or not a checkpoint"),
    "a hostile pickle": (pickled, "cut short, or not a checkpoint"),
}


@pytest.mark.parametrize(("damage", "says"), FILES.values(), ids=FILES)
def test_a_damaged_file_is_refused(
    tmp_path: Path, sound: Path, ran: Path, damage: Callable[[bytes, Path], bytes], says: str
) -> None:
    file = tmp_path / "a.ckpt"
    file.write_bytes(damage(sound.read_bytes(), ran))
    assert "use another checkpoint of the run" in refused(file, f"can't be read as a checkpoint.*{says}")
    assert not ran.exists()


def test_a_folder_and_a_file_that_does_not_exist_are_named(tmp_path: Path) -> None:
    refused(tmp_path, r"is a folder; give that of a run, checkpoint=RUN/checkpoints/best\.ckpt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    refused(tmp_path, rf"is a folder; give checkpoint={tmp_path}/checkpoints/best\.ckpt")
    refused(
        tmp_path / "no.ckpt",
        r"does not exist \(from .*\); (give that of a run,|the newest of the runs here is) checkpoint=",
    )


def test_an_archive_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    refused(tmp_path / "a.zip", "can't be read as a checkpoint")


def test_a_checkpoint_that_unpacks_to_an_excessive_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(2**22)}, "boxwright": {}}, tmp_path / "large.ckpt")
    with ZipFile(tmp_path / "large.ckpt") as archive, ZipFile(file, "w", ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    assert file.stat().st_size < 100_000
    refused(file, "it is compressed, as no checkpoint is")


@pytest.mark.parametrize("place", ["state_dict", "boxwright"])
def test_an_object_that_would_run_code_is_named_and_not_run(tmp_path: Path, ran: Path, place: str) -> None:
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "boxwright": {}, place: Hostile(ran)}, file)
    refused(file, r"it contains (posix|nt)\.system, not only tensors and plain values")
    torch.save({"state_dict": {}, "boxwright": {}, place: torch.nn.Linear(1, 1)}, file)
    refused(file, r"it contains torch\.nn\.modules\.linear\.Linear, not only")
    assert not ran.exists()


def test_files_of_other_projects_are_refused(tmp_path: Path, sound: Path) -> None:
    file = tmp_path / "a.ckpt"
    contents = torch.load(sound, weights_only=True)
    for foreign in (
        mobilenet_v2(weights=None).state_dict(),
        {key: value for key, value in contents.items() if key != "boxwright"},  # Lightning's own
        {"model": contents["state_dict"], "optimizer": {}, "epoch": 3},
        [contents["state_dict"]],
        torch.zeros(3),
    ):
        torch.save(foreign, file)
        message = refused(file, "is not a checkpoint of this project: it lacks `state_dict` or `boxwright`")
        assert "model.backbone.weights=FILE" in message


# Contents


def filled(node: Any, ran: Path) -> Any:
    """The contents with the path of that file in place of RAN."""
    if isinstance(node, dict):
        return {key: filled(value, ran) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(filled(value, ran) for value in node)
    return node.replace("RAN", str(ran)) if isinstance(node, str) else node


@pytest.fixture(scope="module")
def bare(sound: Path) -> Path:
    """A checkpoint with only what evaluation needs."""
    whole = torch.load(sound, weights_only=True)
    torch.save({key: whole[key] for key in ("state_dict", "boxwright")}, sound.with_name("bare.ckpt"))
    return sound.with_name("bare.ckpt")


@pytest.fixture
def contents(bare: Path) -> Contents:
    return torch.load(bare, weights_only=True)


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(("change", "says"), CHANGES.values(), ids=CHANGES)
def test_contents_that_do_not_fit_are_refused_before_they_take_memory_or_run(
    tmp_path: Path, contents: Contents, sound: Path, ran: Path, change: Callable[[Contents], Any], says: str
) -> None:
    change(contents)
    file = tmp_path / "a.ckpt"
    torch.save({**contents, "boxwright": filled(contents["boxwright"], ran)}, file)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak that the kernel reports
    message = refused(file, f"can't be used: .*{says}")
    assert "use another checkpoint" in message
    assert "trusted_packages" not in message  # nobody is led to trust Python's own modules
    # In units of a valid file's size; the networks that some of these describe would take thousands.
    assert memory("VmHWM") - before < 10 * sound.stat().st_size / 2**20
    assert not ran.exists()


def memory(key: str) -> float:
    """Memory of this process in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize(("levels", "says"), [(20_000, "recursion"), (200_000, "its config has over 100000 values")])
def test_a_config_of_thousands_of_levels_is_refused(tmp_path: Path, contents: Contents, levels: int, says: str) -> None:
    contents["boxwright"]["config"]["model"]["lr"] = "DEEP"
    torch.save(contents, tmp_path / "flat.ckpt")
    file = tmp_path / "deep.ckpt"
    nested = b"]" * levels + b"a" * (levels - 1)
    with ZipFile(tmp_path / "flat.ckpt") as archive, ZipFile(file, "w") as changed:
        for entry in archive.infolist():
            changed.writestr(entry.filename, archive.read(entry).replace(b"X\x04\0\0\0DEEP", nested))
    refused(file, f"can't be used: .*{says}")


def test_a_list_that_holds_another_twice_forty_times_over_is_refused(tmp_path: Path, contents: Contents) -> None:
    nested: list[Any] = [1]
    for _ in range(40):
        nested = [nested, nested]
    contents["boxwright"]["config"]["name"] = nested
    torch.save(contents, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "its config has over 100000 values")


def test_pretrained_weights_that_a_config_names_are_not_loaded() -> None:
    config = {"lr": 1, "optimizer": {"teacher": {"weights": "imagenet"}}, "weights": "file.pth"}
    assert without_weights(config) == {"lr": 1, "optimizer": {"teacher": {"weights": None}}, "weights": None}


def test_an_older_checkpoint_without_a_format_is_read(tmp_path: Path, contents: Contents) -> None:
    del contents["boxwright"]["format"]
    torch.save(contents, tmp_path / "a.ckpt")
    load_module(read_checkpoint(tmp_path / "a.ckpt"))


def test_prediction_refuses_what_evaluation_refuses(tmp_path: Path, contents: Contents) -> None:
    put(f"{MODEL}._target_", "os.system")(contents)
    torch.save(contents, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt can't be used: .*os\.system"):
        load_detector(tmp_path / "a.ckpt")


CHOICES = [
    f"{group}={choice}"
    for group in ("experiment", "model", "model/backbone", "optimizer", "schedule", "data")
    for choice in options(group)
]


@pytest.mark.parametrize(
    "choice", slow_but("experiment=faster_rcnn_r50_1x", "model=fcos", "model/backbone=resnet18", "data=voc", of=CHOICES)
)
def test_the_config_of_every_recipe_and_choice_is_accepted(choice: str) -> None:
    config = plain(composed(choice))
    refuse_foreign(config["model"], "model")
    refuse_foreign(without_augmentations(config["data"]), "data")


# Commands


def printed(text: str, says: str) -> None:
    """The last line of the output, which must have no traceback."""
    assert "Traceback" not in text
    assert re.search(says, text.splitlines()[-1]), text


@pytest.mark.slow
def test_evaluate_reports_it_in_one_line(tmp_path: Path, contents: Contents, ran: Path) -> None:
    contents["boxwright"]["config"]["data"] |= filled(OS, ran)
    torch.save(contents, tmp_path / "a.ckpt")
    command = [
        sys.executable,
        str(ROOT / "evaluate.py"),
        f"checkpoint={tmp_path / 'a.ckpt'}",
        f"output={tmp_path / 'o'}",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    printed(done.stdout + done.stderr, r"a\.ckpt can't be used: data\._target_ is 'os\.system'.*use another checkpoint")
    assert not ran.exists()


RESUMED: dict[str, tuple[Callable[[Path, Contents], Any], str]] = {
    "cut short": (lambda file, _: os.truncate(file, 1000), "can't be read as a checkpoint.*cut short"),
    "a text": (lambda file, _: file.write_text("hello"), "can't be read as a checkpoint"),
    "of another project": (lambda file, c: torch.save(c["state_dict"], file), "not a checkpoint of this project"),
    "hostile": (lambda file, _: torch.save(Hostile(file.parent / "ran"), file), r"it contains posix\.system"),
    "of another network": (
        lambda file, c: torch.save({**c, "state_dict": c["state_dict"] | {BIAS: torch.zeros(7)}}, file), "do not fit",
    ),
    "for evaluation alone": (
        lambda file, c: torch.save({key: c[key] for key in ("state_dict", "boxwright")}, file),
        "not a checkpoint that this run can continue from: it lacks epoch, global_step, .*optimizer_states, lr_",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "says"), slow_but("hostile", "for evaluation alone", of=RESUMED))
def test_resume_reports_it_in_one_line_and_continues_from_the_earlier_checkpoint(
    train: Any, run: Path, tmp_path: Path, damage: Callable[[Path, Contents], Any], says: str
) -> None:
    copy = tmp_path / "runs" / "t" / "copy"
    shutil.copytree(run, copy, symlinks=True)
    file = last_checkpoint(copy)
    damage(file, torch.load(file, weights_only=True))
    text = train([f"resume={copy}"], tmp_path, expect=2)
    printed(text, f"{re.escape(str(file))}.*{says}.*Remove it, and resume continues from the checkpoint before it")
    assert not (file.parent / "ran").exists()


def test_a_run_continues_from_the_checkpoint_before_the_removed_one(train: Any, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / "t" / "copy"
    shutil.copytree(run, copy, symlinks=True)
    last_checkpoint(copy).unlink()
    before = last_checkpoint(copy)
    assert f"resumes from {before}" in train([f"resume={copy}"], tmp_path, kill={"at": "batch_end", "batch": 1})
