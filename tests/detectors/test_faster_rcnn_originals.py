"""Targets and proposals compared with those recorded from chenyuntc's Faster R-CNN, whose boxes are (y1, x1, y2, x2).

Its anchors are compared in test_anchors, its losses and detections in test_faster_rcnn_loss_originals.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from faster_rcnn_cases import proposals_of, rpn_outputs_on
from retinanet_cases import ONES, RCNN, yxhw, yxyx
from torch import Tensor
from torchvision.ops import box_iou

from detectors.boxes import LARGEST_LOG_RATIO, boxes_to_deltas, deltas_to_boxes
from detectors.faster_rcnn import RegionSampler
from detectors.losses import BACKGROUND, IGNORED
from detectors.roi_pooling import max_pool_regions
from detectors.rpn import AnchorSampler, RPNDecoder, anchors_inside, assign_rpn

Golden = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize(("case", "rtol"), [("enc_dec_float32", 1e-5), ("enc_dec_float64", 1e-9)])
def test_deltas_equal_the_original(golden: Golden, case: str, rtol: float) -> None:
    """One of its deltas makes a side more than 62.5 times as long, where ours is limited."""
    recorded = golden("frcnn/box_ops")[case]
    source, target, deltas = (recorded["in"][name] for name in ("src", "dst", "loc"))
    ours = boxes_to_deltas(yxyx(source), yxyx(target), ONES)
    torch.testing.assert_close(yxhw(ours), recorded["out"]["bbox2loc"], rtol=rtol, atol=rtol)
    ours, expected = yxyx(deltas_to_boxes(yxyx(source), yxhw(deltas), ONES)), recorded["out"]["loc2bbox"]
    tame = deltas[:, 2:] < LARGEST_LOG_RATIO
    columns = tame.repeat(1, 2)
    assert (~tame).sum() <= 2
    torch.testing.assert_close(ours[columns], expected[columns], rtol=rtol, atol=100 * rtol)
    sides, most = (ours[:, 2:] - ours[:, :2])[~tame], (source[:, 2:] - source[:, :2])[~tame] * 62.5
    torch.testing.assert_close(sides, most, rtol=1e-4, atol=0)


def test_no_boxes_are_decoded_to_no_boxes(golden: Golden) -> None:
    """The skipped case has sources without area, whose sides the original takes as 1e-7: our sources have an area.

    Proposals that clipping left without area are dropped, and padded ones are given one.
    """
    recorded = golden("frcnn/box_ops")
    assert set(recorded) == {"enc_dec_float32", "enc_dec_float64", "degenerate_src", "loc2bbox_empty"}
    given = recorded["loc2bbox_empty"]
    ours = deltas_to_boxes(given["in"]["src"], given["in"]["loc"], ONES)
    assert ours.shape == given["out"]["loc2bbox"].shape


CASES = ["one_box", "tiny_box_forced_match", "many_positives_subsampled"]


def test_every_recorded_case_of_anchors_with_boxes_is_compared(golden: Golden) -> None:
    """Without boxes the original fails; there our anchors are all background."""
    recorded = golden("frcnn/anchor_target")
    assert set(recorded) == {*CASES, "no_gt"}
    anchors, size = yxyx(recorded["one_box"]["in"]["anchor"]), torch.tensor([[160, 240]])
    labels, _ = assign_rpn(anchors, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), size, inside_only=True)
    assert torch.equal(labels[0] == BACKGROUND, anchors_inside(anchors, size)[0])


def anchor_targets(recorded: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """Anchors, truth with its image size, and thresholds."""
    anchors, boxes = yxyx(recorded["in"]["anchor"]), yxyx(recorded["in"]["bbox"])
    args = recorded["args"]
    thresholds = {"background_iou": args["neg_iou_thresh"], "foreground_iou": args["pos_iou_thresh"]}
    labels = torch.zeros(1, len(boxes), dtype=torch.int64)
    return anchors, (boxes[None], labels, torch.tensor([args["img_size_hw"]])), thresholds | {"inside_only": True}


@pytest.mark.parametrize("case", CASES)
def test_anchors_are_labelled_as_in_the_original(golden: Golden, case: str) -> None:
    """Every box of these cases overlaps an anchor inside the image. A box that overlaps none would make all anchors
    without overlap positive in the original, and forces none here.

    The original has deltas of every anchor inside, to its best box; ours are 0 where no box is assigned.
    """
    recorded = golden("frcnn/anchor_target")[case]
    anchors, (boxes, labels, size), settings = anchor_targets(recorded)
    inside = anchors_inside(anchors, size)[0]
    assert torch.equal(inside.nonzero()[:, 0], recorded["out"]["inside_index"])
    assert (box_iou(anchors[inside], boxes[0]).amax(dim=0) > 0).all()

    assigned, target = assign_rpn(anchors, boxes, labels, size, **settings)
    expected = recorded["out"]["label_before_subsample"].long()
    assert torch.equal(assigned[0] + 1, expected.where(expected >= 0, IGNORED + 1))
    deltas, positive = boxes_to_deltas(anchors, target, ONES)[0], assigned[0] >= 0
    torch.testing.assert_close(yxhw(deltas[positive]), recorded["out"]["loc"][positive], rtol=1e-5, atol=1e-5)
    assert deltas[~positive].abs().max() == 0


@pytest.mark.parametrize("case", CASES)
def test_as_many_anchors_are_sampled_as_in_the_original_and_from_the_same_ones(golden: Golden, case: str) -> None:
    """Which of them are sampled depends on random numbers, which differ between the two."""
    recorded = golden("frcnn/anchor_target")[case]
    anchors, (boxes, labels, size), settings = anchor_targets(recorded)
    before, sampled = recorded["out"]["label_before_subsample"], recorded["out"]["label_sampled"]
    outputs = rpn_outputs_on(anchors, torch.zeros(1, len(anchors)))
    samples = AnchorSampler(**settings)(outputs, boxes, labels, size, [recorded["args"]["np_random_seed"]])
    rows, drawn = samples.rows[0], samples.labels[0] + 1
    assert len(rows) == len(rows.unique()) == (sampled >= 0).sum() == recorded["args"]["n_sample"]
    assert (drawn > 0).sum() == (sampled > 0).sum()
    assert torch.equal(drawn, before[rows].long())
    assert torch.equal(sampled[sampled >= 0], before[sampled >= 0])


@pytest.mark.parametrize("case", ["train", "scale2_min32", "limits_test", "all_too_small"])
def test_proposals_equal_the_original(golden: Golden, case: str) -> None:
    """It removes small boxes before it takes the best candidates, ours afterwards: here they are removed by hand.

    Its `min_size` is in pixels of the original image. No side of these cases grows 62.5-fold, the limit of ours.
    """
    recorded = golden("frcnn/proposal")
    assert len(recorded) == 4
    given, args, expected = recorded[case]["in"], recorded[case]["args"], recorded[case]["out"]["roi"]
    candidates, most = (args[f"n_{'train' if args['training'] else 'test'}_{part}_nms"] for part in ("pre", "post"))
    anchors, deltas, size = yxyx(given["anchor"]), yxhw(given["loc"]), torch.tensor([args["img_size_hw"]])
    assert deltas[:, 2:].max() < 4
    min_size = args["min_size"] * args["scale"]
    decoder = RPNDecoder(candidates_per_level=len(anchors), max_proposals=len(anchors), min_size=min_size)
    all_of_them = decoder(rpn_outputs_on(anchors, given["score"][None], deltas[None]), size)
    n = min(most, int((all_of_them.labels >= 0).sum()))
    assert n == len(expected)
    torch.testing.assert_close(yxyx(all_of_them.boxes[0, :n]), expected, rtol=1e-5, atol=1e-3)

    boxes = deltas_to_boxes(anchors, deltas, ONES).clamp(min=0).minimum(size.flip(1).repeat(1, 2))
    large = (boxes[:, 2:] - boxes[:, :2] >= min_size).all(dim=1)
    if large.any():
        outputs = rpn_outputs_on(anchors[large], given["score"][None, large], deltas[None, large])
        limited = RPNDecoder(candidates_per_level=candidates, max_proposals=most, min_size=min_size)(outputs, size)
        assert (limited.labels >= 0).sum() == n
        torch.testing.assert_close(yxyx(limited.boxes[0, :n]), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("case", ["normal", "many_pos_n32"])
def test_regions_are_labelled_and_sampled_as_in_the_original(golden: Golden, case: str) -> None:
    """The skipped case asks for a minimum IoU of 0.1 for background, which ours does not have.

    The original rounds the number of positives, ours truncates it; in these cases it is an integer.
    """
    recorded = golden("frcnn/proposal_target")
    assert set(recorded) == {"normal", "many_pos_n32", "neg_lo_01"}
    given, args, out = recorded[case]["in"], recorded[case]["args"], recorded[case]["out"]
    boxes, labels = yxyx(given["bbox"])[None], given["label"].long()[None]
    proposals = proposals_of(yxyx(given["roi"]))

    rows = torch.cat((proposals.boxes, boxes), dim=1)[0]
    everything = RegionSampler(foreground_iou=args["pos_iou_thresh"], num_samples=len(rows), positive_fraction=1.0)
    samples = everything(proposals, boxes, labels, [0])
    row = (samples.regions[0][:, None] == rows).all(dim=2).float().argmax(dim=1)  # the first of equal regions
    assert torch.equal(samples.regions[0], rows[row])
    assert len(samples.regions[0]) == len(out["all_max_iou"])
    positive, assignment = out["is_pos_candidate"][row], out["all_gt_assignment"][row]
    assert torch.equal(out["is_neg_candidate"], ~out["is_pos_candidate"])
    assert torch.equal(samples.labels[0], torch.where(positive, labels[0, assignment], BACKGROUND))
    assert torch.equal(samples.boxes[0], torch.where(positive[:, None], boxes[0, assignment], samples.regions[0]))

    num_samples, expected = args["n_sample"], out["gt_roi_label"].long() - 1
    share = num_samples * args["pos_ratio"]
    assert share == int(share)
    sampler = RegionSampler(num_samples=num_samples, positive_fraction=args["pos_ratio"])
    drawn = sampler(proposals, boxes, labels, [args["np_random_seed"]]).labels[0]
    assert (drawn >= 0).sum() == (expected >= 0).sum() == share
    assert (drawn == BACKGROUND).sum() == (expected == BACKGROUND).sum()
    assert (drawn == IGNORED).sum() == min(num_samples, len(rows)) - len(expected)


def test_deltas_of_regions_equal_the_original(golden: Golden) -> None:
    """Compares positives only; its background has deltas too, which its loss ignores."""
    recorded = golden("frcnn/proposal_target")["normal"]
    regions, expected = yxyx(recorded["out"]["sample_roi"]), recorded["out"]["gt_roi_loc"]
    boxes, labels = yxyx(recorded["in"]["bbox"])[None], recorded["in"]["label"].long()[None]
    samples = RegionSampler(num_samples=200, positive_fraction=1.0)(proposals_of(regions), boxes, labels, [0])
    deltas = boxes_to_deltas(samples.regions, samples.boxes, RCNN)[0]
    found = (samples.regions[0][:, None] == regions).all(dim=2) & (samples.labels[0] >= 0)[:, None]
    ours, theirs = found.nonzero(as_tuple=True)
    assert len(theirs.unique()) == (recorded["out"]["gt_roi_label"] > 0).sum()
    torch.testing.assert_close(yxhw(deltas[ours]), expected[theirs], rtol=1e-5, atol=1e-5)


def test_pooled_regions_equal_the_original(golden: Golden) -> None:
    recorded = golden("frcnn/roi_pool")["a"]
    regions = yxyx(recorded["in"]["roi_yxyx"])
    images = torch.zeros(len(regions), dtype=torch.int64)
    ours = max_pool_regions(recorded["in"]["features"], 16, images, regions, recorded["args"]["roi_size"])
    assert torch.equal(ours, recorded["out"]["pooled"])
