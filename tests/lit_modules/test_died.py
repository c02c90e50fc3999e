"""Torch's errors about a killed worker or rank are replaced by a message with the likely cause."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist
from torch import ones
from torch.utils.data import DataLoader, Dataset

from lit_modules.died import explain


class Killed(Dataset[int]):
    """A data set whose worker is killed when it reads."""

    def __init__(self, sig: int) -> None:
        self.sig = sig

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self.sig)
        signal.pause()
        return index


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_reported_with_lack_of_memory_as_likely_cause(sig):
    with pytest.raises(RuntimeError) as met:
        next(iter(DataLoader(Killed(sig), num_workers=1)))
    said = explain(met.value)
    assert said.startswith("data-loading worker ")
    assert "may have lacked memory" in said
    assert "\n" not in said


def in_ranks(folder: Path, do: Callable[[int], None]) -> str:
    """The message of rank 0 of two for the error that it met."""
    processes = []
    for rank in range(2):
        if process := os.fork():
            processes.append(process)
            continue
        try:
            signal.alarm(60)
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
            do(rank)
        except Exception as error:
            (folder / f"said_{rank}").write_text(explain(error) or f"unexplained: {error}")
        finally:
            os._exit(0)
    for process in processes:
        os.waitpid(process, 0)
    return (folder / "said_0").read_text()


def test_a_killed_rank_is_reported_by_the_others(tmp_path):
    def do(rank: int) -> None:
        dist.all_reduce(ones(1))
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(1000):
            dist.all_reduce(ones(1000))

    said = in_ranks(tmp_path, do)
    assert said.startswith(
        "another process of the run has ended; if it said nothing, the system may have lacked memory"
    )


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ValueError("DataLoader worker"), None])
def test_other_errors_are_not_changed(error):
    assert explain(error) == ""
