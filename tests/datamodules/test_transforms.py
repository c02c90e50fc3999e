from collections.abc import Callable
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from datamodules.sampler import GlobalBatches
from datamodules.transforms import (
    Augmentation,
    Resize,
    Sized,
    draw_resize,
    fit,
    mirror,
    resize_image,
    training_boxes,
)


def test_short_side_rule_equals_fcos_core(golden: Callable[[str], dict[str, Any]]) -> None:
    for name, case in golden("fcos/resize").items():
        resize = case["args"]["min_size"]
        rule = Resize("short_side", resize)
        if rule.cap != case["args"]["max_size"]:
            continue  # its ratio of long to short side is not 1333 to 800
        originals = case["in"]["image_wh"].flip(1).numpy()
        np.testing.assert_array_equal(rule.sizes(originals), case["out"]["new_hw"].numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("rule", "original", "size", "canvas"),
    [
        (Resize("short_side", 800), (480, 640), (800, 1066), (800, 1088)),
        (Resize("short_side", 800), (480, 1920), (333, 1332), (352, 1344)),
        (Resize("square", 1333), (480, 640), (1000, 1333), (1344, 1344)),
        (Resize("square", 640), (640, 480), (640, 480), (640, 640)),
        (Resize("short_side", 32), (1, 1000), (1, 53), (32, 64)),
        (Resize("square", 32), (1000, 1), (32, 1), (32, 32)),
    ],
)
def test_size_and_canvas_by_hand(
    rule: Resize, original: tuple[int, int], size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    found = rule.sizes(np.array([original]))
    assert found[0].tolist() == list(size)
    assert rule.canvases(found)[0].tolist() == list(canvas)


def test_the_five_sizes_of_the_two_rules_correspond() -> None:
    for short, long in ((400, 667), (500, 833), (600, 1000), (700, 1166), (800, 1333)):
        assert abs(Resize("short_side", short).cap - long) <= 1


def test_multi_scale_keeps_the_cap_of_the_full_size() -> None:
    rule = Resize("short_side", 800)
    assert rule.sizes(np.array([[400, 800]]), 640).tolist() == [[640, 1280]]  # a cap of 1066 would give 533


def test_multi_scale_size_follows_from_the_seed_and_stays_in_range() -> None:
    drawn = [draw_resize(seed, 100, (0.8, 1.0)) for seed in range(300)]
    assert drawn == [draw_resize(seed, 100, (0.8, 1.0)) for seed in range(300)]
    assert min(drawn) >= 80
    assert max(drawn) <= 100
    assert len(set(drawn)) > 15


def test_training_boxes_are_clipped_and_small_crowd_and_foreign_ones_skipped() -> None:
    boxes = np.array([[-5, 2, 8, 30], [1, 1, 1.5, 9], [3, 3, 3, 3], [0, 0, 5, 5], [0, 0, 5, 5], [9, 0, 10, 1.0]])
    labels = np.array([0, 0, 0, -1, 0, 1])
    excluded = np.array([False, False, False, False, True, False])
    clipped, keep = training_boxes(boxes, labels, excluded, np.array([20, 10]), min_box=1.0)
    assert keep.tolist() == [True, False, False, False, False, True]
    assert clipped[keep].tolist() == [[0, 2, 8, 20], [9, 0, 10, 1]]
    assert training_boxes(boxes, labels, excluded, np.array([20, 10]), min_box=0)[1].tolist() == [
        True, True, False, False, False, True,
    ]  # fmt: skip


def test_a_box_of_exactly_min_box_trains_wherever_it_lies() -> None:
    corners = np.random.default_rng(0).uniform(0, 600, (500, 2)).round(2)
    boxes = np.concatenate([corners, corners + 1.0], axis=1)  # for many x, (x + 1) - x is less than 1
    none = np.zeros(500, bool)
    _, keep = training_boxes(boxes, none.astype(int), none, np.array([640, 640]), min_box=1.0)
    assert keep.all()


@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_moves_boxes_with_their_pixels_and_undoes_itself(axis: int) -> None:
    image = np.zeros((10, 16, 3), np.uint8)
    image[2:5, 3:9] = 255
    box = np.array([[3.0, 2.0, 9.0, 5.0]])
    mirrored, moved = mirror(image, box, axis)
    x1, y1, x2, y2 = moved[0].astype(int)
    assert mirrored[y1:y2, x1:x2].min() == 255
    assert mirrored.sum() == mirrored[y1:y2, x1:x2].sum()
    again, back = mirror(mirrored, moved, axis)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back, box)


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200  # a quarter of the columns
    small = resize_image(stripes, (16, 16))
    assert small.min() == small.max() == 50


def test_an_image_larger_than_the_canvas_shrinks_in_proportion() -> None:
    assert fit((30, 60), (32, 64)) == (30, 60)
    assert fit((64, 64), (32, 64)) == (32, 32)
    assert fit((40, 200), (64, 100)) == (20, 100)


def test_augmentation_is_a_function_of_the_seed() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    boxes, labels = np.array([[0, 0, 50, 40], [10, 10, 20.5, 20.5]]), np.array([1, 0])
    transforms = {"crop": albumentations.RandomCrop(30, 30), "colour": albumentations.ColorJitter(p=1.0)}
    first = Augmentation(transforms)
    wanted = first(image, boxes, labels, 5)
    other = first(image, boxes, labels, 6)
    for found in (first(image, boxes, labels, 5), Augmentation(transforms)(image, boxes, labels, 5)):
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(wanted[0], other[0])


def test_boxes_at_every_border_pass_through_albumentations() -> None:
    random = np.random.default_rng(1)
    augmentation = Augmentation({"none": albumentations.HorizontalFlip(p=0.0)})
    for _ in range(50):
        height, width = random.integers(3, 1400, 2)
        corners = random.choice([0.0, 1.0, 0.3333333333, 0.7], (20, 4)) * [width, height, width, height]
        boxes = np.concatenate([corners.reshape(-1, 2, 2).min(1), corners.reshape(-1, 2, 2).max(1)], 1)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        labels = np.arange(len(boxes))
        image = np.zeros((height, width, 3), np.uint8)
        _, out, out_labels = augmentation(image, boxes, labels, 0)
        assert out_labels.tolist() == labels.tolist()
        np.testing.assert_allclose(out, boxes, atol=1e-3)


def test_an_image_without_boxes_passes_through_albumentations() -> None:
    augmentation = Augmentation({"flip": albumentations.HorizontalFlip(p=1.0)})
    _, boxes, labels = augmentation(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64), 0)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_a_pipeline_that_normalises_is_refused_by_name() -> None:
    augmentation = Augmentation({"norm": albumentations.Normalize()})
    with pytest.raises(ValueError, match=r"norm.*uint8"):
        augmentation(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64), 0)


@pytest.mark.parametrize(
    ("transform", "turns"),
    [
        (albumentations.RandomRotate90(), True),
        (albumentations.Transpose(), True),
        (albumentations.D4(), True),
        (albumentations.OneOf([albumentations.Blur(), albumentations.Sequential([albumentations.D4()])]), True),
        (albumentations.Affine(rotate=90, fit_output=True), True),
        (albumentations.HorizontalFlip(), False),
        (albumentations.Affine(rotate=90), False),
        (albumentations.SomeOf([albumentations.Blur(), albumentations.RandomCrop(3, 3)], n=1), False),
    ],
)
def test_augmentations_that_may_rotate_an_image_are_known_in_advance(transform: Any, turns: bool) -> None:
    assert Augmentation({"color": albumentations.ColorJitter(), "x": transform}).turns == turns
    image, nothing = np.zeros((20, 40, 3), np.uint8), (np.zeros((0, 4)), np.zeros(0, int))
    shapes = [Augmentation({"x": transform})(image, *nothing, seed)[0].shape for seed in range(40)]
    assert any(height > width for height, width, _ in shapes) == turns


@pytest.mark.parametrize("rule", [Resize("short_side", 80), Resize("square", 80)])
@pytest.mark.parametrize("multi_scale", [None, (0.5, 1.0)])
def test_a_rotated_image_keeps_the_scale_of_evaluation(rule: Resize, multi_scale: tuple[float, float] | None) -> None:
    sizes = np.array([[48, 64], [108, 192], [60, 400], [192, 108], [50, 50], [300, 40]])
    batches = GlobalBatches(np.arange(len(sizes)), sizes, rule, 2, 0, multi_scale, turns=True)
    keys = [key for batch in batches for key in batch]
    assert {key.row for key in keys} == set(range(len(sizes)))
    for key in keys:
        for size in (sizes[key.row], sizes[key.row][::-1]):
            wanted = rule.sizes(size[None], key.resize)[0].tolist()
            assert list(rule.apply(np.zeros((*size, 3), np.uint8), key.canvas, key.resize).size) == wanted


def test_without_rotations_a_canvas_is_not_larger_than_its_images() -> None:
    batches = GlobalBatches(np.arange(4), np.array([[48, 64]] * 4), Resize("short_side", 96), 2, 0)
    assert {key.canvas for batch in batches for key in batch} == {(96, 128)}


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, [0, 1, 2, 3]),  # as detectron2, DETR and torchvision have it
        ({"min_visibility": 0.1}, [0, 1, 3]),  # as YOLOv5
        ({"min_visibility": 0.6}, [0, 3]),
        ({"min_area": 90.0}, [0, 1]),
        ({"min_visibility": 0.6, "min_area": 90.0}, [0]),
    ],
)
def test_a_box_needs_min_visibility_after_a_crop(settings: dict[str, float], left: list[int]) -> None:
    boxes = np.array([[10, 10, 40, 40], [30, 10, 60, 40], [38.5, 0, 78.5, 40], [5, 5, 9, 9], [50, 50, 60, 60]])
    crop = Augmentation({"crop": albumentations.Crop(0, 0, 40, 40, p=1.0)}, **settings)
    _, found, labels = crop(np.zeros((100, 100, 3), np.uint8), boxes, np.arange(5), 0)
    assert labels.tolist() == left
    np.testing.assert_allclose(found, boxes[left].clip(0, 40), atol=1e-3)


SIZED = [(480, 640), (427, 640), (640, 427), (333, 500), (1080, 1920), (100, 1000), (37, 41), (800, 800), (600, 600)]


@pytest.mark.parametrize(("height", "width"), SIZED)
def test_rounding_down_gives_torchvisions_sizes(height: int, width: int) -> None:
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3)
    resized, _ = transform.resize(torch.zeros(3, height, width), None)
    rule = Resize("short_side", 800, rounding="down")
    assert rule.sizes(np.array([[height, width]])).tolist() == [list(resized.shape[1:])]


@pytest.mark.parametrize(("height", "width"), SIZED)
@pytest.mark.parametrize("longest", [1333, 1000])
def test_rounding_to_the_nearest_gives_detectron2s_sizes(height: int, width: int, longest: int) -> None:
    """As detectron2 writes it, step by step in floats."""
    scale = 800 / min(height, width)
    new = [800.0, scale * width] if height < width else [scale * height, 800.0]
    if max(new) > longest:
        new = [side * (longest / max(new)) for side in new]
    rule = Resize("short_side", 800, longest, rounding="nearest")
    assert rule.sizes(np.array([[height, width]])).tolist() == [[int(side + 0.5) for side in new]]


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "antialias"])
@pytest.mark.parametrize("size", [(60, 90), (20, 31)])
def test_interpolations_are_those_of_their_sources(interpolation: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    found = Resize("short_side", 40, interpolation=interpolation)
    sized = Sized.to(size, image, found.interpolation)
    out = np.empty((*size, 3), np.uint8)
    sized.write(out)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    grows = size > (40, 61)
    if interpolation == "area" and not grows:
        expected = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float32)
    else:
        expected = torch.nn.functional.interpolate(
            pixels, size, mode="bilinear", antialias=interpolation == "antialias" and not grows
        )[0].permute(1, 2, 0).numpy()  # fmt: skip
    assert np.abs(out - expected).max() <= 1.01
