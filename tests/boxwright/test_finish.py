"""The results of a finished run: `test` means the split that `data.test_split` names, and no other."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from boxwright import expected
from boxwright.train import finish as finishing
from datamodules.base import DetectionDataModule
from datamodules.coco import CocoDataModule
from evaluation.expected import DataSet
from evaluation.truth import Truth
from lit_modules.callbacks.report import Report

VAL, TEST = {"AP": 0.5, "AP50": 0.75}, {"AP": 0.25, "AP50": 0.5}
START = "hf://anna/cells@0123"


def finished(
    tmp_path: Path,
    data: DetectionDataModule,
    monkeypatch: pytest.MonkeyPatch,
    callbacks: Sequence[Any] = (),
    expect: Any = None,
) -> dict[str, Any]:
    """The results of a run whose best validation has the metrics VAL and whose test would have TEST."""
    monkeypatch.setattr(finishing, "read_checkpoint", lambda path: {"state_dict": {}})
    monkeypatch.setattr(finishing, "timed", lambda *_: {})
    monkeypatch.setattr(finishing, "train_seconds", lambda trainer: 1.0)
    monkeypatch.setattr(finishing, "stopped_early", lambda trainer: None)
    written: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(
        folder=tmp_path, config=OmegaConf.create({"test": True, "expect": expect or {}}), finish=written.append
    )
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
    skipped = SimpleNamespace(images={"val": {"4": "cut"}})
    module: Any = SimpleNamespace(
        load_state_dict=lambda state: None, last=SimpleNamespace(), skipped=skipped, run={"started_from": START}
    )

    def test(*_: Any, **__: Any) -> None:
        module.last = SimpleNamespace(metrics=SimpleNamespace(scalars=TEST), truth=truth(3))

    trainer: Any = SimpleNamespace(
        checkpoint_callback=best,
        limit_val_batches=1.0,
        test=test,
        global_step=4,
        current_epoch=1,
        is_global_zero=True,
        callbacks=callbacks,
    )
    assert finishing.finish(run, module, data, trainer) == written[-1]
    return written[-1]


def truth(images: int) -> Truth:
    """Of images without objects."""
    none = np.zeros(0)
    return Truth(
        np.arange(images), np.full((images, 2), 10), none.astype(int), none.reshape(0, 4), none.astype(int), none,
        none.astype(bool), none.astype(bool), ("a",), (1,),
    )  # fmt: skip


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
    assert results["started_from"] == START
    assert said in caplog.text
    assert ("test: " in caplog.text) == bool(tested)


@pytest.mark.parametrize(
    ("settings", "measured", "images", "within"),
    [({"test_split": "c"}, 0.25, 3, False), ({"test_split": "b"}, 0.5, 3, True)],  # of the best validation 1 is unread
)
def test_the_figures_of_a_run_are_held_against_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: dict[str, Any],
    measured: float, images: int, within: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(CocoDataModule, "truth", lambda self, split: truth(4))
    monkeypatch.setitem(expected.DATA_SETS, "coco_val2017", DataSet("val2017", ("a",), images, 0))
    pages: list[Any] = []
    page = Report(0)
    monkeypatch.setattr(page, "add_expected", lambda trainer, module, rows: pages.extend(rows))
    data = CocoDataModule(root=str(tmp_path), **{"train_split": "a", "val_split": "b", **settings})
    with caplog.at_level(logging.INFO):
        results = finished(
            tmp_path, data, monkeypatch, [page],
            {"AP": 0.502, "AP50": 0.5, "data": "coco_val2017", "tolerance": {"AP": 0.002}},
        )  # fmt: skip
    ap, ap50 = results["expected"]
    assert (ap["measured"], ap["published"], ap["within"]) == (measured, 0.502, within)
    assert ap["remark"] == ""
    assert ap50["within"] is not within  # TEST has 0.5, VAL 0.75
    assert [line.split(":")[0] for line in results["unexpected"]] == ["AP50" if within else "AP"]
    assert [one.figure.metric for one in pages] == ["AP", "AP50"]
    assert "expected, in percent" in caplog.text


def test_without_a_test_or_figures_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untested = CocoDataModule(root=str(tmp_path), train_split="a", val_split="b", test_split=None)
    assert "expected" not in finished(tmp_path, untested, monkeypatch, expect={"AP": 0.5})
    tested = CocoDataModule(root=str(tmp_path), train_split="a", val_split="b", test_split="c")
    assert "expected" not in finished(tmp_path, tested, monkeypatch)
