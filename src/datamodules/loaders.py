"""Loaders of batches that are dealt to ranks already, and the training loader, which starts where training stands."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batch import Batch
from datamodules.errors import DataError
from datamodules.sampler import RankBatches, SampleKey

Role = Literal["train", "val", "test"]


def as_role(split: str) -> Role:
    """Returns the name of a split if it is one; ValueError otherwise."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"split {split!r}: expected train, val or test")
    return split


class Source(Protocol):
    """The data module that makes loaders."""

    trainer: Any


class Loader(Iterable[Batch]):
    """A DataLoader that Lightning leaves as it is, and that knows the data module it comes from.

    Lightning would put a sampler of its own into a DataLoader, on several ranks and in every prediction. So this is
    none, though it has one.
    """

    def __init__(
        self, data: Source, role: Role, dataset: Dataset[Any], batches: Sampler[list[SampleKey]], **options: Any
    ) -> None:
        self.data, self.role = data, role
        self.dataset, self.batch_sampler = dataset, batches
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches, **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    @property
    def collate_fn(self) -> Callable[[list[Any]], Batch]:
        return self._loader.collate_fn

    @property
    def _iterator(self) -> Any:
        """The running workers, which Lightning ends after a run."""
        return self._loader._iterator  # pyright: ignore[reportAttributeAccessIssue]

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        self._loader._iterator = value

    def under(self, trainer: Any) -> "Loader":
        """The same loader as the data module makes it for a trainer, whose ranks and micro-batches it then knows."""
        self.data.trainer = trainer
        return getattr(self.data, f"{self.role}_dataloader")()


class TrainLoader(Loader):
    """A loader that starts where training stands.

    Lightning makes the iterator before it has settled epoch and position of a resumed run, and in some cases
    keeps that iterator. So nothing happens here before the first batch is asked for; by then the trainer's
    own progress says which one it is. Reading it there rather than counting batches as they leave the sampler
    matters, since workers run ahead.
    """

    batch_sampler: RankBatches

    def __init__(
        self, data: Source, dataset: Dataset[Any], batches: RankBatches,
        progress: Callable[[], tuple[int, int] | None], **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(data, "train", dataset, batches, **options)
        self.progress = progress

    def __iter__(self) -> Iterator[Batch]:
        if position := self.progress():
            self.batch_sampler.start_at(*position)
        yield from super().__iter__()

    @property
    def stream(self) -> str:
        """A digest: two loaders of the same `stream` yield the same rows in the same batches and sizes."""
        source, batches = self.batch_sampler.sampler, self.batch_sampler
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((source.resize, source.batch_size, source.seed, source.multi_scale)).encode())
        others = (source.resize.max_side, source.resize.rounding, source.resize.interpolation)
        if others != (None, "long_down", "area"):  # those of all streams before there was a choice
            digest.update(repr(others).encode())
        if source.repeats is not None:
            digest.update(source.repeats.tobytes())
        digest.update(str(batches.accumulate).encode())
        digest.update(source.rows.tobytes() + source.originals.tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, str]:
        """Returns what a checkpoint must know of the stream; the position in it follows from the Trainer's progress."""
        return {"stream": self.stream}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """DataError where the checkpoint was made on another stream."""
        if state["stream"] != self.stream:
            raise DataError(
                "the checkpoint was made on another stream of training images; resume with the data set, "
                "data.seed, data.batch_size, resize settings and trainer.accumulate_grad_batches that it was "
                "trained with, or start a new run from its weights"
            )
