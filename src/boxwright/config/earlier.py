"""Translates configs of earlier versions into today's keys, by a table of moved ones. Imports nothing heavy.

Version 0.1.0 kept every setting of a model in one flat mapping; today its loss and decoder are nodes of their own.
"""

from collections.abc import Mapping
from typing import Any, cast

FCOS, RETINANET, RPN, FASTER_RCNN = (
    "lit_modules.fcos.FCOSModule",
    "lit_modules.retinanet.RetinaNetModule",
    "lit_modules.rpn.RPNModule",
    "lit_modules.faster_rcnn.FasterRCNNModule",
)

NODES = {
    FCOS: {"loss": "detectors.fcos.FCOSLoss", "decoder": "detectors.fcos.FCOSDecoder"},
    RETINANET: {"loss": "detectors.retinanet.RetinaNetLoss", "decoder": "detectors.retinanet.RetinaNetDecoder"},
    RPN: {
        "anchor_sampler": "detectors.rpn.AnchorSampler",
        "loss": "detectors.rpn.RPNLoss",
        "decoder": "detectors.rpn.RPNDecoder",
    },
    FASTER_RCNN: {
        "anchor_sampler": "detectors.rpn.AnchorSampler",
        "rpn_loss": "detectors.rpn.RPNLoss",
        "train_proposer": "detectors.rpn.RPNDecoder",
        "proposer": "detectors.rpn.RPNDecoder",
        "region_sampler": "detectors.faster_rcnn.RegionSampler",
        "region_loss": "detectors.faster_rcnn.RegionLoss",
        "decoder": "detectors.faster_rcnn.RegionDecoder",
    },
}
"""The `_target_` of each node that a model's `_target_` has today and did not have in 0.1.0."""

Moved = Mapping[str, tuple[str, ...]]


def _into(node: str, *names: str) -> dict[str, tuple[str, ...]]:
    return {f"model.{name}": (f"model.{node}.{name}",) for name in names}


def _renamed(**names: str) -> dict[str, tuple[str, ...]]:
    return {f"model.{old}": tuple(f"model.{key}" for key in new.split()) for old, new in names.items()}


MOVED: Mapping[str, Moved] = {
    FCOS: _into("loss", "center_sampling", "box_loss", "focal_alpha", "focal_gamma")
    | _into("decoder", "score_threshold", "nms_threshold", "candidates_per_level", "max_detections"),
    RETINANET: _into("loss", "background_iou", "foreground_iou", "box_loss", "smooth_l1_beta", "box_loss_weight")
    | _into("loss", "focal_alpha", "focal_gamma")
    | _into("decoder", "score_threshold", "nms_threshold", "candidates_per_level", "max_detections")
    | _renamed(
        low_quality="loss.allow_low_quality",
        box_weights="loss.box_weights decoder.box_weights",
        fast_decode="decoder.top_class_only",
    ),
    RPN: _into("anchor_sampler", "background_iou", "foreground_iou", "inside_only", "num_samples", "positive_fraction")
    | _into("loss", "smooth_l1_beta")
    | _into("decoder", "candidates_per_level", "nms_threshold", "min_size")
    | _renamed(max_detections="decoder.max_proposals"),
    FASTER_RCNN: _renamed(
        rpn_background_iou="anchor_sampler.background_iou",
        rpn_foreground_iou="anchor_sampler.foreground_iou",
        rpn_inside_only="anchor_sampler.inside_only",
        rpn_samples="anchor_sampler.num_samples",
        rpn_positive_fraction="anchor_sampler.positive_fraction",
        rpn_smooth_l1_beta="rpn_loss.smooth_l1_beta",
        train_candidates_per_level="train_proposer.candidates_per_level",
        train_proposals="train_proposer.max_proposals",
        candidates_per_level="proposer.candidates_per_level",
        proposals="proposer.max_proposals",
        proposal_nms_threshold="proposer.nms_threshold train_proposer.nms_threshold",
        proposal_min_size="proposer.min_size train_proposer.min_size",
        roi_foreground_iou="region_sampler.foreground_iou",
        roi_samples="region_sampler.num_samples",
        roi_positive_fraction="region_sampler.positive_fraction",
        roi_smooth_l1_beta="region_loss.smooth_l1_beta",
        box_weights="region_loss.box_weights decoder.box_weights",
    )
    | _into("decoder", "score_threshold", "nms_threshold", "max_detections"),
}
"""By the model's `_target_`, each moved key of 0.1.0 with its new keys, the one that others follow first."""

FIXED: Mapping[str, Mapping[str, Any]] = {
    FCOS: {
        "model.loss.size_ranges": [[-1.0, 64.0], [64.0, 128.0], [128.0, 256.0], [256.0, 512.0], [512.0, 1e8]],
        "model.decoder.threshold_product": False,
    },
    RPN: {"model.decoder.score_threshold": 0.0},
    FASTER_RCNN: {
        "model.proposer.score_threshold": 0.0,
        "model.train_proposer.score_threshold": 0.0,
        "model.decoder.min_size": 0.0,
    },
}
"""Settings of today that were constants in 0.1.0, with their values."""

ADDED: Mapping[str, Mapping[str, Any]] = {
    FCOS: {"deformable_towers": False, "grid_offset": 0.5, "spread_grid": False},
    RETINANET: {"spread_grid": False},
    RPN: {"pyramid_strides": [4, 8, 16, 32], "spread_grid": False},
    FASTER_RCNN: {
        "pyramid_strides": [4, 8, 16, 32],
        "pyramid_norm": None,
        "rpn_convs": 1,
        "spread_grid": False,
        "pooling_samples": 2,
        "spare_columns": 0,
        "head_convs": 0,
    },
}
"""Settings directly under `model` that 0.1.0 had not, with the values that describe its networks."""


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the config of a run into today's keys; one that has them already is returned as it is."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return dict(config)
    model = dict(cast(Mapping[str, Any], model))
    target = model.get("_target_")
    nodes = NODES.get(target, {}) if isinstance(target, str) else {}
    if not nodes or nodes.keys() & model.keys():
        return dict(config)
    made: dict[str, dict[str, Any]] = {name: {"_target_": node} for name, node in nodes.items()}
    for old, new in MOVED[str(target)].items():
        name = old.removeprefix("model.")
        if name in model:
            value = model.pop(name)
            for key in new:
                _, node, setting = key.split(".")
                made[node][setting] = value
    for key, value in FIXED.get(str(target), {}).items():
        _, node, setting = key.split(".")
        made[node][setting] = value
    return {**config, "model": {**ADDED.get(str(target), {}), **model, **made}}


def moved_to(model: object, key: str) -> str | None:
    """Finds the new key of a setting of 0.1.0, by the `_target_` of its model; None if the key is unchanged."""
    found = MOVED.get(model, {}).get(key) if isinstance(model, str) else None
    return found[0] if found else None


def renamed_line(model: object, line: str) -> str:
    """Rewrites an override in today's keys: `+model.box_loss=giou` as `+model.loss.box_loss=giou`."""
    key, equals, value = line.partition("=")
    bare = key.lstrip("+~")
    return f"{key[: len(key) - len(bare)]}{moved_to(model, bare) or bare}{equals}{value}"
