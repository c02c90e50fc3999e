"""A run of a tenth of a second in the test's own process: a module of four weights on random pixels."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.batch import Batch, ImageInfo
from evaluation.metrics import Metrics
from evaluation.truth import Predictions, Truth
from lit_modules.callbacks.averaging import Averaging
from lit_modules.callbacks.checkpoints import Checkpoints, saved
from lit_modules.optimizers import sgd
from lit_modules.training_module import MakeSchedule, TrainingModule

EPOCH = 4
"""Steps of an epoch."""


class Module(TrainingModule):
    def __init__(self, schedule: MakeSchedule, lr: float = 0.1) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 1), partial(sgd, momentum=0.9), schedule, lr)
        self.rates: list[float] = []

    def forward_batch(self, batch: Batch) -> Tensor:
        return self.network(batch.images.float().mean((2, 3)) / 255)

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss_cls": (outputs - 1).square().mean()}

    def evaluate_batch(self, outputs: Tensor, batch: Batch) -> Sequence[Any]:
        return ()

    def score(self, truth: Truth, entries: Sequence[Any]) -> tuple[Metrics, Predictions | None]:
        return Metrics({"AP": 0.5}, {}), None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])


class Data(pl.LightningDataModule):
    seed, class_names, category_ids, problems, problem_counts = 0, ("a",), (1,), [], {}

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(EPOCH)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(1)

    def _loader(self, batches: int) -> DataLoader[Batch]:
        return DataLoader([self._batch(row) for row in range(batches)], batch_size=None)  # pyright: ignore[reportArgumentType]

    def _batch(self, row: int) -> Batch:
        images = torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(row), dtype=torch.uint8)
        infos = [ImageInfo(2 * row + i, (4, 4), (1.0, 1.0)) for i in range(2)]
        return Batch(images, torch.tensor([(4, 4)] * 2), torch.zeros(2, 1, 4), torch.full((2, 1), -1), infos)

    def truth(self, split: str) -> Truth:
        return Truth(
            image_ids=np.array([0, 1]), sizes=np.full((2, 2), 4), image_index=np.zeros(0, int), boxes=np.zeros((0, 4)),
            labels=np.zeros(0, int), areas=np.zeros(0), crowd=np.zeros(0, bool), difficult=np.zeros(0, bool),
            class_names=("a",), category_ids=(1,),
        )  # fmt: skip


def fit(
    folder: Path,
    schedule: MakeSchedule,
    decay: float | None = None,
    averaging: bool = True,
    resume: bool = False,
    **limits: Any,
) -> Module:
    """Runs, or resumes from the newest checkpoint in the folder; returns the module."""
    folder.mkdir(exist_ok=True)
    module = Module(schedule)
    checkpoints = Checkpoints(every_steps=1, keep=-1)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, default_root_dir=str(folder), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=EPOCH, check_val_every_n_epoch=None,
        callbacks=[checkpoints, *([Averaging(decay)] if averaging else [])], **{"max_epochs": -1, **limits},
    )  # fmt: skip
    last = str(saved(folder / "checkpoints")[-1][1]) if resume else None
    trainer.fit(module, Data(), ckpt_path=last, weights_only=True)
    return module
