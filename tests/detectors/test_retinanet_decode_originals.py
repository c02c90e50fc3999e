"""Detections compared with those recorded from zgcr and xytpai; each oracle works with and without their faults."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from retinanet_cases import ONES, anchors_of_xytpai, boxes_of, ious, outputs_on, yxhw, yxyx
from torch import Tensor

from detectors.boxes import LARGEST_LOG_RATIO, deltas_to_boxes
from detectors.retinanet import RetinaNetDecoder, RetinaNetOutputs

Golden = Callable[[str], dict[str, Any]]


def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, from_on: bool) -> Tensor:
    """Rows that survive suppression, best first; with `from_on` a box at the threshold is suppressed too."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    iou = ious(boxes, boxes, added=0.0)
    over = iou >= threshold if from_on else iou > threshold
    if labels is not None:
        over &= labels[order][:, None] == labels[order]
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~over[i, i + 1 :]
    return order[alive]


def of_zgcr(given: dict[str, Any], args: dict[str, Any], image: int, fast: bool, legacy: bool) -> tuple[Tensor, ...]:
    """Its decoders, written independently.

    `legacy`: sides without bound; boxes truncated towards zero, then left and top clamped at 0 alone, right and bottom
    at size - 1 alone; those without area are kept; an equal overlap suppresses; and class by class an anchor has only
    its best class, with no limit to the candidates of a level.
    """
    height, width = args["image_hw"]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for anchors, p, reg in zip(given["anchors"], given["cls_prob"], given["reg"], strict=True):
        deltas = reg[image] * torch.tensor([0.1, 0.1, 0.2, 0.2])
        if not legacy:
            deltas[:, 2:] = deltas[:, 2:].clamp(max=LARGEST_LOG_RATIO)
        boxes = boxes_of(anchors, deltas)
        if fast or legacy:
            score, label = p[image].max(dim=1)
        else:
            score, label = p[image].flatten(), torch.arange(p.shape[2]).repeat(len(anchors))
            boxes = boxes.repeat_interleave(p.shape[2], dim=0)
        top = torch.arange(len(score)) if legacy and not fast else score.argsort(descending=True)[:1000]
        parts.append((boxes[top], score[top], label[top]))
    boxes, scores, labels = (torch.cat(x) for x in zip(*parts, strict=True))
    if legacy:
        boxes = boxes.trunc()
        low, high = boxes[:, :2].clamp(min=0), boxes[:, 2:].minimum(torch.tensor([width - 1, height - 1]))
    else:
        limit = torch.tensor([width, height])
        low, high = boxes[:, :2].clamp(min=0).minimum(limit), boxes[:, 2:].clamp(min=0).minimum(limit)
    boxes = torch.cat((low, high), dim=1)
    kept = scores > args["min_score_threshold"]
    if not legacy:
        kept &= (high > low).all(dim=1)
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    kept = suppressed(boxes, scores, None if fast else labels, args["nms_threshold"], from_on=legacy)
    kept = kept[: args["max_detection_num"]]
    return boxes[kept], scores[kept], labels[kept]


def in_order(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ordered by label, then by falling score."""
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    return boxes[order], scores[order], labels[order]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("case", ["basic", "none", "thresh_005", "large_reg_outside_and_inverted"])
def test_it_equals_the_original_of_zgcr_without_its_faults(golden: Golden, case: str, fast: bool) -> None:
    """With its faults the oracle equals the recorded original, without them ours."""
    given = golden("retinanet_zgcr/decode_fast")[case]["in"]
    recorded = golden(f"retinanet_zgcr/decode_{'fast' if fast else 'classwise'}")[case]
    args, out = recorded["args"], recorded["out"]
    anchors, p, reg = (torch.cat(given[k], dim=int(k != "anchors")) for k in ("anchors", "cls_prob", "reg"))
    outputs = RetinaNetOutputs(p.double().logit().float(), reg, anchors, tuple(len(x) for x in given["anchors"]))
    decoder = RetinaNetDecoder(
        top_class_only=fast,
        score_threshold=args["min_score_threshold"],
        nms_threshold=args["nms_threshold"],
        max_detections=args["max_detection_num"],
    )
    detections = decoder(outputs, torch.tensor([args["image_hw"]]).repeat(len(p), 1))
    for image in range(len(p)):
        real = out["scores"][image] >= 0
        expected = in_order(out["boxes"][image][real], out["scores"][image][real], out["classes"][image][real].long())
        theirs = in_order(*of_zgcr(given, args, image, fast, legacy=True))
        torch.testing.assert_close(theirs, expected, rtol=1e-5, atol=1e-4)

        boxes, scores, labels = of_zgcr(given, args, image, fast, legacy=False)
        n = len(scores)
        torch.testing.assert_close(detections.scores[image, :n], scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(detections.boxes[image, :n], boxes, rtol=1e-5, atol=1e-2)
        assert torch.equal(detections.labels[image, :n], labels)
        assert (detections.labels[image, n:] == -1).all()
        assert n == (0 if case == "none" else 100)


def of_xytpai(
    anchors: Tensor, logits: Tensor, reg: Tensor, args: dict[str, Any], legacy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Its decoder; `legacy`: boxes are clamped after suppression, left and top at 0, right and bottom at size - 1."""
    height, width = args["img_size_hw"]
    scores, labels = logits.sigmoid().max(dim=1)
    boxes, limit = boxes_of(anchors, yxhw(reg)), torch.tensor([width, height])

    def clamped(boxes: Tensor) -> Tensor:
        if legacy:
            return torch.cat((boxes[:, :2].clamp(min=0), boxes[:, 2:].minimum(limit - 1)), dim=1)
        return boxes.clamp(min=0).minimum(limit.repeat(2))

    boxes = boxes if legacy else clamped(boxes)
    kept = scores > args["score_th"]
    if not legacy:
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    kept = suppressed(boxes, scores, None, args["nms_th"], from_on=False)
    return clamped(boxes[kept]), scores[kept], labels[kept]


def test_fast_decoding_equals_the_original_of_xytpai_clipped_on_both_sides_first(golden: Golden) -> None:
    """With its clamps the oracle equals the recorded original, without them ours. It has no maximum numbers."""
    recorded = golden("retinanet_xyt/decode")["basic_65"]
    given, args, out = recorded["in"], recorded["args"], recorded["out"]
    anchors = anchors_of_xytpai(*args["img_size_hw"])
    decoder = RetinaNetDecoder(
        ONES, top_class_only=True, score_threshold=args["score_th"], nms_threshold=args["nms_th"], max_detections=357
    )
    outputs = outputs_on(anchors, given["cls_out"], yxhw(given["reg_out"]))
    detections = decoder(outputs, torch.tensor([args["img_size_hw"]] * 2))
    for image, (logits, reg) in enumerate(zip(given["cls_out"], given["reg_out"], strict=True)):
        boxes, scores, labels = of_xytpai(anchors, logits, reg, args, legacy=True)
        torch.testing.assert_close(scores, out["cls_p"][image], rtol=1e-5, atol=0)
        torch.testing.assert_close(boxes, yxyx(out["boxes"][image]), rtol=1e-5, atol=1e-3)
        assert torch.equal(labels + 1, out["cls_i"][image])

        boxes, scores, labels = of_xytpai(anchors, logits, reg, args, legacy=False)
        n = len(scores)
        assert n > 40
        torch.testing.assert_close(detections.scores[image, :n], scores, rtol=1e-5, atol=0)
        torch.testing.assert_close(detections.boxes[image, :n], boxes, rtol=1e-5, atol=1e-3)
        assert torch.equal(detections.labels[image, :n], labels)
        assert (detections.labels[image, n:] == -1).all()


def test_boxes_of_deltas_equal_the_original_of_xytpai(golden: Golden) -> None:
    """Without suppression it returns all boxes before clamping."""
    recorded = golden("retinanet_xyt/decode")["no_nms"]
    given, args, out = recorded["in"], recorded["args"], recorded["out"]
    anchors = anchors_of_xytpai(*args["img_size_hw"])
    boxes = deltas_to_boxes(anchors, yxhw(given["reg_out"]), ONES)
    torch.testing.assert_close(yxyx(boxes), out["boxes"], rtol=1e-5, atol=1e-3)
    # The size clips nothing, so all anchors with a score over 0.5 are returned, each with its best class and score.
    far = torch.tensor([1000.0, 1000.0, 1000.0, 1000.0])
    outputs = outputs_on(anchors + far, given["cls_out"], yxhw(given["reg_out"]))
    decoder = RetinaNetDecoder(ONES, top_class_only=True, score_threshold=0.5, nms_threshold=1.0, max_detections=357)
    detections = decoder(outputs, torch.tensor([[3000, 3000]]))
    order = out["cls_p"][0].argsort(descending=True)
    order = order[out["cls_p"][0, order] > 0.5]
    n = len(order)
    assert (detections.labels[0] >= 0).sum() == n > 50
    torch.testing.assert_close(detections.scores[0, :n], out["cls_p"][0, order], rtol=1e-5, atol=0)
    assert torch.equal(detections.labels[0, :n] + 1, out["cls_i"][0, order])
    torch.testing.assert_close(detections.boxes[0, :n] - far, yxyx(out["boxes"][0, order]), rtol=1e-5, atol=1e-2)


def test_suppression_equals_the_original_of_xytpai(golden: Golden) -> None:
    recorded = golden("retinanet_xyt/box_nms")["union"]
    boxes, scores, kept = yxyx(recorded["in"]["boxes"]), recorded["in"]["scores"], recorded["out"]["keep"]
    outputs = outputs_on(boxes, scores.double().logit().float()[None, :, None])
    decoder = RetinaNetDecoder(top_class_only=True, score_threshold=0.0, nms_threshold=recorded["args"]["threshold"])
    detections = decoder(outputs, torch.tensor([[1000, 1000]]))
    n = len(kept)
    assert 20 < n == (detections.labels >= 0).sum() < len(boxes)
    torch.testing.assert_close(detections.boxes[0, :n], boxes[kept], rtol=1e-5, atol=1e-4)
