"""Unreadable images have no effect on a loss, a gradient or a score."""

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from ranks import Detector, evaluated
from tiny_data import coco, write_coco, write_json
from torch import Tensor

from datamodules.base import DetectionDataModule
from datamodules.batch import Batch
from lit_modules.callbacks.log import Log
from lit_modules.skipped import Skipped

BOX: list[Any] = [[8, 8, 24, 24]]


def ready(root: Path, **options: Any) -> DetectionDataModule:
    data = coco(root, resize=64, on_error="skip", **options)
    data.setup("fit")
    return data


class Record(pl.Callback):
    """Records losses, gradients and images of each training step."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.gradients: list[dict[str, Any]] = []
        self.norms: list[float] = []
        self.unread: list[list[Any]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.network.named_parameters()
        self.gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in named})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.losses.append({name: value.item() for name, value in outputs["losses"].items()})
        self.norms.append(float(pl_module.gradient_norm))
        self.unread.append([info.image_id for info in batch.unread])


def fit(data: DetectionDataModule, folder: Path, steps: int, **options: Any) -> tuple[Detector, Record]:
    record = Record()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[record, Log()], gradient_clip_val=1.0, limit_val_batches=0, **options,
    )  # fmt: skip
    module = Detector(blind=set())
    module.attach(folder, data.seed)
    trainer.fit(module, data)
    return module, record


def losses_and_gradients(batch: Batch) -> tuple[dict[str, Tensor], list[Any]]:
    """Losses and gradients of a module at its start."""
    module = Detector(blind=set())
    losses = module.losses(module.forward_batch(batch), batch)
    torch.stack(list(losses.values())).sum().backward()
    return losses, [parameter.grad for parameter in module.network.parameters()]


def test_losses_and_gradients_are_those_of_the_readable_images(tmp_path: Path) -> None:
    write_coco(tmp_path, [(64, 64)] * 3, [BOX * number for number in (1, 3, 2)])
    data = ready(tmp_path, batch_size=3)
    whole: Batch = next(iter(data.train_dataloader()))
    left = [place for place, info in enumerate(whole.infos) if info.image_id != 20]
    (tmp_path / "train" / "train_1.png").write_bytes(b"")
    batch: Batch = next(iter(data.train_dataloader()))
    readable = Batch(
        whole.images[left], whole.sizes[left], whole.boxes[left][:, :2], whole.labels[left][:, :2],
        [whole.infos[place] for place in left],
    )  # fmt: skip
    assert [info.image_id for info in batch.unread] == [20]
    assert batch.infos == readable.infos

    (ours, our_gradients), (theirs, their_gradients) = losses_and_gradients(batch), losses_and_gradients(readable)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(a, b) for a, b in zip(our_gradients, their_gradients, strict=True))


def test_losses_and_gradients_of_an_unreadable_batch_are_zero(tmp_path: Path) -> None:
    write_coco(tmp_path, [(64, 64)] * 2, [BOX] * 2)
    (tmp_path / "train" / "train_1.png").write_bytes(b"")
    module, record = fit(ready(tmp_path, batch_size=1), tmp_path, steps=2)
    nothing = record.unread.index([20])
    assert record.unread[1 - nothing] == []
    assert set(record.losses[nothing].values()) == {0.0}
    assert all(gradient is not None and not gradient.any() for gradient in record.gradients[nothing].values())
    assert record.norms[nothing] == 0.0
    assert min(record.losses[1 - nothing].values()) > 0
    assert module.skipped.images["train"].keys() == {"20"}


def test_an_unreadable_micro_batch_does_not_change_the_gradient(tmp_path: Path) -> None:
    write_coco(tmp_path, [(64, 64)] * 2, [BOX] * 2)
    (tmp_path / "train" / "train_1.png").write_bytes(b"")
    _, record = fit(ready(tmp_path, batch_size=2), tmp_path, steps=1, accumulate_grad_batches=2)
    assert sorted(record.unread) == [[], [20]]
    batch: Batch = next(iter(ready(tmp_path, batch_size=2).train_dataloader()))
    assert [info.image_id for info in batch.infos] == [10]
    (gradients,), wanted = record.gradients, losses_and_gradients(batch)[1]
    assert all(torch.equal(2 * gradient, alone) for gradient, alone in zip(gradients.values(), wanted, strict=True))
    assert record.norms[-1] > 0


def test_a_split_is_scored_as_if_the_unreadable_images_were_not_in_it(tmp_path: Path) -> None:
    """Batches are formed before images are read, so the images are such that the others share the same batches."""
    sizes = [(64, 64)] * 4 + [(96, 64)] * 3
    write_coco(tmp_path / "a", sizes, [BOX * (1 + row % 3) for row in range(7)])
    unread = {40, 70}  # the last of each canvas
    file = tmp_path / "a" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    (tmp_path / "a" / "train" / "train_3.png").write_bytes(b"")
    (tmp_path / "a" / "train" / "train_6.png").write_bytes(b"text")
    content["images"] = [image for image in content["images"] if image["id"] not in unread]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in unread]
    write_json(tmp_path / "b", content)
    (tmp_path / "b" / "train").symlink_to(tmp_path / "a" / "train")
    with_unread, without = (
        evaluated(1, coco(tmp_path / name, resize=64, eval_batch_size=2, on_error="skip"), set()) for name in "ab"
    )
    assert with_unread["scored"] == without["scored"] == [10, 20, 30, 50, 60]
    assert 0 < without["scalars"]["AP50"] < 1
    for key in ("scalars", "per_class", "losses", "predictions"):
        assert with_unread[key] == without[key]


def test_a_split_without_any_readable_image_is_an_error(tmp_path: Path) -> None:
    write_coco(tmp_path, [(64, 64)], [BOX])
    data = coco(tmp_path, resize=64, on_error="skip")
    data.setup("validate")
    (tmp_path / "train" / "train_0.png").write_bytes(b"")  # only now: set-up would notice it
    with pytest.raises(ValueError, match=r"no image to score: .* none of its images could be read"):
        evaluated(1, data, set())


def test_skipped_images_are_listed_in_the_folder_and_reported_once(tmp_path: Path) -> None:
    skipped = Skipped()
    skipped.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not skipped
    skipped.images["train"] = {str(row): "x.jpg is empty" for row in range(30)}
    skipped.annotation_counts, skipped.annotations = {"a rule": 3}, ["a problem"]
    (paragraph,) = skipped.news()
    assert "30 images of train could not be read" in paragraph
    assert "'19': x.jpg is empty" in paragraph
    assert "10 more in skipped.json" in paragraph
    assert skipped.news() == []
    skipped.write(tmp_path)
    again = Skipped.read(tmp_path)
    assert (again.images, again.annotations) == (skipped.images, skipped.annotations)
    assert again.news() == []
    again.images["val"] = {"40": "gone"}
    assert again.news() == ["1 image of val could not be read and count for nothing:\n  '40': gone"]
    assert str(again) == (
        "30 images of train could not be read; 1 image of val could not be read; "
        "3 problems in the annotations (a rule: 3)"
    )
    assert json.loads((tmp_path / "skipped.json").read_text())["train"]["7"] == "x.jpg is empty"
