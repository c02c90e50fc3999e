"""The confusion matrices of a two-stage module: a case by hand, and row sums that equal the samples of the loss."""

import numpy as np
import pytest
import torch
from composing import built, composed

from boxwright.evaluate.score import _content
from datamodules.batch import Batch
from datamodules.shapes import ShapesDataModule
from detectors.detections import Detections
from detectors.faster_rcnn import RegionOutputs, RegionSamples
from detectors.losses import BACKGROUND, IGNORED
from detectors.rpn import AnchorSamples, RPNOutputs
from evaluation.confusions import Confusion, Matrix
from evaluation.metrics import Metrics
from evaluation.truth import Truth
from lit_modules.detection_module import DetectionModule
from lit_modules.evaluated import Evaluation
from lit_modules.faster_rcnn import FasterRCNNModule, region_pairs
from lit_modules.rpn import RPNModule, anchor_pairs

CLASSES = ("disc", "square", "triangle", "star", "cross")
SAMPLED = 24


def small(model: str, *overrides: str) -> DetectionModule:
    module = built(
        composed(
            f"model={model}", "model/backbone=mobilenet_v2", "model.backbone.norm=gn", "data=shapes",
            "model.pyramid_channels=32", "model.anchor_sizes=[8.0,16.0,32.0,64.0,128.0]", *overrides,
        )
    )  # fmt: skip
    assert isinstance(module, DetectionModule)
    return module


@pytest.fixture(scope="module")
def two_stages() -> FasterRCNNModule:
    samples = (f"anchor_sampler.num_samples={SAMPLED}", f"region_sampler.num_samples={SAMPLED}")
    overrides = ("head_channels=64", *samples, "proposer.max_proposals=50")
    module = small("faster_rcnn", *(f"model.{override}" for override in overrides))
    assert isinstance(module, FasterRCNNModule)
    return module


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesDataModule:
    data = ShapesDataModule(
        root=str(tmp_path_factory.mktemp("data") / "shapes"), train_images=4, val_images=5, image_size=64, resize=64,
        eval_batch_size=2, num_workers=0,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    return data


def evaluated(module: DetectionModule, batches: list[Batch]) -> Evaluation:
    module.eval()
    module.on_validation_epoch_start()
    with torch.no_grad():
        for batch in batches:
            module.validation_step(batch, 0)
    return module._evaluation


def test_an_anchor_with_a_logit_over_0_is_predicted_as_an_object() -> None:
    """Two images of four sampled anchors each; those of labels 2 and 0 are assigned to a box."""
    logits = torch.tensor([[3.0, -1.0, 0.0, 0.1, 9.0], [-2.0, 1.0, 1.0, -1.0, 9.0]])
    outputs = RPNOutputs(logits, torch.zeros(2, 5, 4), torch.zeros(5, 4), (5,), ())
    rows = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    labels = torch.tensor([[2, 0, BACKGROUND, BACKGROUND], [0, BACKGROUND, 0, IGNORED]])
    true, predicted = anchor_pairs(outputs, AnchorSamples(rows, labels, torch.zeros(2, 4, 4)))
    # 0: object, 1: background; -1 is not counted
    assert true.tolist() == [[0, 0, 1, 1], [0, 1, 0, -1]]
    assert predicted.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_a_region_is_predicted_as_the_class_of_its_largest_logit() -> None:
    """Columns of the logits are background, cat, dog; rows of the matrix cat, dog, background."""
    logits = torch.tensor([[[0.0, 2.0, 1.0], [5.0, 2.0, 1.0], [0.0, 0.0, 1.0], [3.0, 2.0, 1.0], [0.0, 9.0, 0.0]]])
    labels = torch.tensor([[0, 1, 1, BACKGROUND, IGNORED]])
    regions = torch.zeros(1, 5, 4)
    true, predicted = region_pairs(
        RegionOutputs(logits, torch.zeros(1, 5, 3, 4)), RegionSamples(regions, labels, regions)
    )
    assert true.tolist() == [[0, 1, 1, 2, -1]]
    assert predicted.tolist() == [[0, 2, 1, 2, 0]]


def test_row_sums_are_the_true_labels_of_the_samples_of_the_loss(two_stages, shapes) -> None:
    """Holds for each of three batches of five images in all."""
    batches = list(shapes.val_dataloader())
    whole = evaluated(two_stages, batches).confusions(two_stages.confusion_matrices(CLASSES))
    assert {name: part.matrix.names for name, part in whole.items()} == {
        "rpn": ("object", "background"), "roi_head": (*CLASSES, "background"),
    }  # fmt: skip
    anchors, regions = np.zeros(2, int), np.zeros(6, int)
    with torch.no_grad():
        for batch in batches:
            (features, proposals), seeds = two_stages.forward_batch(batch), two_stages.sampling_seeds(batch)
            sampled = two_stages.sample_anchors(features, batch.boxes, batch.labels, batch.sizes, seeds).labels
            anchors += [(sampled >= 0).sum(), (sampled == BACKGROUND).sum()]
            sampled = two_stages.sample_regions(proposals, batch.boxes, batch.labels, seeds).labels
            regions += [*((sampled == label).sum() for label in range(5)), (sampled == BACKGROUND).sum()]
    assert whole["rpn"].counts.sum(axis=1).tolist() == anchors.tolist()
    assert whole["roi_head"].counts.sum(axis=1).tolist() == regions.tolist()
    assert anchors.min() > 0
    assert anchors.sum() == 5 * SAMPLED
    assert (regions > 0).sum() >= 4


def test_a_batch_that_two_ranks_evaluated_counts_once(two_stages, shapes) -> None:
    first, *others = list(shapes.val_dataloader())
    matrices = two_stages.confusion_matrices(CLASSES)
    whole = evaluated(two_stages, [first, *others]).confusions(matrices)
    shards = [evaluated(two_stages, batches) for batches in ([*others, first], [first])]
    merged = Evaluation.merged(shards).confusions(matrices)
    assert all((merged[name].counts == part.counts).all() for name, part in whole.items())


def test_training_counts_nothing(two_stages, shapes) -> None:
    batch = next(iter(shapes.train_dataloader()))
    two_stages.losses(two_stages.forward_batch(batch), batch)
    assert two_stages._pairs == {}


def test_the_proposal_network_alone_counts_its_anchors(shapes) -> None:
    module = small("rpn", "data.num_classes=1", f"model.anchor_sampler.num_samples={SAMPLED}")
    assert isinstance(module, RPNModule)
    batches = [batch._replace(labels=batch.labels.clamp(max=0)) for batch in shapes.val_dataloader()]
    (part,) = evaluated(module, batches).confusions(module.confusion_matrices(["object"])).values()
    assert part.counts.sum() == 5 * SAMPLED
    assert part.counts.shape == (2, 2)


def test_metrics_json_has_the_counts_of_a_model_that_counts() -> None:
    plain = Metrics({"AP": 0.5}, {})
    assert _content(plain) == {"scalars": {"AP": 0.5}, "per_class": {}}
    part = Confusion(Matrix("anchors", ("object", "background")), np.array([[3, 1], [0, 4]]))
    content = _content(Metrics({"AP": 0.5}, {}, confusions={"rpn": part}))
    assert content["confusions"] == {"rpn": {"names": ["object", "background"], "counts": [[3, 1], [0, 4]]}}


def test_a_proposal_network_is_scored_by_its_best_100_boxes_and_all_its_proposals(
    monkeypatch: pytest.MonkeyPatch, shapes: ShapesDataModule
) -> None:
    """The one object of the image is the 150th proposal: AR1000 finds it, and AP does not."""
    module = small("rpn", "data.single_class=object", "model.decoder.max_proposals=200")
    batch = next(iter(shapes.val_dataloader()))
    batch = batch._replace(infos=batch.infos[:1])
    boxes = torch.zeros(1, 200, 4)
    boxes[..., 2:] = 3.0
    boxes[0, 149] = torch.tensor([20.0, 20.0, 60.0, 60.0])
    found = Detections(boxes, torch.linspace(1, 0.1, 200)[None], torch.zeros(1, 200, dtype=torch.int64))
    monkeypatch.setattr(module, "detect", lambda outputs, batch: found)
    entries = module.evaluate_batch(None, batch)
    size = np.array([batch.infos[0].original_size])
    truth = Truth(
        np.array([batch.infos[0].image_id]), size, np.zeros(1, int), boxes[0, 149:150].double().numpy(),
        np.zeros(1, int), np.array([1600.0]), np.zeros(1, bool), np.zeros(1, bool), ("object",), (1,),
    )  # fmt: skip
    metrics, predictions = module.score(truth, entries)
    assert predictions is not None
    assert len(predictions.scores) == 100
    scalars = metrics.scalars
    assert (scalars["AP"], scalars["AR100_proposals"], scalars["AR1000_proposals"]) == (0, 0, 1)
