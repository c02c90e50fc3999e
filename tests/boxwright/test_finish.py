"""The results of a finished run: `test` means the split that `data.test_split` names, and no other."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from boxwright.train import finish as finishing
from datamodules.base import DetectionDataModule
from datamodules.coco import CocoDataModule

VAL, TEST = {"AP": 0.5, "AP50": 0.75}, {"AP": 0.25, "AP50": 0.5}


def finished(tmp_path: Path, data: DetectionDataModule, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The results of a run whose best validation has the metrics VAL and whose test would have TEST."""
    monkeypatch.setattr(finishing, "read_checkpoint", lambda path: {"state_dict": {}})
    monkeypatch.setattr(finishing, "timed", lambda *_: {})
    monkeypatch.setattr(finishing, "train_seconds", lambda trainer: 1.0)
    monkeypatch.setattr(finishing, "stopped_early", lambda trainer: None)
    written: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(folder=tmp_path, config=OmegaConf.create({"test": True}), finish=written.append)
    best = SimpleNamespace(
        best_metrics=VAL,
        best_per_class={},
        best_score=0.5,
        best_step=3,
        best_text="val/AP 50.00 %",
        best_path=tmp_path,
        best_of="val/AP",
        monitor="val/AP",
    )
    module: Any = SimpleNamespace(load_state_dict=lambda state: None, last=SimpleNamespace(metrics=None))

    def test(*_: Any, **__: Any) -> None:
        module.last.metrics = SimpleNamespace(scalars=TEST)

    trainer: Any = SimpleNamespace(
        checkpoint_callback=best, limit_val_batches=1.0, test=test, global_step=4, current_epoch=1, is_global_zero=True
    )
    finishing.finish(run, module, data, trainer)
    return written[-1]


@pytest.mark.parametrize(
    ("settings", "tested", "said"),
    [
        ({"test_split": "c"}, TEST, "test: AP 25.00 %"),
        ({"test_split": "b"}, VAL, "test is the validation of the best checkpoint"),
        ({"test_split": "b", "val_fraction": 0.2}, TEST, "test: AP 25.00 %"),
        ({"test_split": "c", "val_fraction": 0.2}, TEST, "test: AP 25.00 %"),
        ({"test_split": None, "val_fraction": 0.2}, {}, "no list to test on; the validation of the best checkpoint"),
        ({"test_split": "a", "val_fraction": 0.2}, {}, "no list to test on; the validation of the best checkpoint"),
        ({"test_split": None}, {}, "no list to test on; the validation of the best checkpoint"),
    ],
)
def test_only_the_list_of_test_split_is_called_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: dict[str, Any],
    tested: dict[str, float], said: str,
) -> None:  # fmt: skip
    data = CocoDataModule(root=str(tmp_path), **{"train_split": "a", "val_split": "b", **settings})
    with caplog.at_level(logging.INFO):
        results = finished(tmp_path, data, monkeypatch)
    assert results["test"] == tested
    assert results["val"] == VAL
    assert said in caplog.text
    assert ("test: " in caplog.text) == bool(tested)
