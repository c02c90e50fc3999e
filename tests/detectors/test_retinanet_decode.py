from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from retinanet_cases import outputs_on

from detectors.detections import Detections
from detectors.retinanet import RetinaNetDecoder, RetinaNetOutputs


def outputs_for(boxes: Sequence[Sequence[float]], scores: list[list[float]]) -> RetinaNetOutputs:
    """Outputs with anchors equal to the boxes, all on the first level, each with one score per class."""
    return outputs_on(boxes, torch.tensor([scores], dtype=torch.float64).logit().float())


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


@pytest.mark.parametrize("fast", [False, True])
def test_boxes_are_anchors_moved_by_weighted_deltas(fast: bool) -> None:
    # 0.5 widths to the right, half as high
    outputs = outputs_on([A], torch.zeros(1, 1, 1), torch.tensor([[[5.0, 0.0, 0.0, -7 * 0.6931472]]]))
    detections = RetinaNetDecoder(box_weights=(10.0, 10.0, 5.0, 7.0), top_class_only=fast)(outputs, SIZE)
    ((box, score, label),) = found(detections)
    assert box == pytest.approx([20, 10, 60, 30])
    assert (score, label) == (0.5, 0)


def test_one_anchor_gives_one_box_for_each_class_over_the_threshold() -> None:
    outputs = outputs_for([A], [[0.36, 0.04, 0.49]])
    assert found(RetinaNetDecoder()(outputs, SIZE)) == [(A, 0.49, 2), (A, 0.36, 0)]
    assert found(RetinaNetDecoder(score_threshold=0.4)(outputs, SIZE)) == [(A, 0.49, 2)]


def test_fast_decoding_gives_one_box_for_an_anchor_with_its_best_class() -> None:
    outputs = outputs_for([A, B], [[0.36, 0.04, 0.49], [0.01, 0.04, 0.02]])
    assert found(RetinaNetDecoder(top_class_only=True)(outputs, SIZE)) == [(A, 0.49, 2)]


@pytest.mark.parametrize("fast", [False, True])
def test_a_score_at_the_threshold_is_too_low(fast: bool) -> None:
    outputs = outputs_on([A, B], torch.tensor([[[0.0, -1.0], [0.0, 1e-6]]]))
    detections = RetinaNetDecoder(score_threshold=0.5, top_class_only=fast)(outputs, SIZE)
    assert [(box, label) for box, _, label in found(detections)] == [(B, 1)]


def test_suppression_is_within_a_class_and_above_the_threshold() -> None:
    outputs = outputs_for([A, NEAR_A, B], [[0.9, 0.0001], [0.8, 0.7], [0.6, 0.0001]])  # IoU of A, NEAR_A: 0.75
    kept = [(box, label) for box, _, label in found(RetinaNetDecoder(nms_threshold=0.74)(outputs, SIZE))]
    assert kept == [(A, 0), (NEAR_A, 1), (B, 0)]
    kept = [(box, label) for box, _, label in found(RetinaNetDecoder(nms_threshold=0.75)(outputs, SIZE))]
    assert kept == [(A, 0), (NEAR_A, 0), (NEAR_A, 1), (B, 0)]


def test_fast_suppression_is_over_all_classes() -> None:
    outputs = outputs_for([A, NEAR_A, B], [[0.9, 0.0001], [0.2, 0.7], [0.6, 0.0001]])
    for threshold, expected in ((0.74, [(A, 0), (B, 0)]), (0.75, [(A, 0), (NEAR_A, 1), (B, 0)])):
        detections = RetinaNetDecoder(top_class_only=True, nms_threshold=threshold)(outputs, SIZE)
        assert [(box, label) for box, _, label in found(detections)] == expected


@pytest.mark.parametrize("fast", [False, True])
def test_lower_scored_boxes_replace_any_number_of_suppressed_ones(fast: bool) -> None:
    outputs = outputs_for([A] * 50 + [B, NEAR_A], [[0.9]] * 50 + [[0.2], [0.1]])
    detections = RetinaNetDecoder(max_detections=2, top_class_only=fast)(outputs, SIZE)
    assert found(detections) == [(A, 0.9, 0), (B, 0.2, 0)]


@pytest.mark.parametrize("fast", [False, True])
def test_boxes_are_clipped_to_their_image_before_suppression_and_empty_ones_dropped(fast: bool) -> None:
    """Clipped at 60 x 50, the first two are equal."""
    outputs = outputs_for([[20, 10, 200, 50], [20, 10, 60, 300], [60, 0, 90, 20]], [[0.9], [0.8], [0.7]])
    detections = RetinaNetDecoder(top_class_only=fast)(outputs, torch.tensor([[50, 60]]))
    assert [box for box, _, _ in found(detections)] == [pytest.approx([20, 10, 60, 50])]


@pytest.mark.parametrize("fast", [False, True])
def test_an_extreme_delta_gives_a_bounded_box_and_a_non_finite_one_none(fast: bool) -> None:
    deltas = torch.tensor([[[0.0, 0.0, 1e9, 1e9], [torch.nan, 0.0, 0.0, 0.0], [torch.inf, 0.0, 0.0, 0.0]]])
    outputs = outputs_on([[496.0, 496.0, 504.0, 504.0]] * 3, torch.zeros(1, 3, 1), deltas)
    detections = RetinaNetDecoder(top_class_only=fast)(outputs, torch.tensor([[1000, 1000]]))
    assert [box for box, _, _ in found(detections)] == [pytest.approx([250, 250, 750, 750])]


@pytest.mark.parametrize("fast", [False, True])
def test_each_level_keeps_its_best_candidates_before_suppression(fast: bool) -> None:
    outputs = replace(outputs_for([A, NEAR_A, B], [[0.9], [0.8], [0.7]]), level_sizes=(2, 1))
    decode = RetinaNetDecoder(candidates_per_level=1, top_class_only=fast)
    assert [box for box, _, _ in found(decode(outputs, SIZE))] == [A, B]
    flipped = replace(outputs, level_sizes=(1, 2))  # NEAR_A shares its level with B, and is suppressed by A
    assert [box for box, _, _ in found(decode(flipped, SIZE))] == [A]


def test_candidates_are_pairs_of_anchor_and_class_and_anchors_alone_when_fast() -> None:
    outputs = outputs_for([A, B], [[0.9, 0.8], [0.7, 0.6]])
    kept = [(box, label) for box, _, label in found(RetinaNetDecoder(candidates_per_level=2)(outputs, SIZE))]
    assert kept == [(A, 0), (A, 1)]
    fast = RetinaNetDecoder(candidates_per_level=2, top_class_only=True)(outputs, SIZE)
    assert [(box, label) for box, _, label in found(fast)] == [(A, 0), (B, 0)]


@pytest.mark.parametrize("fast", [False, True])
def test_results_are_padded_to_the_same_number(fast: bool) -> None:
    detections = RetinaNetDecoder(max_detections=3, top_class_only=fast)(outputs_for([A], [[0.9]]), SIZE)
    assert detections.boxes.shape == (1, 3, 4)
    assert detections.labels.tolist() == [[0, -1, -1]]
    assert detections.scores[0, 1:].tolist() == [0, 0]
    assert detections.boxes[0, 1:].abs().sum() == 0
    only_best = RetinaNetDecoder(max_detections=1, top_class_only=fast)(outputs_for([A, B], [[0.7], [0.8]]), SIZE)
    assert [box for box, _, _ in found(only_best)] == [B]
    nothing = RetinaNetDecoder(max_detections=2, top_class_only=fast)(outputs_for([A], [[0.01]]), SIZE)
    assert nothing.labels.tolist() == [[-1, -1]]


@pytest.mark.parametrize("fast", [False, True])
def test_every_image_is_clipped_to_its_own_size_and_decoded_alone(fast: bool) -> None:
    a, b = outputs_for([A, B], [[0.9], [0.001]]), outputs_for([A, B], [[0.001], [0.8]])
    both = replace(a, logits=torch.cat((a.logits, b.logits)), deltas=torch.cat((a.deltas, b.deltas)))
    detections = RetinaNetDecoder(top_class_only=fast)(both, torch.tensor([[20, 30], [70, 60]]))
    assert [box for box, _, _ in found(detections, 0)] == [[0, 0, 30, 20]]
    assert [box for box, _, _ in found(detections, 1)] == [[50, 50, 60, 70]]


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_outputs_are_decoded_in_float32_also_under_autocast(fast: bool) -> None:
    outputs = outputs_for([A, B], [[0.9, 0.1], [0.8, 0.7]])
    outputs = replace(outputs, deltas=torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)))
    half = replace(outputs, logits=outputs.logits.bfloat16(), deltas=outputs.deltas.bfloat16())
    decode = RetinaNetDecoder(top_class_only=fast)
    with torch.autocast("cpu", torch.bfloat16):
        detections = decode(half, SIZE)
    rounded = replace(outputs, logits=half.logits.float(), deltas=half.deltas.float())
    assert detections.scores.dtype == detections.boxes.dtype == torch.float32
    assert found(detections) == found(decode(rounded, SIZE))


@pytest.mark.parametrize("fast", [False, True])
def test_a_threshold_of_zero_keeps_everything_and_one_is_refused(fast: bool) -> None:
    detections = RetinaNetDecoder(score_threshold=0.0, top_class_only=fast)(outputs_for([A, B], [[0.9], [1e-6]]), SIZE)
    assert len(found(detections)) == 2
    with pytest.raises(ValueError, match=r"score_threshold=1\.0: expected 0 <= score_threshold < 1"):
        RetinaNetDecoder(score_threshold=1.0)
