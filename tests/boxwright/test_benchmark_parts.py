"""The parts of a benchmark: what each counts as its time, what it excludes, how operations are counted."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from composing import built, composed, random_batch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d

from boxwright.benchmark import clock, data
from boxwright.benchmark.clock import Clock, Limit, matrix_rate, spread
from boxwright.benchmark.data import first_batches, measure_data
from boxwright.benchmark.fresh import set_frozen_norms
from boxwright.benchmark.inference import measure_inference
from boxwright.benchmark.step import StepTimer, measure_step
from boxwright.config.errors import ConfigError
from datamodules.batch import Batch
from lit_modules.flops import counter

LONG = 1e9


class Time:
    """A clock that advances only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in (clock, data):
        monkeypatch.setattr(module, "time", time)
    return time


def test_a_spread_is_median_and_percentile() -> None:
    assert spread([5.0, 1.0, 3.0]) == {"median": 3.0, "p95": pytest.approx(4.8), "n": 3}


def test_a_part_ends_after_its_rounds_or_its_seconds_but_not_before_five_rounds(time: Time) -> None:
    limit = Limit(rounds=8, seconds=10.0)
    limit.start()
    assert [limit.reached(n) for n in (5, 7, 8)] == [False, False, True]
    time.seconds = 11.0
    assert [limit.reached(n) for n in (4, 5)] == [False, True]


# Data


class Loader:
    """Two batches an epoch: the first after nine seconds, each other two seconds after the one before."""

    def __init__(self, time: Time, batches: list[Batch]) -> None:
        self.time, self.batches, self.epochs = time, batches, list[int]()
        self.batch_sampler = SimpleNamespace(sampler=SimpleNamespace(set_epoch=self.epochs.append))
        self.num_workers = 0

    def train_dataloader(self) -> "Loader":
        return self

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.time.seconds += 2.0 if self.time.seconds else 9.0
            yield batch


def test_the_loaders_rate_excludes_its_start_and_continues_over_epochs(time: Time) -> None:
    loader = Loader(time, [random_batch(3, 5), random_batch(1, 5)])
    figures, kept = measure_data(loader, warmup=0, limit=Limit(6, LONG))
    assert figures["first_batch_ms"] == 9000
    assert figures["batch_ms"] == {"median": 2000, "p95": 2000, "n": 6}
    assert figures["images_per_s"] == pytest.approx((3 + 1) / (2 + 2))
    assert loader.epochs == [0, 1, 2, 3, 4]
    assert [len(batch.infos) for batch in kept] == [3, 1, 3, 1]


def test_a_step_is_measured_on_batches_that_could_be_read(time: Time) -> None:
    unread = random_batch(1, 5)._replace(infos=[])
    assert [len(batch.infos) for batch in first_batches(Loader(time, [unread, random_batch(2, 5)]))] == [2, 2]
    with pytest.raises(ConfigError, match="could be read"):
        first_batches(Loader(time, [unread]))
    with pytest.raises(ConfigError, match="could be read"):
        measure_data(Loader(time, [unread]), warmup=0, limit=Limit(5, LONG))


# Step


class Toy(pl.LightningModule):
    """A module whose forward pass takes 3 seconds, its backward pass 5, its optimizer 2."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self.time, self.lr, self.passes = time, 1.0, 0
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        self.time.seconds += 100.0
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.passes += 1
        self.time.seconds += 3.0
        return self.norm(self.layer(batch.boxes[:, 0, :2])).square().sum()

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()
        self.time.seconds += 5.0

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.time.seconds += 2.0


def measured_step(toy: Toy, warmup: int, limit: Limit, accumulate: int = 1, batches: int = 2) -> dict[str, Any]:
    timer = StepTimer(warmup, limit)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=accumulate, max_steps=1000, callbacks=[timer],
    )  # fmt: skip
    return measure_step(toy, trainer, timer, [random_batch(4, 5, seed=n) for n in range(batches)])  # pyright: ignore[reportArgumentType]


def test_a_step_has_its_parts_without_the_transfer_to_the_device(time: Time) -> None:
    toy = Toy(time)
    figures = measured_step(toy, warmup=1, limit=Limit(6, LONG))
    parts = ("forward", "backward", "optimizer", "total")
    assert [figures[f"{part}_ms"] for part in parts] == [
        {"median": ms, "p95": ms, "n": 6} for ms in (3000, 5000, 2000, 10000)
    ]
    assert figures["images_per_s"] == pytest.approx(4 / 10)
    assert toy.passes == 2 + 6  # each batch once to warm up
    # 4 rows through a layer of 2 x 2; the gradient of the input is not needed
    assert [figures[f"{part}_gflops"] for part in ("forward", "backward", "total")] == pytest.approx(
        [32e-9, 32e-9, 64e-9]
    )
    assert figures["total_gflops_per_s"] == pytest.approx(64e-10)


def test_a_step_of_micro_batches_is_their_sum(time: Time) -> None:
    toy = Toy(time)
    figures = measured_step(toy, warmup=2, limit=Limit(5, LONG), accumulate=3)
    assert (figures["images"], figures["micro_batches"], toy.passes) == (12, 3, 3 * (2 + 5))
    assert [figures[f"{part}_ms"]["median"] for part in ("forward", "backward", "optimizer")] == [9000, 15000, 2000]
    assert figures["images_per_s"] == pytest.approx(12 / 26)
    assert figures["total_gflops"] == pytest.approx(3 * 64e-9)


def test_a_step_ends_after_its_seconds(time: Time) -> None:
    assert measured_step(Toy(time), warmup=1, limit=Limit(100, 1.0))["total_ms"]["n"] == 5


def test_measuring_steps_changes_no_weight_and_no_average(time: Time) -> None:
    toy = Toy(time)
    before = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    measured_step(toy, warmup=1, limit=Limit(5, LONG))
    after = toy.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


# Inference


class Slow(nn.Conv2d):
    """A network that takes a second for an image of 8 rows."""

    def __init__(self, time: Time) -> None:
        super().__init__(3, 2, 1)
        self.time, self.passes = time, 0

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.time.seconds += len(images) * images.shape[2] / 8
        self.passes += 1
        return super().forward(images.float())


class Finder(nn.Module):
    """A module whose decoding takes a tenth of the network's time, half of it within `forward_batch`."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self.time, self.network = time, Slow(time)

    def forward_batch(self, batch: Batch) -> torch.Tensor:
        outputs = self.network(batch.images, batch.sizes)
        self.time.seconds += len(batch.images) * batch.images.shape[2] / 160
        return outputs

    def evaluate_batch(self, outputs: torch.Tensor, batch: Batch) -> None:
        assert outputs.shape[2:] == batch.images.shape[2:]
        self.time.seconds += len(batch.images) * batch.images.shape[2] / 160


def test_network_and_decoding_are_timed_separately_for_one_image(time: Time) -> None:
    finder = Finder(time)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        precision_plugin=SimpleNamespace(val_step_context=torch.no_grad),
    )
    batches = [random_batch(2, 5, size=size) for size in (32, 64, 96)]
    figures = measure_inference(finder, trainer, batches, 1, Limit(6, LONG))  # pyright: ignore[reportArgumentType]
    assert [figures[f"{part}_ms"]["median"] for part in ("network", "decoding", "total")] == pytest.approx(
        [8000, 800, 8800]
    )
    assert figures["network_ms"]["p95"] == pytest.approx(12000)
    assert figures["images_per_s"] == pytest.approx(1 / 8.8)
    assert figures["canvases"] == [[32, 32], [64, 64], [96, 96]]
    assert figures["network_gflops"] == pytest.approx(64 * 64 * 3 * 2 * 2 / 1e9)
    assert figures["decoding_gflops"] == 0
    assert finder.network.passes == 3 + 3 + 6  # counted, warmed up, measured


# Operations


@pytest.mark.parametrize(
    ("conv", "forward"),
    [
        (nn.Conv2d(8, 16, 3, padding=1), 2 * 100 * 16 * 8 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 2 * 100 * 8 * 9),  # depthwise
        (nn.Conv2d(8, 16, 3, groups=2, stride=2, dilation=2), 2 * 9 * 16 * 4 * 9),
        (nn.ConvTranspose2d(8, 16, 2, stride=2), 2 * 100 * 8 * 16 * 4),
    ],
)
def test_each_gradient_of_a_convolution_takes_as_many_operations_as_the_convolution(
    conv: nn.Module, forward: int
) -> None:
    for wanted in (1, 2):  # gradients: of the weight, and of the input
        x = torch.randn(1, 8, 10, 10, requires_grad=wanted == 2)
        with counter() as counted:
            y = conv(x)
            assert counted.get_total_flops() == forward
            y.sum().backward()
        assert counted.get_total_flops() == forward * (1 + wanted)


def test_a_network_without_groups_has_torchs_own_count() -> None:
    module = built(composed("model=retinanet", "model/backbone=resnet18", "data=shapes"))
    batch, totals = random_batch(1, 5), []
    for counted in (counter(), FlopCounterMode(display=False)):
        with counted:
            torch.stack(list(module.losses(module.forward_batch(batch), batch).values())).sum().backward()
        totals.append(counted.get_total_flops())
    assert totals[0] == totals[1] > 0


# Other parts


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", "float32"), ("bf16-mixed", "bfloat16"), ("16-mixed", "float16")]
)
def test_the_matrix_rate_is_taken_in_the_type_of_the_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: str
) -> None:
    products = list[tuple[torch.dtype, float]]()

    def product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        products.append((a.dtype, 2.0 if len(products) == 7 else 4.0))

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(clock, "_WARM_UP", 0.0)
    monkeypatch.setattr(Clock, "ms", lambda *_: products[-1][1])
    rate = matrix_rate(torch.device("cpu"), precision)
    assert {str(kind) for kind, _ in products} == {f"torch.{dtype}"}
    assert rate == {"gflops_per_s": pytest.approx(2 * 2048**3 / 2e6), "side": 2048, "dtype": dtype, "best_of": 10}


def test_set_norms_keep_the_scale_of_activations_which_random_norms_double() -> None:
    module = built(composed("model=retinanet", "model/backbone=resnet101", "data=shapes"))
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def size() -> float:
        with torch.no_grad():
            return float(module.network.backbone(pixels)[-1].std())

    assert size() > 1000
    set_frozen_norms(module, random_batch(1, 5), torch.device("cpu"))
    assert 0.1 < size() < 10
    norms = [part for part in module.network.modules() if isinstance(part, FrozenBatchNorm2d)]
    assert not any(norm._forward_pre_hooks for norm in norms)
