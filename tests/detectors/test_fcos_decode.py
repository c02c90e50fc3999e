from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fcos_cases import outputs_of
from torch import Tensor

from detectors.boxes import boxes_to_distances
from detectors.detections import Detections
from detectors.fcos import FCOSDecoder, FCOSOutputs

Golden = Callable[[str], dict[str, Any]]


def logit(p: float) -> float:
    return float(torch.logit(torch.tensor(p, dtype=torch.float64)))


def outputs_for(
    boxes: Sequence[Sequence[float]], scores: list[list[float]], centerness: list[float] | None = None
) -> FCOSOutputs:
    """Outputs with points at the centres of the boxes, all on the first level, each with one score per class."""
    corners = torch.tensor(boxes, dtype=torch.float32)
    points = (corners[:, :2] + corners[:, 2:]) / 2
    return FCOSOutputs(
        logits=torch.tensor([[[logit(p) for p in row] for row in scores]]),
        distances=boxes_to_distances(points, corners)[None],
        centerness=torch.tensor([[logit(c) for c in centerness or [0.9999999] * len(boxes)]]),
        points=points,
        strides=torch.full((len(boxes),), 8.0),
        level_sizes=(len(boxes),),
    )


def found(detections: Detections, image: int = 0) -> list[tuple[list[float], float, int]]:
    real = detections.labels[image] >= 0
    return [
        (box.tolist(), round(score.item(), 4), int(label))
        for box, score, label in zip(
            detections.boxes[image][real],
            detections.scores[image][real],
            detections.labels[image][real],
            strict=True,
        )
    ]


SIZE = torch.tensor([[100, 100]])
A, NEAR_A, B = [0, 0, 40, 40], [0, 0, 40, 30], [50, 50, 90, 90]


def test_scores_are_the_root_of_class_score_times_centerness() -> None:
    detections = FCOSDecoder()(outputs_for([A, B], [[0.64], [0.81]], [1 / 4, 1 / 9]), SIZE)
    assert found(detections) == [(A, 0.4, 0), (B, 0.3, 0)]


def test_the_threshold_is_on_the_class_score_alone() -> None:
    detections = FCOSDecoder(score_threshold=0.5)(outputs_for([A, B], [[0.51], [0.49]], [0.01, 0.99]), SIZE)
    assert [box for box, _, _ in found(detections)] == [A]


def test_one_point_gives_one_box_for_each_class_over_the_threshold() -> None:
    detections = FCOSDecoder()(outputs_for([A], [[0.36, 0.01, 0.49]], [1 / 4]), SIZE)
    assert found(detections) == [(A, 0.35, 2), (A, 0.3, 0)]


def test_suppression_is_within_a_class_and_above_the_threshold() -> None:
    outputs = outputs_for([A, NEAR_A, B], [[0.9, 0.0001], [0.8, 0.7], [0.6, 0.0001]])  # IoU of A, NEAR_A: 0.75
    kept = [(box, label) for box, _, label in found(FCOSDecoder(nms_threshold=0.74)(outputs, SIZE))]
    assert kept == [(A, 0), (NEAR_A, 1), (B, 0)]
    kept = [(box, label) for box, _, label in found(FCOSDecoder(nms_threshold=0.75)(outputs, SIZE))]
    assert kept == [(A, 0), (NEAR_A, 0), (NEAR_A, 1), (B, 0)]


def test_boxes_are_clipped_to_their_image_and_empty_ones_dropped() -> None:
    outputs = outputs_for([[-9, -9, 40, 70], [60, 0, 90, 20]], [[0.9], [0.8]])
    detections = FCOSDecoder()(outputs, torch.tensor([[50, 60]]))
    assert [box for box, _, _ in found(detections)] == [[0, 0, 40, 50]]


def test_each_level_keeps_its_best_candidates_before_suppression() -> None:
    outputs = outputs_for([A, NEAR_A, B], [[0.9], [0.8], [0.7]])
    outputs = replace(outputs, level_sizes=(2, 1))
    boxes = [box for box, _, _ in found(FCOSDecoder(candidates_per_level=1)(outputs, SIZE))]
    assert boxes == [A, B]
    flipped = replace(outputs, level_sizes=(1, 2))  # NEAR_A shares its level with B, and is suppressed by A
    boxes = [box for box, _, _ in found(FCOSDecoder(candidates_per_level=1)(flipped, SIZE))]
    assert boxes == [A]


def test_results_are_padded_to_the_same_number() -> None:
    detections = FCOSDecoder(max_detections=3)(outputs_for([A], [[0.9]]), SIZE)
    assert detections.boxes.shape == (1, 3, 4)
    assert detections.labels.tolist() == [[0, -1, -1]]
    assert detections.scores[0, 1:].tolist() == [0, 0]
    assert detections.boxes[0, 1:].abs().sum() == 0
    only_best = FCOSDecoder(max_detections=1)(outputs_for([A, B], [[0.7], [0.8]]), SIZE)
    assert [box for box, _, _ in found(only_best)] == [B]


def test_every_image_is_clipped_to_its_own_size_and_decoded_alone() -> None:
    a, b = outputs_for([A, B], [[0.9], [0.001]]), outputs_for([A, B], [[0.001], [0.8]])
    both = replace(
        a,
        logits=torch.cat((a.logits, b.logits)),
        distances=torch.cat((a.distances, b.distances)),
        centerness=torch.cat((a.centerness, b.centerness)),
    )
    detections = FCOSDecoder()(both, torch.tensor([[20, 30], [70, 60]]))
    assert [box for box, _, _ in found(detections, 0)] == [[0, 0, 30, 20]]
    assert [box for box, _, _ in found(detections, 1)] == [[50, 50, 60, 70]]


def test_bfloat16_outputs_are_scored_in_float32_also_under_autocast() -> None:
    outputs = outputs_for([A, B], [[0.9], [0.8]], [0.3, 0.6])
    half = replace(outputs, logits=outputs.logits.bfloat16(), centerness=outputs.centerness.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        detections = FCOSDecoder()(half, SIZE)
    rounded = replace(outputs, logits=half.logits.float(), centerness=half.centerness.float())
    assert detections.scores.dtype == detections.boxes.dtype == torch.float32
    assert found(detections) == found(FCOSDecoder()(rounded, SIZE))


def test_a_threshold_of_zero_keeps_everything_and_one_is_refused() -> None:
    detections = FCOSDecoder(score_threshold=0.0)(outputs_for([A, B], [[0.9], [1e-6]]), SIZE)
    assert len(found(detections)) == 2
    with pytest.raises(ValueError, match=r"score_threshold=1\.0: expected 0 <= score_threshold < 1"):
        FCOSDecoder(score_threshold=1.0)


def original(
    given: dict[str, Any], outputs: FCOSOutputs, args: dict[str, Any], image: int, legacy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The original's decoder, candidate by candidate.

    `legacy`: clip to [0, size - 1], areas and overlaps with "+1" pixels, boxes without area are kept.
    """
    height, width = args["image_sizes_hw"][image]
    one = 1.0 if legacy else 0.0
    limit = torch.tensor([width - one, height - one] * 2)
    found: list[tuple[Tensor, Tensor, int]] = []
    start = 0
    for logits, centerness in zip(given["cls_logits"], given["centerness_logits"], strict=True):
        p, c = logits[image].sigmoid(), centerness[image].sigmoid()
        candidates = [
            (p[k, i, j] * c[0, i, j], start + i * p.shape[2] + j, k)
            for k, i, j in (p > args["pre_nms_thresh"]).nonzero().tolist()
        ]
        candidates.sort(key=lambda one: -float(one[0]))
        for product, row, k in candidates[: args["pre_nms_top_n"]]:
            x, y = outputs.points[row]
            left, top, right, bottom = outputs.distances[image, row]
            box = torch.stack((x - left, y - top, x + right, y + bottom)).clamp(min=0).minimum(limit)
            if legacy or (box[2] > box[0] and box[3] > box[1]):
                found.append((product.sqrt(), box, k))
        start += p.shape[1] * p.shape[2]
    found.sort(key=lambda one: -float(one[0]))
    if not found:
        return torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64)
    scores, boxes, labels = (torch.stack([torch.as_tensor(f[i]) for f in found]) for i in range(3))
    extent = boxes[:, 2:] - boxes[:, :2] + one
    overlap = (
        torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[:, None, :2], boxes[:, :2]) + one
    ).clamp(min=0)
    intersection, area = overlap.prod(dim=2), extent.prod(dim=1)
    iou = intersection / (area[:, None] + area - intersection)
    alive = torch.ones(len(found), dtype=torch.bool)
    for i in range(len(found)):
        if alive[i]:
            alive[i + 1 :] &= ~((iou[i] > args["nms_thresh"]) & (labels == labels[i]))[i + 1 :]
    kept = alive.nonzero()[: args["post_top_n"], 0]
    return boxes[kept], scores[kept], labels[kept]


def in_order(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ordered by label, then by falling score."""
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    return boxes[order], scores[order], labels[order]


@pytest.mark.parametrize("case", ["basic", "none_above_threshold", "small_topn_and_post", "boxes_far_outside_image"])
def test_it_equals_the_original_without_its_added_pixel(golden: Golden, case: str) -> None:
    """With its legacy pixel the oracle equals the recorded original, without it ours."""
    recorded = golden("fcos/decode")[case]
    given, args = recorded["in"], recorded["args"]
    outputs = outputs_of(given["cls_logits"], given["box_regression"], given["centerness_logits"])
    decoder = FCOSDecoder(
        score_threshold=args["pre_nms_thresh"],
        nms_threshold=args["nms_thresh"],
        candidates_per_level=args["pre_nms_top_n"],
        max_detections=args["post_top_n"],
    )
    detections = decoder(outputs, torch.tensor(args["image_sizes_hw"]))
    for image in range(len(args["image_sizes_hw"])):
        theirs = original(given, outputs, args, image, legacy=True)
        expected = tuple(recorded["out"][k][image] for k in ("boxes", "scores", "labels"))
        expected = in_order(expected[0].reshape(-1, 4), expected[1], expected[2] - 1)
        torch.testing.assert_close(in_order(*theirs), expected, rtol=1e-5, atol=1e-3)

        boxes, scores, labels = original(given, outputs, args, image, legacy=False)
        n = len(scores)
        torch.testing.assert_close(detections.scores[image, :n], scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(detections.boxes[image, :n], boxes, rtol=1e-5, atol=1e-3)
        assert torch.equal(detections.labels[image, :n], labels)
        assert (detections.labels[image, n:] == -1).all()


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, [0, 2, 3, 4]), (0.59, [0, 2, 3, 4])])
def test_suppression_equals_the_original_on_whole_pixels(golden: Golden, threshold: float, kept: list[int]) -> None:
    """The original's boxes include their last pixel; with 1 added to their right and bottom they are our boxes."""
    recorded = golden("fcos/ml_nms")[f"thr{threshold}"]
    boxes = recorded["in"]["boxes"] + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert recorded["out"]["keep"].tolist() == kept
    labels = recorded["in"]["labels"].long() - 1
    scores = torch.full((len(boxes), 2), 1e-4)
    scores[torch.arange(len(boxes)), labels] = recorded["in"]["scores"]
    detections = FCOSDecoder(nms_threshold=threshold)(outputs_for(boxes.tolist(), scores.tolist()), SIZE)
    expected = sorted(kept, key=lambda i: -recorded["in"]["scores"][i].item())
    assert [box for box, _, _ in found(detections)] == boxes[expected].tolist()
