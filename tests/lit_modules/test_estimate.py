"""The estimated duration of a training, logged after ten steps."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from ranks import Detector
from tiny_data import coco, write_coco

from lit_modules.callbacks import log as log_module
from lit_modules.callbacks.estimate import STEPS, Rest, spoken
from lit_modules.callbacks.log import Log

SECONDS = 2.0


def test_the_estimate_counts_a_third_of_a_training_images_time_per_validated_image():
    rest = Rest(steps=90, images_per_step=8, validations=2, val_images=24)
    assert rest.seconds([0.5] * STEPS) == pytest.approx(90 * 0.5 + 2 * 24 * (0.5 / 8 / 3))


def test_a_slow_first_step_is_ignored_and_alternating_steps_are_averaged():
    rest = Rest(steps=100, images_per_step=8, validations=0, val_images=0)
    assert rest.seconds([60.0, *[0.5] * (STEPS - 1)]) == pytest.approx(50)
    assert rest.seconds([0.2, 1.0] * (STEPS // 2)) == pytest.approx(60)


def test_the_line_names_steps_validations_and_an_earlier_end():
    rest = Rest(steps=690, images_per_step=8, validations=1, val_images=240)
    assert rest.told([0.6] * STEPS) == (
        "about 7 min to go: 690 steps of 0.60 s (the median of the first 10) and 1 validation"
    )
    rest = Rest(steps=1, images_per_step=8, validations=0, val_images=0, time_limit=300)
    assert rest.told([60.0]) == "about 60 s to go: 1 step of 60.00 s"
    rest = Rest(steps=100, images_per_step=8, validations=0, val_images=0, time_limit=300)
    assert rest.told([60.0]) == (
        "about 1 h 40 min to go: 100 steps of 60.00 s, but for trainer.max_time, which ends it in 5 min"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (99.4 * 60, "99 min"), (99.6 * 60, "1 h 40 min"), (7200, "2 h 0 min"),
     (47.4 * 3600, "47 h 24 min"), (48 * 3600, "2 d 0 h"), (100.6 * 3600, "4 d 5 h")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, words: str):
    assert spoken(seconds) == words


class Clock(pl.Callback):
    """A clock that each training step advances."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += SECONDS


def fit(folder: Path, checkpoint: Path | None = None, **options: Any) -> pl.Trainer:
    data = coco(folder, resize=64, batch_size=2, eval_batch_size=2)
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_module, "time", clock)
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[clock, Log()], num_sanity_val_steps=0,
            check_val_every_n_epoch=None, **options,
        )  # fmt: skip
        module = Detector(blind=set())
        module.attach(folder, data.seed)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO)

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [line for line in lines if "to go" in line]

    return told


def test_every_training_logs_the_estimate_after_ten_steps_also_when_resumed(tmp_path: Path, shown: Any):
    write_coco(tmp_path, [(64, 64)] * 4, [[[8, 8, 24, 24]]] * 4)
    # 20 steps after the tenth; validations after 10 (not yet run), 20 and 30, of two images: a third of a step each
    first = fit(tmp_path, max_steps=30, val_check_interval=10, limit_val_batches=1)
    assert shown() == ["about 42 s to go: 20 steps of 2.00 s (the median of the first 10) and 3 validations"]
    first.save_checkpoint(tmp_path / "last.ckpt")
    fit(tmp_path, tmp_path / "last.ckpt", max_steps=44, val_check_interval=100, limit_val_batches=0)
    assert shown() == ["about 8 s to go: 4 steps of 2.00 s"]


def test_a_training_of_ten_steps_logs_no_estimate(tmp_path: Path, shown: Any):
    write_coco(tmp_path, [(64, 64)] * 4, [[[8, 8, 24, 24]]] * 4)
    fit(tmp_path, max_steps=10, val_check_interval=10, limit_val_batches=0)
    assert shown() == []
