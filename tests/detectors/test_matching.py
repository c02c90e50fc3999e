import pytest
import torch
from fcos_cases import random_truth
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detectors.anchors import RETINANET
from detectors.losses import BACKGROUND, IGNORED
from detectors.matching import gather_matched, match_anchors


def bars(*ends: tuple[float, float]) -> Tensor:
    """Boxes of height 1, each from one end to the other."""
    return torch.tensor([[start, 0.0, stop, 1.0] for start, stop in ends]).reshape(-1, 4)


def match(anchors: Tensor, boxes: Tensor, allow_low_quality: bool = False) -> list[int]:
    found = match_anchors(
        anchors, boxes[None], background_iou=0.4, foreground_iou=0.5, allow_low_quality=allow_low_quality
    )
    return found[0].tolist()


def test_an_iou_equal_to_a_threshold_counts_as_above_it() -> None:
    # IoU 1, 0.5 and 0.4 exactly, 0.3 and 0
    anchors = bars((0, 10), (0, 5), (0, 4), (0, 3), (20, 30))
    assert match(anchors, bars((0, 10))) == [0, 0, IGNORED, BACKGROUND, BACKGROUND]


def test_an_anchor_is_assigned_to_the_box_of_largest_iou_and_of_equal_ones_to_the_first() -> None:
    anchors = bars((0, 10), (0, 12))
    assert match(anchors, bars((0, 9), (0, 8), (0, 20))) == [0, 0]
    assert match(anchors, bars((0, 8), (0, 20), (0, 9))) == [2, 2]
    halves = bars((0, 5), (5, 10))
    assert match(bars((0, 10)), halves) == match(bars((0, 10)), halves.flip(0)) == [0]


def test_the_best_anchors_of_a_box_are_matched_however_low_their_iou() -> None:
    anchors = bars((0, 3), (7, 10), (0, 2))  # IoU 0.3, 0.3 and 0.2
    assert match(anchors, bars((0, 10))) == [BACKGROUND] * 3
    assert match(anchors, bars((0, 10)), allow_low_quality=True) == [0, 0, BACKGROUND]


def test_the_best_anchor_of_an_ignored_pair_is_matched_too() -> None:
    assert match(bars((0, 4.5), (0, 4.4)), bars((0, 10)), allow_low_quality=True) == [0, IGNORED]


def test_a_forced_anchor_is_assigned_to_the_box_that_it_overlaps_most() -> None:
    # (0, 10) is the best anchor of (0, 2), with IoU 0.2, and has IoU 1/3 with the other box.
    anchors, boxes = bars((0, 10), (5, 15)), bars((0, 2), (5, 15))
    assert match(anchors, boxes) == [BACKGROUND, 1]
    assert match(anchors, boxes, allow_low_quality=True) == [1, 1]


def test_a_box_that_no_anchor_overlaps_forces_none() -> None:
    """torchvision matches all anchors to such a box."""
    anchors, boxes = bars((0, 10), (5, 15)), bars((20, 30))
    assert match(anchors, boxes, allow_low_quality=True) == [BACKGROUND, BACKGROUND]
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    assert theirs.tolist() == [0, 0]


@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_rows_without_area_are_matched_by_nothing(allow_low_quality: bool) -> None:
    """Not even anchors around the origin, where padding lies, match them."""
    anchors = torch.tensor([[-5.0, -5.0, 5.0, 5.0], [0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 12.0, 12.0]])
    box, nothing = torch.tensor([[2.0, 2.0, 12.0, 12.0]]), torch.zeros(2, 4)
    assert match(anchors, nothing, allow_low_quality) == [BACKGROUND] * 3
    assert match(anchors, torch.cat((nothing, box, nothing)), allow_low_quality) == [BACKGROUND, BACKGROUND, 2]


@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_an_image_without_boxes_is_all_background(allow_low_quality: bool) -> None:
    assert match(bars((0, 10), (5, 15)), torch.zeros(0, 4), allow_low_quality) == [BACKGROUND] * 2


class LargestArray(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
        return out


@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_portions_of_500_boxes_give_the_result_of_all_at_once_in_less_memory(allow_low_quality: bool) -> None:
    anchors = RETINANET.grid((128, 128))
    boxes, _ = random_truth(2, 500, 9)
    boxes[:, 300:400] = boxes[:, 100:200]  # equal IoUs in different portions
    boxes[1, 50:60] = 0
    thresholds = {"background_iou": 0.4, "foreground_iou": 0.5, "allow_low_quality": allow_low_quality}
    whole = match_anchors(anchors, boxes, **thresholds, max_pairs=2**40)
    assert all((whole == value).any() for value in (BACKGROUND, IGNORED))
    assert (whole > 250).any()
    assert not ((whole >= 300) & (whole < 400)).any()
    pairs = whole.numel()
    for max_pairs in (1, 7 * pairs, 2**21):
        with LargestArray() as largest:
            part = match_anchors(anchors, boxes, **thresholds, max_pairs=max_pairs)
        assert torch.equal(part, whole)
        assert largest.numel <= max(max_pairs, pairs, anchors.numel())


def test_images_of_a_batch_are_independent() -> None:
    anchors = RETINANET.grid((128, 128))
    boxes, _ = random_truth(3, 9, 9)
    boxes[1, 4:] = 0
    thresholds = {"background_iou": 0.4, "foreground_iou": 0.5, "allow_low_quality": True}
    together = match_anchors(anchors, boxes, **thresholds)
    for i, count in enumerate((9, 4, 9)):
        alone = match_anchors(anchors, boxes[i : i + 1, :count], **thresholds)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("allow_low_quality", [False, True])
@pytest.mark.parametrize(("background", "foreground"), [(0.4, 0.5), (0.3, 0.7), (0.5, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_torchvision(background: float, foreground: float, allow_low_quality: bool, seed: int) -> None:
    """Ours is also given two boxes that no anchor overlaps, to which torchvision would match all anchors."""
    anchors = RETINANET.grid((96, 160))
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(40, 2, generator=generator) * torch.tensor([150.0, 90.0])
    boxes = torch.cat((corner, corner + (torch.rand(40, 2, generator=generator) * 6).exp2() * 2), dim=1)
    boxes[7] = boxes[3]
    far_off = torch.tensor([[5000.0, 5000.0, 5050.0, 5050.0]]).expand(2, 4)
    theirs = Matcher(foreground, background, allow_low_quality_matches=allow_low_quality)(box_iou(boxes, anchors))
    ours = match_anchors(
        anchors,
        torch.cat((boxes, far_off))[None],
        background_iou=background,
        foreground_iou=foreground,
        allow_low_quality=allow_low_quality,
    )
    assert (theirs >= 0).sum() > 5
    assert torch.equal(ours[0], theirs)


def test_gathering_gives_label_and_box_or_background_or_ignored() -> None:
    boxes = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    matched = torch.tensor([[1, IGNORED, 0, BACKGROUND, 1]])
    labels, target = gather_matched(matched, boxes, torch.tensor([[7, 0]]))
    assert labels.tolist() == [[0, IGNORED, 7, BACKGROUND, 0]]
    assert target[0, [0, 2, 4]].tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert target[0, [1, 3]].abs().sum() == 0
    labels, target = gather_matched(matched.clamp(max=-1), boxes[:, :0], torch.zeros(1, 0, dtype=torch.int64))
    assert labels.tolist() == [[BACKGROUND, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND]]
    assert target.abs().sum() == 0
