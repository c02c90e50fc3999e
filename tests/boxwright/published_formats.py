"""Files in the formats of detectron2, fcos_core and Caffe2, of the names and shapes that theirs have."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

CAFFE_MEAN = (102.9801, 115.9465, 122.7717)
"""Of BGR from 0 to 255, with a deviation of 1."""
Shapes = dict[str, tuple[int, ...]]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def blocks(depth: int, groups: int, width: int) -> list[tuple[int, int, dict[str, tuple[int, ...]]]]:
    """Stage (2 to 5), number and shapes of the convolutions of each block: 1, 2, 3 and the shortcut."""
    found, before = [], 64
    for stage, number in zip((2, 3, 4, 5), BLOCKS[depth], strict=True):
        inner, out = groups * width * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in range(number):
            shapes = {"1": (inner, before, 1, 1), "2": (inner, inner // groups, 3, 3), "3": (out, inner, 1, 1)}
            found.append((stage, block, shapes | ({"s": (out, before, 1, 1)} if block == 0 else {})))
            before = out
    return found


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def detectron2(kind: str, depth: int = 50, groups: int = 1, width: int = 64, classes: int = 80) -> Shapes:
    """`kind`: retinanet, fpn, c4 or dc5."""
    over = "backbone.bottom_up." if kind in ("retinanet", "fpn") else "backbone."
    shapes: Shapes = {f"{over}stem.conv1.weight": (64, 3, 7, 7), **norm(f"{over}stem.conv1.norm", 64)}
    for stage, block, convolutions in blocks(depth, groups, width):
        place = f"{'roi_heads.' if kind == 'c4' and stage == 5 else over}res{stage}.{block}."
        for which, shape in convolutions.items():
            name = place + ("shortcut" if which == "s" else f"conv{which}")
            shapes |= {f"{name}.weight": shape, **norm(f"{name}.norm", shape[0])}
    if kind in ("retinanet", "fpn"):
        for stage in range(3 if kind == "retinanet" else 2, 6):
            shapes |= layer(f"backbone.fpn_lateral{stage}", 256, 64 * 2**stage, 1, 1)
            shapes |= layer(f"backbone.fpn_output{stage}", 256, 256, 3, 3)
    if kind == "retinanet":
        shapes |= layer("backbone.top_block.p6", 256, 2048, 3, 3) | layer("backbone.top_block.p7", 256, 256, 3, 3)
        for tower in ("cls", "bbox"):
            for place in (0, 2, 4, 6):
                shapes |= layer(f"head.{tower}_subnet.{place}", 256, 256, 3, 3)
        shapes |= layer("head.cls_score", 720, 256, 3, 3) | layer("head.bbox_pred", 36, 256, 3, 3)
        return shapes | {f"anchor_generator.cell_anchors.{level}": (9, 4) for level in range(5)}
    channels, anchors = {"fpn": (256, 3), "c4": (1024, 15), "dc5": (2048, 15)}[kind]
    shapes |= layer("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
    shapes |= layer("proposal_generator.rpn_head.objectness_logits", anchors, channels, 1, 1)
    shapes |= layer("proposal_generator.rpn_head.anchor_deltas", 4 * anchors, channels, 1, 1)
    shapes["proposal_generator.anchor_generator.cell_anchors.0"] = (anchors, 4)
    if kind != "c4":
        shapes |= layer("roi_heads.box_head.fc1", 1024, channels * 49) | layer("roi_heads.box_head.fc2", 1024, 1024)
    last = 2048 if kind == "c4" else 1024
    shapes |= layer("roi_heads.box_predictor.cls_score", classes + 1, last)
    return (
        shapes
        | layer("roi_heads.box_predictor.bbox_pred", 4 * classes, last)
        | {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    )


def detectron2_proposals(kind: str) -> Shapes:
    """A proposal network alone over fpn or c4, which is built without C5."""
    shapes = detectron2(kind)
    return {name: shape for name, shape in shapes.items() if not name.startswith("roi_heads.")}


def fcos_core(depth: int = 50, groups: int = 1, width: int = 64, moved: tuple[int, ...] = ()) -> Shapes:
    """`moved`: stages with deformable convolutions, with which the towers have them too."""
    body = "backbone.body."
    shapes: Shapes = {f"{body}stem.conv1.weight": (64, 3, 7, 7), **norm(f"{body}stem.bn1", 64)}
    for stage, block, convolutions in blocks(depth, groups, width):
        place = f"{body}layer{stage - 1}.{block}."
        for which, shape in convolutions.items():
            if which == "s":
                shapes |= {f"{place}downsample.0.weight": shape, **norm(f"{place}downsample.1", shape[0])}
                continue
            shapes |= norm(f"{place}bn{which}", shape[0])
            if which == "2" and stage in moved:
                shapes |= {f"{place}conv2.conv.weight": shape, **layer(f"{place}conv2.offset", 27, shape[0], 3, 3)}
            else:
                shapes[f"{place}conv{which}.weight"] = shape
    return shapes | _fcos_head(256, (512, 1024, 2048), bool(moved))


def fcos_mobilenet(channels: int = 256) -> Shapes:
    shapes: Shapes = {"backbone.body.features.0.0.weight": (32, 3, 3, 3), **norm("backbone.body.features.0.1", 32)}
    before, number = 32, 1
    for factor, out, repeats in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(repeats):
            hidden, place = before * factor, f"backbone.body.features.{number}.conv."
            layers = [(hidden, 1, 3, 3), (out, hidden, 1, 1)]
            layers = layers if factor == 1 else [(hidden, before, 1, 1), *layers]
            for index, shape in enumerate(layers):
                shapes |= {f"{place}{3 * index}.weight": shape, **norm(f"{place}{3 * index + 1}", shape[0])}
            before, number = out, number + 1
    return shapes | _fcos_head(channels, (32, 96, 320), False)


def _fcos_head(channels: int, maps: tuple[int, ...], moved: bool) -> Shapes:
    shapes: Shapes = {}
    for stage, of_map in zip((2, 3, 4), maps, strict=True):
        shapes |= layer(f"backbone.fpn.fpn_inner{stage}", channels, of_map, 1, 1)
        shapes |= layer(f"backbone.fpn.fpn_layer{stage}", channels, channels, 3, 3)
    for name in ("p6", "p7"):
        shapes |= layer(f"backbone.fpn.top_blocks.{name}", channels, channels, 3, 3)
    for tower in ("cls", "bbox"):
        for place in (0, 3, 6, 9):
            name = f"rpn.head.{tower}_tower.{place}"
            if moved and place == 9:
                shapes |= layer(f"{name}.offset", 27, channels, 3, 3) | layer(f"{name}.conv", channels, channels, 3, 3)
            else:
                shapes |= layer(name, channels, channels, 3, 3)
            shapes |= layer(f"rpn.head.{tower}_tower.{place + 1}", channels)
    for name, rows in (("cls_logits", 80), ("bbox_pred", 4), ("centerness", 1)):
        shapes |= layer(f"rpn.head.{name}", rows, channels, 3, 3)
    return shapes | {f"rpn.head.scales.{level}.scale": (1,) for level in range(5)}


def caffe2_trunk(depth: int = 50, groups: int = 1, width: int = 64, norms: str = "bn") -> Shapes:
    stem = "conv1_gn" if norms == "gn" else "res_conv1_bn"
    shapes: Shapes = {"conv1_w": (64, 3, 7, 7), "conv1_b": (64,), f"{stem}_s": (64,), f"{stem}_b": (64,)}
    for stage, block, convolutions in blocks(depth, groups, width):
        for which, shape in convolutions.items():
            name = f"res{stage}_{block}_branch{'1' if which == 's' else '2' + 'abc'[int(which) - 1]}"
            shapes |= {f"{name}_w": shape, f"{name}_b": shape[:1]}
            shapes |= {f"{name}_{norms}_s": shape[:1], f"{name}_{norms}_b": shape[:1]}
    return shapes


def caffe2(kind: str, depth: int = 50, groups: int = 1, width: int = 64) -> Shapes:
    """Blobs of a detector over fpn or c4, with a momentum for some."""
    shapes = caffe2_trunk(depth, groups, width)

    def blob(name: str, *shape: int) -> Shapes:
        return {f"{name}_w": shape, f"{name}_b": shape[:1]}

    if kind == "fpn":
        for stage, number in zip((2, 3, 4, 5), BLOCKS[depth], strict=True):
            place = f"res{stage}_{number - 1}_sum"
            side = "" if stage == 5 else "_lateral"
            shapes |= blob(f"fpn_inner_{place}{side}", 256, 64 * 2**stage, 1, 1) | blob(f"fpn_{place}", 256, 256, 3, 3)
        shapes |= blob("fc6", 1024, 256 * 49) | blob("fc7", 1024, 1024)
    channels, anchors, end, last = (256, 3, "_fpn2", 1024) if kind == "fpn" else (1024, 15, "", 2048)
    shapes |= blob(f"conv_rpn{end}", channels, channels, 3, 3) | blob(f"rpn_cls_logits{end}", anchors, channels, 1, 1)
    shapes |= blob(f"rpn_bbox_pred{end}", 4 * anchors, channels, 1, 1)
    shapes |= blob("cls_score", 81, last) | blob("bbox_pred", 324, last)
    return shapes | {"conv1_w_momentum": (64, 3, 7, 7), "cls_score_b_momentum": (81,), "lr": (1,)}


ZEROS = ("conv1_b",)


def numbered(shapes: Shapes) -> dict[str, np.ndarray]:
    """Each tensor has a number of its own, 1 and on; biases that Caffe2 adds are zeros."""
    added = {
        name for name in shapes if name.startswith(("conv1_b", "res")) and name.endswith("_b") and "n_b" not in name
    }
    return {
        name: np.full(shape, 0.0 if name in added else 1.0 + place, np.float32)
        for place, (name, shape) in enumerate(shapes.items())
    }


def write(path: Path, arrays: dict[str, np.ndarray], form: str) -> Path:
    """`form`: detectron2 (a pickle with `model`), caffe2 (with `blobs`), trunk (the blobs alone), torch."""
    if form == "torch":
        torch.save({"model": {f"module.{name}": torch.from_numpy(array) for name, array in arrays.items()}}, path)
        return path
    content: Any = {
        "detectron2": {"model": arrays, "__author__": "Detectron2 Model Zoo"},
        "caffe2": {"blobs": arrays, "cfg": "MODEL: {}"},
        "trunk": arrays,
    }[form]
    path.write_bytes(pickle.dumps(content, 2))
    return path
