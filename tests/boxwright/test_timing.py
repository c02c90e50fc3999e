"""Milliseconds per image: which images are run, how often, and which are skipped."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from boxwright.train import finish
from boxwright.train.finish import ms_per_image
from datamodules.batch import Batch, ImageInfo


class Images:
    """A data module of images of given heights; an image of height 0 cannot be read."""

    def __init__(self, heights: list[int]) -> None:
        self.heights = heights

    def val_dataloader(self) -> Any:
        keys = list(range(len(self.heights)))
        return SimpleNamespace(batch_sampler=[keys[:2], keys[2:]], dataset=self.heights, collate_fn=self._batch)

    def _batch(self, heights: list[int]) -> Batch:
        infos = [ImageInfo(height, (height, 8), (1.0, 1.0)) for height in heights if height]
        images = torch.zeros(1, 3, max(heights), 8, dtype=torch.uint8)
        return Batch(images, torch.tensor([[max(heights), 8]]), torch.zeros(1, 1, 4), torch.zeros(1, 1), infos)


class Clock(nn.Module):
    """A detector that records its batches and is the clock: each pass takes as many seconds as its image has rows."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.batches: list[Batch] = []

    def forward_batch(self, batch: Batch) -> int:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.batches.append(batch)
        self.now += batch.images.shape[2] / 2
        return len(self.batches)

    def evaluate_batch(self, outputs: int, batch: Batch) -> None:
        assert outputs == len(self.batches)
        assert self.batches[-1] is batch
        self.now += batch.images.shape[2] / 2

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(finish, "time", clock)
    return clock


def measured(clock: Clock, heights: list[int], most: int = 32, seconds: float = 1e6) -> dict[str, Any]:
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        precision_plugin=SimpleNamespace(forward_context=torch.no_grad),
        precision="32-true",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_MOST", most)
        patch.setattr(finish, "_SECONDS", seconds)
        return ms_per_image(clock, trainer, Images(heights))  # pyright: ignore[reportArgumentType]


def test_the_speed_is_the_median_of_single_images_with_its_conditions(clock):
    speed = measured(clock, [32, 64, 64, 96, 32])
    assert speed["ms_per_image"] == 64_000
    assert (speed["images"], speed["batch"], speed["precision"]) == (5, 1, "32-true")
    assert speed["device"].startswith("cpu (")


def test_every_canvas_is_warmed_up_before_it_is_timed(clock):
    measured(clock, [32, 64, 64])
    assert [len(batch.images[0, 0]) for batch in clock.batches] == [32] * 4 + [64] * 3  # 3 and 1 of them are warm-up


def test_timing_ends_after_some_seconds_but_not_before_three_images(clock):
    assert measured(clock, [32] * 20, seconds=1)["images"] == 3
    assert measured(clock, [32] * 20, seconds=32 * 10)["images"] == 8  # after three to warm up


def test_the_timed_images_are_spread_over_the_split(clock):
    measured(clock, [*range(1, 11)], most=3)
    assert list(dict.fromkeys(len(batch.images[0, 0]) for batch in clock.batches)) == [1, 5, 10]


def test_unreadable_images_are_not_timed(clock):
    assert measured(clock, [0, 32, 0])["images"] == 1
    with pytest.raises(ValueError, match="no validation image"):
        measured(clock, [0, 0])
