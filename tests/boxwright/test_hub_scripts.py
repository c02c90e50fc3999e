"""Scripts and runs that take a checkpoint from the Hub, and which commit of it they tell and store."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loopback_hub
import pytest
import torch
from hydra.utils import instantiate
from loopback_hub import Hub
from omegaconf import OmegaConf
from PIL import Image
from scripts import Script
from tiers import slow_but
from tiny_checkpoint import CLASSES, write_checkpoint

from boxwright.build import make_module, with_trunk
from boxwright.config import from_checkpoint
from boxwright.config.errors import ConfigError
from boxwright.runs.folder import Run
from boxwright.zoo.names import NO_DATA

REPO = "anna/cells"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("hub") / "model.ckpt")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with loopback_hub.serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.mark.parametrize(
    "script", slow_but("evaluate.py", "benchmark.py", of=("evaluate.py", "predict.py", "train.py", "benchmark.py"))
)
def test_a_script_that_cannot_have_it_ends_and_leaves_nothing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], script: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    key = "init_from" if script == "train.py" else "checkpoint"
    shapes = ["data=shapes", "data.train_images=2", "data.val_images=2", "logger=csv"]
    more = {"predict.py": ["source=."], "train.py": shapes}
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    run = Script(script, folder, monkeypatch, capfd)
    for address, says in ((f"hf://{REPO}", "there is no repository"), ("hf://cells", "expected hf://USER/REPO")):
        ended = run(f"{key}={address}", *more.get(script, []))
        assert ended.status == 2, ended.said
        assert f"{address}: {says}" in ended.said
        assert "Traceback" not in ended.said
        assert {path.name for path in folder.iterdir()} <= {"a.png", "data"}


def test_prediction_names_the_commit_in_log_and_results(
    hub: Hub, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    oid = hub.add(REPO, model__ckpt=file)
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    predict = Script("predict.py", tmp_path, monkeypatch, capfd)
    ended = predict(f"checkpoint=hf://{REPO}", "source=a.png", "output=out", "draw=false", "accelerator=cpu")
    assert ended.status == 0, ended.said
    assert f"hf://{REPO}@{oid}: 5 classes" in ended.said
    assert "HTTP Request" not in ended.said
    assert json.loads(Path("out/predictions.json").read_text())["info"]["checkpoint"] == f"hf://{REPO}@{oid}"


def test_evaluation_asks_for_data_that_are_not_there_and_names_the_commit(
    hub: Hub, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = torch.load(file, weights_only=True)
    small = {"train_images": 2, "val_images": 2, "image_size": 64, "num_workers": 0}
    contents["boxwright"]["config"]["data"] |= {"root": NO_DATA, **small}
    torch.save(contents, tmp_path / "pushed.ckpt")
    oid = hub.add(REPO, model__ckpt=tmp_path / "pushed.ckpt")
    evaluate = Script("evaluate.py", tmp_path, monkeypatch, capfd)
    for more in ([], ["data.resize=64"]):
        ended = evaluate(f"checkpoint=hf://{REPO}", *more)
        assert ended.status == 2
        assert f"checkpoint=hf://{REPO} brings no data; give " in ended.said
        assert "data.root=FOLDER" in ended.said
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match=r"brings no data; give data\.root=FOLDER"):
        from_checkpoint.run([f"checkpoint=hf://{REPO}"])  # of benchmark.py
    ended = evaluate(f"checkpoint=hf://{REPO}", "data.root=shapes", "output=out", "accelerator=cpu")
    assert ended.status == 0, ended.said
    assert f"hf://{REPO}@{oid}: step" in ended.said
    assert json.loads(Path("out/metrics.json").read_text())["checkpoint"] == f"hf://{REPO}@{oid}"
    assert f"python predict.py checkpoint=hf://{REPO}@{oid} source=FOLDER" in Path("out/report.html").read_text()


def test_a_run_that_starts_from_it_stores_the_commit_and_keeps_it_when_resumed(
    hub: Hub, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oid = hub.add(REPO, model__ckpt=file)
    cfg = OmegaConf.create(torch.load(file, weights_only=True)["boxwright"]["config"])
    cfg.init_from = f"hf://{REPO}"
    data: Any = SimpleNamespace(class_names=CLASSES, seed=0)
    with caplog.at_level("INFO"):
        module = make_module(cfg, Run(tmp_path, cfg, None, None), data)
    assert f"starts from the weights of hf://{REPO}@{oid}" in caplog.text
    assert module.run["started_from"] == f"hf://{REPO}@{oid}"
    contents = torch.load(file, weights_only=True)
    saved = dict.fromkeys(("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"))
    contents["boxwright"] |= module.run
    torch.save({**saved, **contents}, tmp_path / "step_0000001.ckpt")
    resumed = make_module(cfg, Run(tmp_path, cfg, tmp_path / "step_0000001.ckpt", None), data)
    assert resumed.run["started_from"] == f"hf://{REPO}@{oid}"


def test_a_backbone_is_taken_from_it(hub: Hub, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    oid = hub.add(REPO, model__ckpt=file)
    contents = torch.load(file, weights_only=True)
    model = OmegaConf.create(contents["boxwright"]["config"]["model"])
    model.backbone.weights = f"hf://{REPO}"
    with caplog.at_level("INFO"):
        backbone = instantiate(with_trunk(model)).network.backbone
    assert f"model.backbone.weights=hf://{REPO}: commit {oid}" in caplog.text
    name, value = next(iter(backbone.named_parameters()))
    assert torch.equal(value, contents["state_dict"][f"network.backbone.{name}"])
    model.backbone.weights = "hf://anna/none"
    with pytest.raises(ConfigError, match=r"^model\.backbone\.weights=hf://anna/none: there is no repository"):
        with_trunk(model)
