"""A module under a Trainer of the user's own, without any callback of this project."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from ranks import Detector
from running import assert_equal_bits
from tiny_data import coco, write_coco
from tiny_run import Data, Module
from torch.utils.data import DataLoader

from datamodules.base import DetectionDataModule
from datamodules.batch import Batch
from datamodules.dataset import collate, sample_of
from datamodules.images import ImageError
from datamodules.transforms import Resize
from lit_modules.schedules import constant

BOX: list[Any] = [[8, 8, 24, 24]]


class Predicting(Module):
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[Any]:
        return [info.image_id for info in batch.infos]


class MeasuredOn(Data):
    def test_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()


def module() -> Predicting:
    return Predicting(partial(constant))


def data_of(*names: str) -> Data:
    data = MeasuredOn()
    data.class_names = names  # pyright: ignore[reportAttributeAccessIssue]
    data.category_ids = tuple(range(len(names)))  # pyright: ignore[reportAttributeAccessIssue]
    return data


def trainer(**settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(accelerator="cpu", **{"enable_checkpointing": False, "max_epochs": 1, **quiet, **settings})


def with_unreadable(root: Path, rows: Sequence[int], **options: Any) -> DetectionDataModule:
    """Six images, those of `rows` empty files."""
    write_coco(root, [(64, 64)] * 6, [BOX * 2] * 6)
    for row in rows:
        (root / "train" / f"train_{row}.png").write_bytes(b"")
    return coco(root, resize=64, **options)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# Images that can't be read


def test_skipped_images_are_listed_when_met_and_summed_up_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, ours = with_unreadable(tmp_path / "data", [1, 4], on_error="skip"), Detector(set())
    trainer(num_sanity_val_steps=0).fit(ours, data)
    lines = [line for line in warned(caplog) if "could not be read" in line]
    assert [line.partition("\n")[0] for line in lines] == [
        "2 images of train could not be read and count for nothing:",
        "2 images of val could not be read and count for nothing:",
        "skipped (on_error='skip'): 2 images of train could not be read; 2 images of val could not be read",
    ]
    assert all("\n  '20': " in line and "\n  '50': " in line and "train_4.png is empty" in line for line in lines[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_skipped_images_of_an_evaluation_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    data, ours = with_unreadable(tmp_path, [3], on_error="skip"), Detector(set())
    getattr(trainer(), verb)(ours, data, verbose=False)
    (line,) = warned(caplog)
    split = "val" if verb == "validate" else "test"
    assert line.startswith(f"1 image of {split} could not be read and count for nothing:\n  '40': ")
    assert ours.skipped.images[split].keys() == {"40"}


def test_skipped_images_of_a_prediction_are_listed_and_have_no_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, ours = with_unreadable(tmp_path, [0, 3], on_error="skip", eval_batch_size=1), Detector(set())
    for _ in range(2):  # of a second prediction too
        batches: Any = trainer().predict(ours, data)
        assert [one.image_id for batch in batches for one in batch] == [20, 30, 50, 60]
        assert ours.skipped.images["predict"].keys() == {"10", "40"}
    (line,) = warned(caplog)
    assert line.startswith("2 images of the prediction could not be read and count for nothing:\n  '10': ")


def test_a_long_list_says_where_the_rest_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = Detector(set())
    data = with_unreadable(tmp_path, [0], on_error="skip")
    ours.skipped.images["train"] = {f"{row}": "gone" for row in range(100, 130)}
    trainer().validate(ours, data, verbose=False)
    assert any("... 10 more in module.skipped.images" in line for line in warned(caplog))


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_ends_what_runs_by_name(tmp_path: Path, verb: str, workers: int) -> None:
    data = with_unreadable(tmp_path, [3], num_workers=workers)
    with pytest.raises(ImageError) as error:
        getattr(trainer(num_sanity_val_steps=0), verb)(Detector(set()), data)
    assert str(error.value).startswith("image 40: ")
    assert str(error.value).endswith("train_3.png is empty; replace it, or set data.on_error=skip to skip it")


# Classes


@pytest.mark.parametrize("verb", ["validate", "test"])
@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (("b", "c"), r"give data that have them, in this order"),
        (("b",), r"give data that have them"),
        (("b", "c", "a"), r"give the data module classes=\['a'\], in this order"),
    ],
)
def test_other_classes_are_not_scored(verb: str, names: tuple[str, ...], remedy: str, tmp_path: Path) -> None:
    ours = module()
    save = ModelCheckpoint(tmp_path, filename="one")
    trainer(enable_checkpointing=True, callbacks=[save]).fit(ours, data_of("a"))
    assert ours.class_names == ("a",)
    wanted = rf"was trained on the 1 class a, the data have the {len(names)} class.*; {remedy}"
    with pytest.raises(ValueError, match=wanted):
        getattr(trainer(), verb)(ours, data_of(*names))
    again = Predicting.load_from_checkpoint(tmp_path / "one.ckpt")
    assert again.class_names == ("a",)
    with pytest.raises(ValueError, match=wanted):
        getattr(trainer(), verb)(again, data_of(*names))
    with pytest.raises(ValueError, match=r"Predicting of the checkpoint was trained on the 1 class a, the data have"):
        getattr(trainer(), verb)(module(), data_of(*names), ckpt_path=tmp_path / "one.ckpt")


def test_classes_in_another_order_are_other_classes() -> None:
    ours = module()
    trainer().fit(ours, data_of("a", "b"))
    assert trainer().validate(ours, data_of("a", "b"), verbose=False)[0]["val/AP"] == 0.5
    with pytest.raises(ValueError, match=r"classes=\['a', 'b'\], in this order"):
        trainer().validate(ours, data_of("b", "a"))


def test_a_validation_has_the_classes_of_its_training(tmp_path: Path) -> None:
    write_coco(tmp_path, [(64, 64)] * 2, [BOX] * 2)
    ours, other = (coco(tmp_path, resize=64, classes=names) for names in (["a", "b"], ["b", "a"]))
    with pytest.raises(ValueError, match=r"2 classes a, b, the data have the 2 classes b, a; .*classes=\['a', 'b'\]"):
        trainer().fit(Detector(set()), ours.train_dataloader(), other.val_dataloader())


def test_a_run_is_resumed_on_its_classes_and_a_new_one_takes_others(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, filename="one")
    trainer(enable_checkpointing=True, callbacks=[save]).fit(module(), data_of("a"))
    with pytest.raises(ValueError, match=r"Predicting\.load_from_checkpoint\(path\) starts from its weights"):
        trainer(max_epochs=2).fit(module(), data_of("b"), ckpt_path=tmp_path / "one.ckpt")
    again = Predicting.load_from_checkpoint(tmp_path / "one.ckpt")
    trainer().fit(again, data_of("b"))
    assert again.class_names == ("b",)


def test_a_prediction_looks_at_no_classes(tmp_path: Path) -> None:
    ours = Detector(set())
    data = coco(write_coco(tmp_path, [(64, 64)] * 3, [BOX] * 3), resize=64, num_classes=1, classes=["a"])
    with pytest.raises(ValueError, match="num_classes=2, but its data 1 class"):
        trainer().validate(ours, data)
    batches: Any = trainer().predict(ours, data)
    assert [one.image_id for batch in batches for one in batch] == [10, 20, 30]
    ours.class_names = ("x", "y")
    assert trainer().predict(ours, data)
    wide = next(iter(data.predict_dataloader()))._replace(labels=torch.tensor([[7], [-5]]))
    loader: Any = DataLoader([wide], batch_size=None)  # pyright: ignore[reportArgumentType]
    assert trainer().predict(ours, loader)


def test_a_file_that_is_no_checkpoint_is_told_so_without_advice_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("this is a text")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    torch.save({"state_dict": {}, "boxwright": Path()}, tmp_path / "objects.ckpt")
    for name, says in (
        ("text", "is no whole checkpoint"), ("tensor", "holds a Tensor; expected a checkpoint"),
        ("objects", "holds other objects than tensors"), ("none", "does not exist, seen from"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}\.ckpt {says}") as error:
            Predicting.load_from_checkpoint(tmp_path / f"{name}.ckpt")
        assert "weights_only" not in str(error.value)


def test_a_checkpoint_of_another_project_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "other.ckpt"
    torch.save({"state_dict": module().state_dict(), "pytorch-lightning_version": "2.6.0", "loops": {}}, file)
    with pytest.raises(ValueError, match="was not written by a module of this project"):
        trainer().validate(module(), data_of("a"), ckpt_path=file)


# Loaders


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_several_loaders_are_not_scored_at_once(verb: str) -> None:
    data = data_of("a")
    loaders = [data.val_dataloader(), data.val_dataloader()]
    with pytest.raises(ValueError, match=r"2 loaders to evaluate on: expected one"):
        getattr(trainer(), verb)(module(), loaders)


def test_a_list_of_one_loader_is_a_loader(tmp_path: Path) -> None:
    data = coco(write_coco(tmp_path, [(64, 64)] * 2, [BOX] * 2), resize=64)
    ours, plain = Detector(set()), trainer()
    plain.fit(ours, [data.train_dataloader()], [data.val_dataloader()])
    (alone,) = trainer().validate(ours, data.val_dataloader(), verbose=False)
    assert plain.callback_metrics["val/loss"] == pytest.approx(alone["val/loss"])
    assert trainer().validate(ours, [data.val_dataloader()], verbose=False) == [alone]


def test_several_loaders_are_predicted_one_after_the_other(tmp_path: Path) -> None:
    data = coco(write_coco(tmp_path, [(64, 64)] * 2, [BOX] * 2), resize=64, eval_batch_size=2)
    found: Any = trainer().predict(Detector(set()), [data.val_dataloader(), data.test_dataloader()])
    assert [[[one.image_id for one in batch] for batch in of_loader] for of_loader in found] == [[[10, 20]]] * 2


class Seen(pl.Callback):
    def __init__(self) -> None:
        self.ids: list[list[Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.ids.append([info.image_id for info in batch.infos])


@pytest.mark.parametrize("overfit", [True, False])
def test_overfit_batches_repeats_the_same_batches(tmp_path: Path, overfit: bool) -> None:
    data = coco(write_coco(tmp_path, [(64, 64)] * 12, [BOX] * 12), resize=64, batch_size=2)
    seen = Seen()
    limits: dict[str, Any] = {"overfit_batches": 2} if overfit else {"limit_train_batches": 2}
    trainer(max_epochs=3, limit_val_batches=0, callbacks=[seen], **limits).fit(Detector(set()), data)
    assert len(seen.ids) == 6
    assert (seen.ids[:2] == seen.ids[2:4] == seen.ids[4:]) == overfit


def test_pictures_of_other_canvases_share_no_batch() -> None:
    square, wide = (np.zeros(size, np.uint8) for size in ((64, 64, 3), (64, 90, 3)))
    one, other = (sample_of(image, name, Resize("short_side", 64)) for image, name in ((square, "a"), (wide, "b")))
    assert (one.canvas, other.canvas) == ((64, 64), (64, 96))
    with pytest.raises(ValueError, match=r"canvases .* \(64, 64\) and \(64, 96\) in one batch: expected one canvas"):
        collate([one, other])
    batch = collate([sample_of(image, "c", Resize("square", 64)) for image in (square, wide)])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.sizes.tolist() == [[64, 64], [46, 64]]


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_no_precision_rounds_the_boxes(precision: str, verb: str) -> None:
    with pytest.raises(ValueError, match=rf"precision='{precision}' would round the boxes .*; expected '32-true'"):
        getattr(trainer(precision=precision), verb)(module(), data_of("a"))


# Averages by Lightning's callback


def averaged(folder: Path, epochs: int, resume: Path | None = None) -> Any:
    callbacks = [EMAWeightAveraging(decay=0.5), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)]
    ours = module()
    plain = trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=callbacks)
    plain.fit(ours, data_of("a"), ckpt_path=resume)
    return torch.load(folder / f"epoch={epochs - 1}.ckpt", weights_only=True)


def test_lightnings_average_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    whole = averaged(tmp_path / "whole", 3)
    averaged(tmp_path / "part", 2)
    resumed = averaged(tmp_path / "part", 3, tmp_path / "part" / "epoch=1.ckpt")
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert_equal_bits(resumed[key], whole[key], key)
    average, raw = whole["state_dict"]["network.weight"], whole["current_model_state"]["network.weight"]
    assert not torch.equal(average, raw)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_trainer_of_an_averaged_run_evaluates_the_average(tmp_path: Path, verb: str) -> None:
    """Lightning's callback, which still has its averaging model, would load the weights as they were trained."""
    seen: list[torch.Tensor] = []

    class Looks(pl.Callback):
        def look(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(pl_module.network.weight.detach().clone())

        on_validation_batch_start = on_test_batch_start = on_predict_batch_start = look

    callbacks = [EMAWeightAveraging(decay=0.5), ModelCheckpoint(tmp_path, save_top_k=1, monitor="val/AP"), Looks()]
    plain = trainer(max_epochs=2, enable_checkpointing=True, callbacks=callbacks, num_sanity_val_steps=0)
    plain.fit(module(), data_of("a"))
    seen.clear()
    loaders: dict[str, Any] = {"dataloaders": data_of("a").val_dataloader()} if verb == "predict" else {}
    getattr(plain, verb)(**(loaders or {"datamodule": MeasuredOn()}), ckpt_path="best")
    stored = torch.load(plain.checkpoint_callback.best_model_path, weights_only=True)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert len(seen) == 1
    assert torch.equal(seen[0], stored["state_dict"]["network.weight"])
    assert not torch.equal(seen[0], stored["current_model_state"]["network.weight"])
