"""Shared blocks of batches are reused once nothing refers to them, and not before."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import coco, write_coco

from datamodules import shared_blocks as module
from datamodules.batch import Batch
from datamodules.shared_blocks import SharedBlocks, sent, shared_blocks

IMAGES = 3 * module._BLOCKS


def loader_of(root: Path, num_workers: int) -> Any:
    """A loader of one image per batch: three times as many as a worker has blocks, all different, of two sizes."""
    if not (root / "train").exists():
        write_coco(root, [(32, 48), (32, 40)] * (IMAGES // 2), [[[1, 2, 10, 12]]] * IMAGES)
    data = coco(root, num_workers=num_workers, batch_size=1, resize=40)
    data.setup("fit")
    return data.train_dataloader()


@pytest.fixture
def alone(tmp_path: Path) -> list[Batch]:
    return list(loader_of(tmp_path, 0))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(batches, others, strict=True):
        assert one.infos == other.infos
        assert all(map(torch.equal, one[:4], other[:4]))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_that_are_kept_do_not_change(tmp_path: Path, alone: list[Batch], num_workers: int) -> None:
    kept = list(loader_of(tmp_path, num_workers))
    assert len({batch.images.data_ptr() for batch in kept}) == IMAGES
    assert_same(kept, alone)


def test_a_block_is_reused_but_not_while_a_part_of_it_is_referenced(tmp_path: Path, alone: list[Batch]) -> None:
    loader, rows, places = loader_of(tmp_path, 1), [], []
    for batch in loader:
        number, block, _ = sent(batch.images)
        assert number == loader.collate_fn.keywords["shared"]._number
        places.append(block)
        if len(places) % 8 == 0:
            rows.append((len(places) - 1, batch.images[0, 1, 7]))
        del batch
    assert len(set(places)) <= module._BLOCKS
    assert len(places) == IMAGES
    for at, row in rows:
        assert torch.equal(row, alone[at].images[0, 1, 7])
        assert places[at] not in places[at + 1 :]


def test_an_epoch_that_ends_early_frees_its_blocks(tmp_path: Path, alone: list[Batch]) -> None:
    loader = loader_of(tmp_path, 1)
    shared = loader.collate_fn.keywords["shared"]
    for _ in range(2 * module._BLOCKS):
        next(iter(loader))
    assert_same([batch._replace(images=batch.images.clone()) for batch in loader], alone)
    assert not shared._taken.any()


def test_only_images_are_in_a_block_and_all_tensors_are_writable(tmp_path: Path, alone: list[Batch]) -> None:
    loader = loader_of(tmp_path, 1)
    for batch in loader:
        assert [isinstance(sent(tensor), tuple) for tensor in batch[:4]] == [True, False, False, False]
        for tensor in batch[:4]:
            tensor += 1


def test_a_batch_too_large_for_a_block_has_memory_of_its_own(tmp_path: Path, alone: list[Batch]) -> None:
    loader = loader_of(tmp_path, 1)
    loader.collate_fn.keywords["shared"] = SharedBlocks(1, 3 * 64 * 64 - 1)
    batches = list(loader)
    small = [isinstance(sent(batch.images), tuple) for batch in batches]
    assert small == [batch.images[0].numel() < 3 * 64 * 64 for batch in batches]
    assert not all(small)
    assert_same(batches, alone)


def test_workers_that_are_not_forked_have_no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pickle.loads(pickle.dumps(SharedBlocks(1, 10))) is None
    assert shared_blocks(0, 10) is None
    monkeypatch.setattr(module.multiprocessing, "get_start_method", lambda: "spawn")
    assert shared_blocks(1, 10) is None


def test_without_shared_memory_batches_have_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.mmap, "mmap", refuse)
    assert shared_blocks(1, 10) is None
