"""A run whose test is held against published figures: what it prints and writes, and how it ends."""

import json
from pathlib import Path

import pytest
from scripts import Script

TINY = (
    "model=fcos", "model/backbone=mobilenet_v2", "model.backbone.weights=null", "model.backbone.norm=bn",
    "model.backbone.frozen_stages=0", "model.pyramid_channels=32", "model.num_convs=1", "data=shapes",
    "data.train_images=4", "data.val_images=3", "data.image_size=64", "data.resize=64", "data.batch_size=2",
    "data.num_workers=0", "trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "trainer.enable_progress_bar=false", "logger=csv", "callbacks.pictures.num_fixed=0",
    "callbacks.pictures.num_worst=0", "callbacks.report.pictures=0", "name=held",
)  # fmt: skip


@pytest.mark.slow
def test_a_strict_run_that_misses_its_figure_is_finished_and_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train = Script("train.py", tmp_path, monkeypatch, capfd)
    expect = ("expect.AP=0.9", "expect.tolerance=0.002", "expect.source='a paper'", "expect.strict=true")
    ended = train(*TINY, *expect)
    assert ended.status == 1
    assert "AP: measured" in ended.said
    assert "published 90 %, tolerated 0.25" in ended.said
    assert "Traceback" not in ended.said
    (folder,) = (tmp_path / "runs" / "held").iterdir()
    results = json.loads((folder / "finished.json").read_text())
    assert results["expected"][0]["within"] is False
    assert "expected, in percent" in (folder / "log.txt").read_text()
    assert "a paper" in (folder / "report.html").read_text()
    assert not (folder / "failed.json").exists()
