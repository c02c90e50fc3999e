"""Every model of conf/model learns, trains on images without objects, is independent of batching, and keeps its losses.

The classifier, which has one label per image, learns a data set of its own; all of its images have a label.

`python tests/test_models.py [MODEL...]` records the traces of tests/golden_traces again, after a change that is meant
to change the numbers, which a refactoring is not.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from composing import BUILDABLE, MODELS, built, composed, random_batch
from hydra.errors import InstantiationException
from tiers import slow_but
from torch import Tensor

from boxwright.config.files import flat
from datamodules.base import DetectionDataModule
from datamodules.batch import Batch
from datamodules.coco import CocoDataModule
from datamodules.imagefolder import ImageFolderDataModule
from datamodules.shapes import ShapesDataModule, draw
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import Evaluation
from lit_modules.seeds import step_seed
from lit_modules.training_module import TrainingModule

TRACES = Path(__file__).with_name("golden_traces")
CLASSES = {"rpn": 1}
"""Number of classes of models that have a fixed number, in place of NUM_CLASSES."""
NUM_CLASSES = 5
MEASURES = {"classifier": "top1", "rpn": "AR100"}
"""Metrics of models that are not scored by AP50: AP counts all proposals of an object but one as false positives."""
TRACED = {"classifier": 10}
"""Steps of a trace where rounding errors grow: for the classifier from 1e-7 to 1e-5 in ten steps, and to 2e-4 in
twenty, on a processor without AVX-512."""
DETECTORS = [model for model in MODELS if model != "classifier"]

SMALL = {
    "pyramid_channels": 64, "num_convs": 1, "head_channels": 128, "region_sampler.num_samples": 64,
    "train_proposer.candidates_per_level": 200, "train_proposer.max_proposals": 100,
    "proposer.candidates_per_level": 200, "proposer.max_proposals": 100, "decoder.candidates_per_level": 200,
}  # fmt: skip
EAGER = {
    "loss.center_sampling": 1.5, "normalize_targets": True, "centerness_on_box": True, "loss.box_loss": "giou",
    "anchor_sizes": [8.0, 16.0, 32.0, 64.0, 128.0],
}  # fmt: skip
"""Settings with which a model learns in fewer steps, for the models that have them."""
ORDERLESS = {
    "train_proposer.candidates_per_level": 1000, "train_proposer.max_proposals": 2000, "proposer.nms_threshold": 1.0,
    "region_sampler.num_samples": 2000, "region_sampler.positive_fraction": 1.0,
}  # fmt: skip
"""Trains the head on every anchor as a region, so that rounding changes no selection."""


def num_classes(model: str) -> int:
    return CLASSES.get(model, NUM_CLASSES)


def small_module(
    model: str, backbone: str, lr: float, optimizer: str = "adamw", knobs: Mapping[str, Any] = SMALL
) -> TrainingModule:
    """A module with random weights, every layer trained, and norms that work on single images."""
    overrides = [
        f"model={model}", f"model/backbone={backbone}", "model.backbone.norm=gn", "model.backbone.frozen_stages=0",
        "data=shapes", f"data.num_classes={num_classes(model)}", f"optimizer={optimizer}", "schedule=constant",
        "schedule.warmup_steps=5", f"model.lr={lr}",
    ]  # fmt: skip
    has = flat(composed(*overrides))
    given = {f"model.{key}": value for key, value in knobs.items() if f"model.{key}" in has}
    return built(composed(*overrides, *(f"{key}={value}" for key, value in given.items())))


@pytest.fixture(scope="module")
def smallest_backbone() -> str:
    def size(backbone: str) -> int:
        module = built(composed(f"model={MODELS[0]}", f"model/backbone={backbone}", "data=shapes"), device="meta")
        return sum(parameter.numel() for parameter in module.network.get_submodule("backbone").parameters())

    return min(BUILDABLE, key=size)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def train(module: TrainingModule, batch: Batch, steps: int) -> list[dict[str, float]]:
    """Takes steps on one batch as the Trainer would, and returns their losses."""
    optimizer = module.make_optimizer(module.network, module.lr)
    schedule = module.make_schedule(optimizer, steps)
    trace = []
    module.train()
    for step in range(steps):
        torch.manual_seed(step_seed(0, 0, step, 0))
        losses = module.losses(module.forward_batch(batch), batch)
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        trace.append({name: loss.item() for name, loss in losses.items()})
    return trace


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesDataModule:
    """Four images of 64 px with 27 objects, the same in training and validation."""
    datamodule = ShapesDataModule(
        root=str(tmp_path_factory.mktemp("data") / "shapes"), train_images=4, val_images=1, image_size=64, resize=64,
        batch_size=4, flip=0.0, num_workers=0,
    )  # fmt: skip
    datamodule.setup("fit")
    return datamodule


@pytest.fixture(scope="module")
def things(shapes) -> CocoDataModule:
    """The same images, all objects of one class."""
    root = Path(shapes.root)
    content = json.loads((root / "annotations/instances_train.json").read_text())
    content["categories"] = [{"id": 1, "name": "thing"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    (root / "annotations/things_train.json").write_text(json.dumps(content))
    datamodule = CocoDataModule(
        root=str(root), annotations="annotations/things_{split}.json", train_split="train", val_split="train",
        num_classes=1, resize=64, batch_size=4, flip=0.0, num_workers=0,
    )  # fmt: skip
    datamodule.setup("fit")
    return datamodule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolderDataModule:
    """Two very different images of 64 px in each of five classes; the same in training and validation."""
    root = tmp_path_factory.mktemp("data") / "folder"
    for i in range(2 * NUM_CLASSES):
        (root / "train" / f"class{i % NUM_CLASSES}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "train" / f"class{i % NUM_CLASSES}" / f"{i}.png"), draw((i,), 64, 0)[0])
    datamodule = ImageFolderDataModule(
        root=str(root), val_split="train", test_split="train", num_classes=NUM_CLASSES, resize=64, eval_batch_size=10,
        num_workers=0,
    )  # fmt: skip
    datamodule.setup("fit")
    return datamodule


@pytest.fixture(scope="module", params=slow_but("fcos", of=MODELS))
def overfitted(request, smallest_backbone, shapes, things, folder) -> tuple[TrainingModule, Batch, Callable[[], float]]:
    """A module, a batch on which it was trained for some steps, and a function that scores it on that batch."""
    module = small_module(request.param, smallest_backbone, lr=0.002, knobs=SMALL | EAGER)
    detects = isinstance(module, DetectionModule)
    data: DetectionDataModule = (things if request.param in CLASSES else shapes) if detects else folder
    batch = next(iter(data.train_dataloader() if detects else data.val_dataloader()))

    def score() -> float:
        module.eval()
        module._evaluation = Evaluation()
        with torch.no_grad():
            module.validation_step(batch, 0)
        scalars = module.score(data.truth("train"), module._evaluation.entries)[0].scalars
        return scalars[MEASURES.get(request.param, "AP50")]

    assert score() < (0.1 if detects else 0.5)
    train(module, batch, steps=60 if detects else 20)
    return module, batch, score


def test_a_few_images_can_be_overfitted(overfitted):
    module, batch, score = overfitted
    assert (batch.labels >= 0).sum() > 20 or not isinstance(module, DetectionModule)
    assert score() > (0.7 if isinstance(module, DetectionModule) else 0.99)


def test_outputs_of_a_batch_equal_those_of_its_single_images(overfitted):
    module, batch, _ = overfitted
    module.eval()
    together = answers(module, batch)
    alone = [answers(module, one_image(batch, i)) for i in range(len(batch.images))]
    if isinstance(module, DetectionModule):
        assert (together["labels"] >= 0).sum() > 20
    for name, found in together.items():
        one_by_one = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(found, one_by_one, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def answers(module: TrainingModule, batch: Batch) -> dict[str, Tensor]:
    outputs = module.forward_batch(batch)
    return vars(module.detect(outputs, batch)) if isinstance(module, DetectionModule) else {"logits": outputs}


def one_image(batch: Batch, i: int) -> Batch:
    part = slice(i, i + 1)
    return Batch(batch.images[part], batch.sizes[part], batch.boxes[part], batch.labels[part], batch.infos[part])


@pytest.mark.parametrize("model", DETECTORS)
def test_images_without_objects_train(model, smallest_backbone):
    module = small_module(model, smallest_backbone, lr=0.001)
    batch = random_batch(2, num_classes(model), num_boxes=0)
    losses = module.losses(module.forward_batch(batch), batch)
    assert all(loss.isfinite() for loss in losses.values()), losses
    total(losses).backward()
    without = [n for n, p in module.network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    first, *_, last = [sum(losses.values()) for losses in train(module, batch, steps=5)]
    assert 0 < last < first  # detections of background are unlearnt


ONE_MAP = [
    "model.pyramid_channels=null", "model.anchor_sizes=[32.0]", "model.backbone.weights=null", "optimizer=adamw",
    "model.backbone.frozen_stages=0", "model.backbone.norm=gn", "schedule=constant", "data=shapes",
]  # fmt: skip


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "vgg16"])
@pytest.mark.parametrize("model", ["faster_rcnn", "rpn"])
def test_over_one_map_every_trained_parameter_has_a_gradient(model, backbone):
    """A parameter without gradient would make training on several ranks fail."""
    overrides = [*ONE_MAP, f"model={model}", f"model/backbone={backbone}", f"data.num_classes={num_classes(model)}"]
    if model == "faster_rcnn":
        overrides += ["model.train_proposer.max_proposals=8", "model.region_sampler.num_samples=8"]
        overrides += ["model.backbone.fully_connected=true"] if backbone == "vgg16" else []
    module = built(composed(*overrides))
    batch = random_batch(1, num_classes(model))
    total(module.losses(module.forward_batch(batch), batch)).backward()
    assert not [n for n, p in module.network.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("model", DETECTORS)
def test_unused_layers_of_vgg16_are_refused(model):
    idle = ["model/backbone=vgg16", "model.backbone.fully_connected=true", f"data.num_classes={num_classes(model)}"]
    with pytest.raises(InstantiationException, match="fully_connected=true: fc6 and fc7 are of use to"):
        built(composed(f"model={model}", "data=shapes", *idle), device="meta")


@pytest.mark.parametrize("model", DETECTORS)
def test_an_unreadable_batch_counts_in_no_normaliser(model, smallest_backbone, monkeypatch):
    """The black replacement image has no sample, so that means over ranks must not count it."""
    counted = []

    def mean_over_ranks(x):
        counted.extend(x.flatten().tolist())
        return x

    module = small_module(model, smallest_backbone, lr=0.001)
    for name in [name for name in sys.modules if name.startswith("detectors.")]:
        if hasattr(sys.modules[name], "mean_over_ranks"):
            monkeypatch.setattr(sys.modules[name], "mean_over_ranks", mean_over_ranks)
    batch = random_batch(1, num_classes(model), num_boxes=0)._replace(infos=[])
    module.losses(module.forward_batch(batch), batch)
    assert counted
    assert counted == [0.0] * len(counted)


def trace(model: str, steps: int = 20) -> dict[str, list[float]]:
    """Losses of the first steps in float32.

    With ResNet-18 and SGD at a low rate rounding errors do not grow: threads, memory layout and instruction set change
    the trace by 1e-6, a pixel mean that is a tenth off by 1e-3. With MobileNetV2 of random weights, AdamW, or ten times
    the rate they grow to between 5e-5 and 1e-3. So they do where rounding moves a score across a threshold, so that a
    proposal appears or disappears; where every anchor is a proposal they stay at 1e-6.
    """
    module = small_module(model, "resnet18", lr=1e-4, optimizer="sgd", knobs=SMALL | ORDERLESS)
    losses = train(module, random_batch(4, num_classes(model)), steps)
    return {name: [step[name] for step in losses] for name in losses[0]}


@pytest.mark.parametrize("model", slow_but(*(model for model in MODELS if model != "faster_rcnn"), of=MODELS))
def test_the_loss_trace_is_the_recorded_one(model):
    file = TRACES / f"{model}.json"
    assert file.exists(), f"record the trace of a new model: python tests/{Path(__file__).name}"
    recorded = json.loads(file.read_text())
    seen = trace(model, TRACED.get(model, 20))
    assert seen.keys() == recorded.keys()
    for name, losses in recorded.items():
        assert seen[name] == pytest.approx(losses, rel=1e-4), name


if __name__ == "__main__":
    TRACES.mkdir(exist_ok=True)
    for each in sys.argv[1:] or MODELS:
        (TRACES / f"{each}.json").write_text(json.dumps(trace(each, TRACED.get(each, 20)), indent=1) + "\n")
