"""With Lightning's own Trainer, the stream of samples continues exactly after a kill and a resume."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny_data import coco, write_coco
from torch import Tensor, nn

from datamodules.batch import Batch
from datamodules.coco import CocoDataModule
from datamodules.sampler import RankBatches

# Ids, checksum of pixels, boxes: one entry for each micro-batch trained on.
Record = tuple[list[int], int, list[Any]]


class KilledError(Exception):
    """Stands for the kill of the process."""


class Linear(pl.LightningModule):
    """The smallest model that trains; records what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Record] = []
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        ids = [int(info.image_id) for info in batch.infos]
        self.seen.append((ids, int(batch.images.long().sum()), batch.boxes.tolist()))
        return self.layer(batch.images.float().mean(dim=(2, 3)) / 255).square().mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.layer(batch.images.float().mean(dim=(2, 3)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class KillAt(pl.Callback):
    """Saves at the `number`th call of a hook, then raises KilledError."""

    def __init__(self, hook: str, number: int, file: Path) -> None:
        self.hook, self.number, self.file = hook, number, file
        setattr(self, hook, self.count)

    def count(self, trainer: pl.Trainer, *_: Any) -> None:
        self.number -= 1
        if self.number == 0:
            trainer.save_checkpoint(self.file)
            raise KilledError


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = [(40, 60), (60, 40), (33, 64), (50, 80), (80, 50), (48, 64), (44, 60), (32, 32), (64, 40)]
    boxes = [[[1, 1, 3 * i + 2, 20]] * (i % 3) for i in range(len(sizes))]
    return write_coco(tmp_path_factory.mktemp("data"), sizes, boxes)


def data_of(root: Path, workers: int = 0, repeat: float | None = None) -> CocoDataModule:
    # 6 wide and 3 tall images in batches of 4: 3 global batches an epoch
    return coco(root, batch_size=4, num_workers=workers, flip=0.5, multi_scale=[0.6, 1.0], repeat_threshold=repeat)


def train(
    root: Path, callbacks: list[pl.Callback], checkpoint: Path | None = None, *, workers: int = 0,
    accumulate: int = 1, validate: bool = False, by_steps: bool = False, repeat: float | None = None, **options: Any,
) -> Linear:  # fmt: skip
    """Trains for three epochs."""
    pl.seed_everything(0, verbose=False)
    model = Linear()
    length: dict[str, Any] = {"max_steps": 9, "max_epochs": -1} if by_steps else {"max_epochs": 3}
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        accumulate_grad_batches=accumulate, callbacks=callbacks,
        limit_val_batches=1.0 if validate else 0, **{**length, **options},
    )  # fmt: skip
    try:
        trainer.fit(model, datamodule=data_of(root, workers, repeat), ckpt_path=checkpoint, weights_only=True)
    except KilledError:
        return model
    assert checkpoint is not None or not any(isinstance(c, KillAt) for c in callbacks), "the kill never came"
    return model


def check(root: Path, hook: str, number: int, tmp_path: Path, done: int, **options: Any) -> None:
    """Asserts that a run killed there, after `done` micro-batches, and resumed equals an uninterrupted one."""
    file = tmp_path / "killed.ckpt"
    whole = train(root, [], **options)
    killed = train(root, [KillAt(hook, number, file)], **options)
    resumed = train(root, [], file, **options)
    assert killed.seen[:done] + resumed.seen == whole.seen
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_killed_after_any_batch(root: Path, tmp_path: Path, number: int, by_steps: bool) -> None:
    check(root, "on_train_batch_end", number, tmp_path, number, by_steps=by_steps)


@pytest.mark.parametrize(("hook", "number", "done"), [("on_train_batch_end", 2, 2), ("on_train_batch_end", 3, 3)])
def test_killed_with_workers_that_prefetch(root: Path, tmp_path: Path, hook: str, number: int, done: int) -> None:
    check(root, hook, number, tmp_path, done, workers=2)


@pytest.mark.parametrize("number", [2, 5])
def test_killed_where_images_are_repeated(root: Path, tmp_path: Path, number: int) -> None:
    check(root, "on_train_batch_end", number, tmp_path, number, repeat=1.0)


@pytest.mark.parametrize("number", [2, 4, 6, 8])
def test_killed_between_steps_of_accumulated_micro_batches(root: Path, tmp_path: Path, number: int) -> None:
    check(root, "on_train_batch_end", number, tmp_path, number, accumulate=2)


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize(("hook", "number", "done"), [
    ("on_validation_end", 1, 3), ("on_validation_batch_end", 2, 3), ("on_before_optimizer_step", 5, 4),
])  # fmt: skip
def test_killed_in_validation_or_in_the_middle_of_a_step(
    root: Path, tmp_path: Path, hook: str, number: int, done: int, by_steps: bool
) -> None:
    check(root, hook, number, tmp_path, done, validate=True, by_steps=by_steps)


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("validate", [False, True])
def test_killed_at_the_end_of_an_epoch(root: Path, tmp_path: Path, by_steps: bool, validate: bool) -> None:
    check(root, "on_train_epoch_end", 1, tmp_path, 3, by_steps=by_steps, validate=validate)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_where_epochs_are_cut_short(root: Path, tmp_path: Path, workers: int) -> None:
    check(root, "on_train_batch_end", 3, tmp_path, 3, limit_train_batches=2, workers=workers)


def test_each_of_two_ranks_continues_with_its_own_slices(root: Path) -> None:
    data = data_of(root)
    data.setup("fit")
    global_batches = data.train_dataloader().batch_sampler.sampler
    whole = [RankBatches(global_batches, rank, 2) for rank in range(2)]
    wanted = [list(rank) for rank in whole]
    for done in range(len(whole[0]) + 1):
        for rank in range(2):
            resumed = RankBatches(global_batches, rank, 2)
            resumed.start_at(0, done)
            assert list(resumed) == wanted[rank][done:]
    union = [a + b for a, b in zip(*wanted, strict=True)]
    assert union == list(global_batches)


def test_an_iteration_starts_where_the_trainers_progress_says(root: Path) -> None:
    data = data_of(root)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(2)
    wanted = [batch.infos for batch in loader]
    other = data_of(root).train_dataloader()
    other.progress = lambda: (2, 2)
    assert len(other) == 3
    assert [batch.infos for batch in other] == wanted[2:]


def test_nothing_but_lightnings_progress_tells_where_a_run_continues(root: Path, tmp_path: Path) -> None:
    """The loader's own state has no position that could disagree with it; so a wrong progress is seen."""
    file = tmp_path / "killed.ckpt"
    killed = train(root, [KillAt("on_train_batch_end", 5, file)], workers=2)
    contents = torch.load(file, weights_only=True)
    loop = contents["loops"]["fit_loop"]
    (state,) = loop["state_dict"]["combined_loader"]
    assert state.keys() == {"stream"}
    progress = loop["epoch_loop.batch_progress"]
    assert progress["current"]["processed"] == 2
    for part in ("current", "total"):
        progress[part] = {name: number - 1 for name, number in progress[part].items()}
    torch.save(contents, file)
    assert train(root, [], file).seen[0] == killed.seen[4]  # once more


def test_resuming_on_another_stream_is_refused(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "killed.ckpt"
    train(root, [KillAt("on_train_batch_end", 2, file)])
    with pytest.raises(ValueError, match="another stream of training images"):
        train(write_coco(tmp_path, [(40, 60)] * 9, [[]] * 9), [], file)
