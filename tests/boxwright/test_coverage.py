"""How boxes are covered by the anchors and locations of each detector, with numbers that are easy to check."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composing import built, composed
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from split_of_noise import COCO, write_split

from boxwright.config.files import CONF
from boxwright.config.resolvers import register_resolvers
from boxwright.inspect_data import coverage
from boxwright.inspect_data.coverage import NetworkBoxes, Targets, cover, locations_inside
from detectors.fcos import FCOSLoss, grid_points


def boxes_on(canvas: tuple[int, int], boxes: list[list[float]]) -> NetworkBoxes:
    return NetworkBoxes(
        torch.tensor(boxes, dtype=torch.float32), torch.tensor([canvas] * len(boxes)), np.zeros(len(boxes), np.int64),
        np.zeros(len(boxes), np.int64),
    )  # fmt: skip


def test_locations_inside_a_box_are_points_of_the_finest_grid() -> None:
    """Points are at 4, 12, 20, 28: a point on a side is outside, and beyond the canvas there are none."""
    boxes = [[0, 0, 8, 8], [5, 5, 11, 11], [4, 4, 20, 20], [3, 3, 21, 13], [0, 0, 32, 32], [20, 20, 90, 90.0]]
    assert locations_inside(boxes_on((32, 32), boxes)).tolist() == [1, 0, 1, 6, 16, 1]
    random = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) * 100
    random[:, 2:] += random[:, :2]
    points, _ = grid_points([torch.empty(12, 16)], (8,))
    inside = ((points > random[:, None, :2]) & (points < random[:, None, 2:])).all(dim=2).sum(dim=1)
    assert locations_inside(boxes_on((96, 128), random.tolist())).tolist() == inside.tolist()


EVERYWHERE_AND_CENTRE = Targets({}, {"the whole box": None, "centre sampling 1.5": 1.5})


def test_a_box_without_assigned_points_is_counted() -> None:
    """The first box holds no point; the second's only point is assigned to the smaller third box."""
    boxes = boxes_on((64, 64), [[5, 5, 11, 11], [8, 8, 17, 17], [9, 9, 16, 16], [20, 20, 60, 60]])
    assert coverage._unassigned(boxes, np.arange(4), EVERYWHERE_AND_CENTRE).tolist() == [[True, True, False, False]] * 2


def test_centre_sampling_can_leave_a_box_without_a_location() -> None:
    """Both boxes have their centre at (32, 32); the small one is assigned the four points within 12 pixels of it."""
    boxes = boxes_on((64, 64), [[0, 0, 64, 64], [24, 24, 40, 40]])
    assert coverage._unassigned(boxes, np.arange(2), EVERYWHERE_AND_CENTRE).tolist() == [[False, False], [True, False]]


def test_boxes_are_matched_with_the_size_ranges_of_the_chosen_model() -> None:
    module = SimpleNamespace(loss=FCOSLoss(size_ranges=((-1.0, 4.0), (4.0, 5.0), (5.0, 6.0), (6.0, 7.0), (7.0, 8.0))))
    boxes = boxes_on((64, 64), [[24, 24, 40, 40], [0, 0, 64, 64]])
    assert coverage._unassigned(boxes, np.arange(2), coverage.Targets.of()).any(dim=1).tolist() == [False, True]
    assert coverage._unassigned(boxes, np.arange(2), coverage.Targets.of(module)).all()


def test_everything_but_the_assignment_is_exact_over_all_boxes(tmp_path: Path) -> None:
    """Images are doubled: 60 x 40 becomes 120 x 80 on a canvas of 128 x 96."""
    write_split(tmp_path, "train", [[[1, 2, 20, 20], [3, 3, 2, 2]], [], [[8, 8, 16, 16]], [[0, 0, 60, 40]]])
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("inspect_data", [*COCO, f"data.root={tmp_path}", "data.resize=80", "data.val_split=train"])
    module = instantiate(OmegaConf.to_container(cfg.data, resolve=True))
    survey = module.survey("train")
    whole = cover(survey, module.resize_rule, "train", None, 0, lambda items, total: items, Targets.of())
    assert whole.extents.tolist() == [[40, 40], [4, 4], [32, 32], [120, 80]]
    assert whole.locations.tolist()[1:3] == [0, 16]
    assert (whole.images, whole.sampled_images, whole.sample.tolist()) == (3, 3, [0, 1, 2, 3])
    # The box of 32 is centred between cells, inside the anchor of 32 x 2^(1/3) whose centre is four pixels away.
    assert whole.best_iou["RetinaNet"][2] == pytest.approx(2 ** (-2 / 3))
    part = cover(survey, module.resize_rule, "train", 1, 0, lambda items, total: items, Targets.of())
    assert (part.images, part.sampled_images) == (3, 1)
    assert len(part.sample) == len(part.unassigned["anywhere inside"]) < 4
    assert part.recall() == whole.recall()
    assert [a.name for a in part.alternatives] == [
        "anchors half as large", "anchors twice as large", "ratios 1/3, 1/2, 1, 2, 3", "data.resize=40",
        "data.resize=120", "data.resize=160",
    ]  # fmt: skip
    rule = replace(module.resize_rule, resize=160)
    doubled = cover(survey, rule, "train", None, 0, lambda items, total: items, Targets.of())
    assert whole.alternatives[-1].recall == doubled.recall()
    assert whole.alternatives[-1].without_location == float((doubled.locations == 0).mean())


def test_the_matching_of_the_chosen_model_is_listed_first_by_name() -> None:
    def targets(*overrides: str) -> Targets:
        return Targets.of(built(composed("data=shapes", "model/backbone=mobilenet_v2", *overrides), device="meta"))

    published = list(coverage.ANCHORS)
    fcos = targets("model=fcos", "model.loss.center_sampling=1.5")
    assert list(fcos.anchors) == published
    assert fcos.assignments == {"this model: centre sampling 1.5": 1.5, "anywhere inside": None}
    assert next(iter(targets("model=fcos").assignments)) == "this model: anywhere inside"
    assert next(iter(targets("model=fcos", "model.loss.center_sampling=2.0").assignments.values())) == 2
    retinanet = targets("model=retinanet")
    assert list(retinanet.anchors) == [f"this model: {published[0]}", *published[1:]]
    assert retinanet.assignments == coverage.ASSIGNMENTS
    own = targets("model=retinanet", "model.anchor_ratios=[0.5,1.0,2.5]").anchors
    assert list(own) == ["this model", *published]
    assert own["this model"].ratios == (0.5, 1.0, 2.5)
    for faster_rcnn in (["model=faster_rcnn"], ["model=rpn", "data.num_classes=1"]):
        assert list(targets(*faster_rcnn).anchors) == [f"this model: {published[1]}", published[0], published[2]]
    one_map = ["model.pyramid_channels=null", "model.anchor_sizes=[128.0]", "model.anchor_scales=[1.0,2.0,4.0]"]
    assert next(iter(targets("model=faster_rcnn", *one_map).anchors)) == f"this model: {published[2]}"
