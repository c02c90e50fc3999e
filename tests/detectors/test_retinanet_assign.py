from collections.abc import Callable
from typing import Any

import pytest
import torch
from fcos_cases import pad_truth, random_truth
from retinanet_cases import ONES, RCNN, anchors_of_xytpai, deltas_of, ious, yxhw, yxyx
from torch import Tensor
from torchvision.ops import box_iou

from detectors.anchors import RETINANET
from detectors.boxes import boxes_to_deltas
from detectors.losses import BACKGROUND, IGNORED
from detectors.matching import match_anchors
from detectors.retinanet import assign_retinanet

Golden = Callable[[str], dict[str, Any]]


def test_anchors_have_the_label_and_box_of_their_assignment() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 0.0, 10.0, 4.5], [90, 90, 99, 99]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 4.5], [0.0, 0.0, 0.0, 0.0]]])
    labels, target = assign_retinanet(anchors, boxes, torch.tensor([[5, 3, -1]]), allow_low_quality=False)
    assert labels.tolist() == [[5, IGNORED, 5, BACKGROUND]]
    assert target[0].tolist() == [boxes[0, 0].tolist(), anchors[1].tolist(), boxes[0, 0].tolist(), anchors[3].tolist()]
    labels, target = assign_retinanet(anchors, boxes, torch.tensor([[5, 3, -1]]))
    assert labels.tolist() == [[5, 3, 5, BACKGROUND]]
    assert target[0, 1].tolist() == boxes[0, 1].tolist()


def test_thresholds_are_those_given() -> None:
    anchors, box = (
        torch.tensor([[0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 10.0, 3.0]]),
        torch.tensor([[[0.0, 0.0, 10.0, 10.0]]]),
    )
    for background, foreground, expected in (
        (0.3, 0.6, [0, IGNORED]),
        (0.31, 0.61, [IGNORED, BACKGROUND]),
        (0.3, 0.3, [0, 0]),
        (0.61, 0.61, [BACKGROUND, BACKGROUND]),
    ):
        labels, _ = assign_retinanet(
            anchors,
            box,
            torch.tensor([[0]]),
            background_iou=background,
            foreground_iou=foreground,
            allow_low_quality=False,
        )
        assert labels.tolist() == [expected]


@pytest.mark.parametrize("num_boxes", [0, 2])
def test_an_image_without_boxes_is_background_with_deltas_of_zero(num_boxes: int) -> None:
    anchors = RETINANET.grid((64, 64))
    labels, target = assign_retinanet(
        anchors, torch.zeros(2, num_boxes, 4), torch.full((2, num_boxes), -1), allow_low_quality=True
    )
    assert (labels == BACKGROUND).all()
    assert boxes_to_deltas(anchors, target, RCNN).abs().max() == 0


def test_images_of_a_batch_are_independent() -> None:
    anchors = RETINANET.grid((128, 128))
    boxes, labels = random_truth(3, 9, 9)
    boxes[1, 4:], labels[1, 4:] = 0, -1
    together = assign_retinanet(anchors, boxes, labels)
    assert (together[0] >= 0).any(dim=1).all()
    for i, count in enumerate((9, 4, 9)):
        alone = assign_retinanet(anchors, boxes[i : i + 1, :count], labels[i : i + 1, :count])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


# The originals. Their anchors are compared in test_anchors.


def assert_matched_up_to(expected: Tensor, anchors: Tensor, boxes: Tensor) -> None:
    """Asserts that `match_anchors` sees these IoUs: a threshold just below one matches its anchor, one just above does
    not.
    """
    for row, column in (expected > 0).nonzero().tolist():
        for factor, result in ((1 - 1e-5, 0), (1 + 1e-5, BACKGROUND)):
            threshold = expected[row, column].item() * factor
            found = match_anchors(
                anchors[row : row + 1],
                boxes[None, column : column + 1],
                background_iou=threshold,
                foreground_iou=threshold,
                allow_low_quality=False,
            )
            assert found.item() == result
    assert (expected == 0).any()
    nothing = match_anchors(
        anchors, boxes[:, None], background_iou=1e-9, foreground_iou=1e-9, allow_low_quality=False
    )  # each box in an image of its own
    assert torch.equal(nothing.T == BACKGROUND, expected == 0)


def test_overlap_equals_the_original_of_xytpai(golden: Golden) -> None:
    recorded = golden("retinanet_xyt/box_iou")["f32"]
    anchors, boxes = yxyx(recorded["in"]["a"]), yxyx(recorded["in"]["b"])
    torch.testing.assert_close(ious(anchors, boxes, added=0.0), recorded["out"]["iou"], rtol=1e-5, atol=1e-7)
    assert_matched_up_to(recorded["out"]["iou"], anchors, boxes)


def test_overlap_equals_the_original_of_zgcr_without_its_added_pixel(golden: Golden) -> None:
    """With 1 added to the sides of areas the oracle equals the recorded original, without it ours."""
    recorded = golden("retinanet_zgcr/iou")["f32"]
    anchors, boxes = recorded["in"]["anchors"], recorded["in"]["gt"]
    torch.testing.assert_close(ious(anchors, boxes, added=1.0), recorded["out"]["iou"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ious(anchors, boxes, added=0.0), box_iou(anchors, boxes), rtol=1e-5, atol=1e-7)
    assert_matched_up_to(ious(anchors, boxes, added=0.0), anchors, boxes)


def of_zgcr(anchors: Tensor, annotations: Tensor, legacy: bool) -> tuple[Tensor, Tensor]:
    """Labels and unweighted deltas (R, 4) of one image's anchors; padding rows are of class -1.

    `legacy`: areas with "+1" pixels, boxes of at least one pixel, an image without boxes ignored as a whole.
    """
    boxes = annotations[annotations[:, 4] >= 0]
    if not len(boxes):
        return torch.full((len(anchors),), IGNORED if legacy else BACKGROUND), torch.zeros_like(anchors)
    iou, row = ious(anchors, boxes[:, :4], added=1.0 if legacy else 0.0).max(dim=1)
    labels = torch.where(iou >= 0.5, boxes[row, 4].long(), torch.where(iou < 0.4, BACKGROUND, IGNORED))
    corner, sides = boxes[:, :2], boxes[:, 2:4] - boxes[:, :2]
    boxes = torch.cat((corner, corner + (sides.clamp(min=1) if legacy else sides)), dim=1)
    return labels, deltas_of(anchors, boxes[row])


@pytest.mark.parametrize("case", ["mixed", "all_empty"])
def test_it_equals_the_original_of_zgcr_with_all_anchors_and_without_its_added_pixel(golden: Golden, case: str) -> None:
    """The original drops anchors that touch the border, forces none, and ignores an image without boxes.

    Here all anchors are trained, `allow_low_quality` is off, and such an image is background.
    """
    recorded = golden("retinanet_zgcr/assign")[case]
    anchors, annotations, out = recorded["in"]["anchors"], recorded["in"]["annotations"], recorded["out"]
    height, width = recorded["args"]["image_hw"]
    inside = (anchors[:, :2] > 0).all(dim=1) & (anchors[:, 2:] < torch.tensor([width, height])).all(dim=1)
    assert torch.equal(inside, out["border_keep_mask"])
    assert torch.equal(out["targets_all_anchors"][:, inside], out["targets_after_border_drop"])

    padding = annotations[..., 4] < 0
    labels, target = assign_retinanet(
        anchors,
        annotations[..., :4].masked_fill(padding[..., None], 0.0),
        annotations[..., 4].long(),
        allow_low_quality=False,
    )
    deltas = boxes_to_deltas(anchors, target, RCNN)
    for image, expected in enumerate(out["targets_all_anchors"]):
        theirs, their_deltas = of_zgcr(anchors, annotations[image], legacy=True)
        assert torch.equal(theirs + 1, expected[:, 4].long().where(expected[:, 4] >= 0, IGNORED + 1))
        if not padding[image].all():
            weighted = their_deltas * torch.tensor(RCNN)
            torch.testing.assert_close(weighted, expected[:, :4], rtol=1e-4, atol=1e-4)

        theirs, their_deltas = of_zgcr(anchors, annotations[image], legacy=False)
        assert torch.equal(labels[image], theirs)
        positive = theirs >= 0
        weighted = their_deltas[positive] * torch.tensor(RCNN)
        torch.testing.assert_close(deltas[image, positive], weighted, rtol=1e-4, atol=1e-4)
        assert deltas[image, ~positive].abs().sum() == 0
    assert (labels >= 0).any() == (case == "mixed")


def of_xytpai(anchors: Tensor, boxes: Tensor, numbers: Tensor, legacy: bool) -> tuple[Tensor, Tensor]:
    """Labels and deltas of one image's anchors.

    `legacy`: a box forces only its first best anchor, which is assigned to this box (of several, to the last); an IoU
    of 0.5 is not enough to match.
    """
    iou = ious(anchors, boxes, added=0.0)
    largest, row = iou.max(dim=1)
    labels = torch.where(largest < 0.3, BACKGROUND, IGNORED)
    row = row.clone()
    matched = largest > 0.5 if legacy else largest >= 0.5
    if legacy:
        forced = iou.argmax(dim=0)
        for box, anchor in enumerate(forced.tolist()):
            if not matched[anchor]:
                row[anchor] = box
        matched[forced] = True
    else:
        matched |= (iou == iou.amax(dim=0)).any(dim=1)
    return torch.where(matched, numbers[row] - 1, labels), deltas_of(anchors, boxes[row])


@pytest.mark.parametrize("case", ["random", "tiny_forced", "two_gts_same_best_anchor", "exact_anchor_and_border"])
def test_it_equals_the_original_of_xytpai_except_for_the_boxes_of_forced_anchors(golden: Golden, case: str) -> None:
    """Every box of these cases overlaps an anchor; the original forces one even where none does."""
    recorded = golden("retinanet_xyt/encode")[case]
    anchors = anchors_of_xytpai(*recorded["args"]["train_size"])
    background, foreground = recorded["args"]["train_iou_th"]
    given = [yxyx(boxes) for boxes in recorded["in"]["label_box"]]
    labels, target = assign_retinanet(
        anchors, *pad_truth(given, recorded["in"]["label_class"]), background_iou=background, foreground_iou=foreground
    )
    deltas = boxes_to_deltas(anchors, target, ONES)
    for image, (boxes, numbers) in enumerate(zip(given, recorded["in"]["label_class"], strict=True)):
        theirs, their_deltas = of_xytpai(anchors, boxes, numbers, legacy=True)
        expected = recorded["out"]["class_targets"][image]
        assert torch.equal(theirs + 1, expected.where(expected >= 0, IGNORED + 1))
        expected_deltas = yxhw(recorded["out"]["box_targets"][image])
        their_deltas = their_deltas.where(theirs[:, None] >= 0, 0.0)
        torch.testing.assert_close(their_deltas, expected_deltas, rtol=1e-4, atol=1e-4)

        theirs, their_deltas = of_xytpai(anchors, boxes, numbers, legacy=False)
        assert torch.equal(labels[image], theirs)
        their_deltas = their_deltas.where(theirs[:, None] >= 0, 0.0)
        torch.testing.assert_close(deltas[image], their_deltas, rtol=1e-4, atol=1e-4)


def test_anchors_of_the_oracle_are_those_of_xytpai(golden: Golden) -> None:
    for recorded in golden("retinanet_xyt/anchors").values():
        ours = anchors_of_xytpai(*recorded["args"]["img_size"])
        torch.testing.assert_close(ours, yxyx(recorded["out"]["anchors_yxyx"]), rtol=1e-6, atol=1e-5)
