"""`python benchmark.py`: consistent figures for every model; the run of a checkpoint; mistakes that are refused."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import A_FEW, MODELS, beside_training
from omegaconf import OmegaConf
from scripts import Script
from test_pretraining import write_folder
from tiers import slow_but
from tiny_checkpoint import write_checkpoint

from boxwright.config.files import CONF

TINY = [
    "rounds=5", "warmup=0", "trainer.accelerator=cpu", "trainer.precision=32-true", "data.resize=64", "output=out",
    "data.batch_size=2", "data.eval_batch_size=2", "data.num_workers=0",
]  # fmt: skip
SHAPES = ["data=shapes", "data.train_images=12", "data.val_images=4", "data.image_size=64"]
SMALL = {
    "pyramid_channels": 32, "num_convs": 1, "head_channels": 32, "region_sampler.num_samples": 16,
    "train_proposer.max_proposals": 20, "proposer.max_proposals": 20,
}  # fmt: skip
OF_A_STEP = ("forward", "backward", "optimizer", "total")
OF_INFERENCE = ("network", "decoding", "total")


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Script]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Script("benchmark.py", tmp_path, monkeypatch, capfd)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def of_model(model: str, root: Path) -> list[str]:
    """Overrides of the smallest version of a model on small data."""
    has = OmegaConf.load(CONF / "model" / f"{model}.yaml")
    small = [f"model.{key}={value}" for key, value in SMALL.items() if key in has]
    if model == "classifier":
        folder = root / "colours"
        data = ["data=imagefolder", f"data.root={folder if folder.exists() else write_folder(folder)}"]
        data.append("data.num_classes=3")
    else:
        data = [*SHAPES, f"data.root={root / 'shapes'}"]
    return [f"model={model}", "model/backbone=resnet18", *small, *data, *TINY]


def figures(folder: str = "out") -> dict[str, Any]:
    return json.loads(Path(folder, "benchmark.json").read_text(), parse_constant=pytest.fail)


def parts(part: dict[str, Any], names: tuple[str, ...]) -> None:
    """Checks that the figures of each part are consistent."""
    for name in names:
        times = part[f"{name}_ms"]
        assert 0 < times["median"] <= times["p95"]
        assert times["n"] == 5
    for name in [key.removesuffix("_share") for key in part if key.endswith("_share")]:
        assert 0 <= part[f"{name}_share"] < 1.5
    assert part["total_share"] > 0


@pytest.mark.parametrize("model", slow_but("fcos", of=MODELS))
def test_every_model_has_consistent_figures(benchmark: Script, root: Path, model: str) -> None:
    overrides = of_model(model, root)
    if model == "rpn":  # it has one class
        benchmark(*of_model("fcos", root), "parts=[data]")  # draws the data set
        keep = [line for line in overrides if line not in SHAPES]
        overrides = [*keep, "data=coco", "data.classes=[disc]", "data.train_split=train", "data.val_split=val"]
    ended = benchmark(*overrides)
    assert ended.status == 0, ended.said
    found = figures()
    assert found["weights"] == "fresh"
    assert found["precision"] == "32-true"
    assert found["device"] == "cpu (1 threads)"
    assert found["matrix_rate"]["dtype"] == "float32"
    assert found["network"]["canvas"] == [64, 64]
    assert found["network"]["parameters"] >= found["network"]["trained"] > 0
    assert found["config"]["data"]["resize"] == 64
    data, step, inference = found["data"], found["step"], found["inference"]
    assert data["first_batch_ms"] > 0
    assert data["batch_ms"]["median"] <= data["batch_ms"]["p95"]
    parts(step, OF_A_STEP)
    assert step["images_per_s"] == pytest.approx(2 * 1000 / step["total_ms"]["median"])
    assert step["total_gflops"] == pytest.approx(step["forward_gflops"] + step["backward_gflops"])
    assert step["backward_gflops"] > step["forward_gflops"]
    of_an_image = found["network"]["gflops_per_image"]
    if model != "faster_rcnn":  # its regions depend on the number of proposals
        assert step["forward_gflops"] == pytest.approx(2 * of_an_image)
    assert [way["batch"] for way in inference] == [2, 1]
    for way in inference:
        parts(way, OF_INFERENCE)
        assert way["images_per_s"] == pytest.approx(1000 / way["total_ms"]["median"])
        assert way["total_gflops"] == pytest.approx(of_an_image, rel=0.02)
        assert (way["decoding_gflops"] > 0) == (model == "faster_rcnn")
        assert (way["detections_per_image"] is None) == (model == "classifier")
    for printed in (ended.said, Path("out/benchmark.md").read_text()):
        for word in ("forward, losses", "whole step", "from batch to batch", "decoding", "of matrix rate"):
            assert word in printed
    assert sorted(file.name for file in Path("out").iterdir()) == ["benchmark.json", "benchmark.md", "log.txt"]


@pytest.mark.slow
def test_single_parts_run_and_no_worker_remains(benchmark: Script, root: Path) -> None:
    ended = benchmark(*of_model("fcos", root), "parts=[data]", "data.num_workers=1")
    assert ended.status == 0, ended.said
    assert multiprocessing.active_children() == []
    assert not {"step", "inference"} & figures().keys()
    ended = benchmark(*of_model("fcos", root), "parts=[inference]")
    assert ended.status == 0, ended.said
    assert not {"step", "data"} & figures().keys()


@pytest.mark.slow
def test_settings_of_training_are_those_of_the_step(benchmark: Script, root: Path) -> None:
    ended = benchmark(
        *of_model("fcos", root), "parts=[step]", "trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2",
        "trainer.max_steps=2", "trainer.gradient_clip_val=1", "callbacks.averaging.decay=0.9", "optimizer=adamw",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    found = figures()
    assert found["precision"] == "bf16-mixed"
    assert found["matrix_rate"]["dtype"] == "bfloat16"
    assert (found["step"]["images"], found["step"]["micro_batches"]) == (2, 2)
    assert found["step"]["total_ms"]["n"] == 5


CHECKPOINT = [*SHAPES[1:], "data.num_workers=0", "data.batch_size=2", "scale_schedule=false"]


def test_a_checkpoints_settings_are_used_with_the_commands_changes(benchmark: Script, root: Path) -> None:
    file = write_checkpoint(root / "best.ckpt", *CHECKPOINT, f"data.root={root / 'of_checkpoint'}")
    ended = benchmark(
        f"checkpoint={file}", "rounds=5", "warmup=0", "parts=[step,inference]", "data.resize=64", "optimizer=adamw",
        "data.eval_batch_size=1", "model.decoder.max_detections=7", "trainer.accelerator=cpu", "~callbacks.report",
        "output=out",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    found = figures()
    config = found["config"]
    assert found["weights"] == str(file)
    assert found["network"]["canvas"] == [64, 64]
    assert found["step"]["images"] == 2
    assert config["model"]["pyramid_channels"] == 32  # the checkpoint's
    assert config["model"]["optimizer"]["_target_"] == config["optimizer"]["_target_"] == "lit_modules.optimizers.adamw"
    assert "report" not in config["callbacks"]
    (way,) = found["inference"]
    assert way["batch"] == 1
    assert way["detections_per_image"] == 7  # the random network always finds boxes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=8"], "give trainer.devices=1 trainer.num_nodes=1 data.batch_size=2, the images"),
        (["trainer.devices=[0,1]"], "a benchmark measures one device"),
        (["trainer.num_nodes=2"], "a benchmark measures one device"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu, trainer.devices=1: No supported gpu"),
        (["trainer.precission=32-true"], "nearest is trainer.precision"),
        (["rounds=0"], "rounds=0 (command line, rounds=0): expected 1 or more"),
        (["warmup=-1"], "warmup=-1 (command line, warmup=-1): expected 0 or more"),
        (["seconds=0"], "seconds=0 (command line, seconds=0): expected more than 0"),
        (["parts=[step,decoder]"], "parts=['step', 'decoder'] (command line, parts=[step,decoder]): expected a list"),
        (["parts=[]"], "expected one or more of data, step, inference"),
        (["data.batch_size=3", "trainer.accumulate_grad_batches=2"], "data.batch_size=3"),
        (["resume=last"], "resume=last: a benchmark trains nothing"),
        (["checkpoint=none.ckpt"], "model/backbone=resnet18: checkpoint=none.ckpt brings its own model and data"),
        (["model=classifier"], "model=classifier needs a class for each image"),
        (["model.backbone.weights=none.pth"], "weights=none.pth: no such file"),
        (["init_from=none.ckpt"], "init_from=none.ckpt"),
    ],
)
def test_a_refused_command_leaves_no_files(
    benchmark: Script, tmp_path: Path, root: Path, overrides: list[str], message: str
) -> None:
    if not any(line.startswith("trainer.accelerator") for line in overrides):
        overrides = [*overrides, "trainer.accelerator=cpu"]
    ended = benchmark(*SHAPES, f"data.root={root / 'refused'}", "model/backbone=resnet18", *overrides)
    assert ended.status == 2, ended.said
    assert message in ended.said
    assert "Traceback" not in ended.said
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} <= {"runs", "runs/benchmark"}


@pytest.mark.slow
def test_a_checkpoint_of_several_devices_is_measured_on_one(benchmark: Script, root: Path) -> None:
    file = write_checkpoint(
        root / "eight.ckpt", *CHECKPOINT, f"data.root={root / 'of_checkpoint'}", "trainer.devices=8",
        "data.batch_size=16",
    )  # fmt: skip
    ended = benchmark(f"checkpoint={file}", "trainer.accelerator=cpu")
    assert ended.status == 2
    assert "trainer.devices=8, trainer.num_nodes=1: a benchmark measures one device" in ended.said
    assert "data.batch_size=2, the images of a step that one of 8 gets" in ended.said
    ended = benchmark(
        f"checkpoint={file}", "trainer.accelerator=cpu", "trainer.devices=1", "data.batch_size=2", "parts=[data]",
        "rounds=5", "output=out",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    assert figures()["data"]["batch_images"] == 2


def test_classes_that_a_strangers_checkpoint_names_are_not_made(benchmark: Script, root: Path, tmp_path: Path) -> None:
    file = write_checkpoint(root / "hostile.ckpt", *CHECKPOINT, f"data.root={root / 'of_checkpoint'}")
    contents = torch.load(file, weights_only=True)
    ran = tmp_path / "ran"
    contents["boxwright"]["config"]["data"]["augmentations"] = {
        "x": {"_target_": "logging.FileHandler", "filename": str(ran)}
    }
    torch.save(contents, file)
    ended = benchmark(f"checkpoint={file}", "trainer.accelerator=cpu")
    assert ended.status == 2, ended.said
    assert "can't be measured: data.augmentations.x._target_ is 'logging.FileHandler'" in ended.said
    assert not ran.exists()


def test_a_missing_checkpoint_is_named(benchmark: Script) -> None:
    ended = benchmark("checkpoint=none.ckpt")
    assert (ended.status, ended.said.partition(" (from")[0]) == (2, "checkpoint none.ckpt does not exist")


@pytest.mark.parametrize("recipe", A_FEW)
def test_takes_the_command_line_of_a_training_run(recipe: str) -> None:
    """The benchmark measures what the same command line would train."""
    train, ours = beside_training("benchmark", f"experiment={recipe}", "data.root=somewhere", "init_from=some.ckpt")
    own = {"checkpoint", "parts", "rounds", "warmup", "seconds", "output"}
    assert train == {key: value for key, value in ours.items() if key not in own}
