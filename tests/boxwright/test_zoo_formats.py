"""Files made in the formats of detectron2, fcos_core and Caffe2: every tensor goes where it belongs.

The published files themselves were not there when this was written; names and shapes are those of their sources.
`test_zoo_arithmetic` has what their tensors compute.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import published_formats as formats
import pytest
import torch
from omegaconf import OmegaConf
from published_formats import CAFFE_MEAN, Shapes
from tiers import slow_but

from boxwright.build import with_trunk
from boxwright.checkpoints.building import expected_state
from boxwright.checkpoints.reading import CheckpointError, read_checkpoint
from boxwright.config import from_checkpoint
from boxwright.config.errors import ConfigError
from boxwright.zoo.catalogue import CATALOGUE, TRUNKS
from boxwright.zoo.contents import NAMES, config_of, with_counters
from detectors.backbones import ResNet
from detectors.weights import fcos_core

X101 = (101, 32, 8)
FILES: dict[str, tuple[Shapes, str]] = {
    "detectron2/retinanet_R_50_FPN_3x": (formats.detectron2("retinanet"), "detectron2"),
    "detectron2/retinanet_R_101_FPN_3x": (formats.detectron2("retinanet", 101), "detectron2"),
    "detectron2/faster_rcnn_R_50_FPN_3x": (formats.detectron2("fpn"), "detectron2"),
    "detectron2/faster_rcnn_R_101_FPN_3x": (formats.detectron2("fpn", 101), "detectron2"),
    "detectron2/faster_rcnn_X_101_32x8d_FPN_3x": (formats.detectron2("fpn", *X101), "detectron2"),
    "detectron2/faster_rcnn_R_50_C4_3x": (formats.detectron2("c4"), "detectron2"),
    "detectron2/faster_rcnn_R_101_C4_3x": (formats.detectron2("c4", 101), "detectron2"),
    "detectron2/faster_rcnn_R_50_DC5_3x": (formats.detectron2("dc5"), "detectron2"),
    "detectron2/Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x": (formats.detectron2("fpn"), "detectron2"),
    "detectron2/PascalVOC-Detection/faster_rcnn_R_50_C4": (formats.detectron2("c4", classes=20), "detectron2"),
    "detectron2/rpn_R_50_FPN_1x": (formats.detectron2_proposals("fpn"), "detectron2"),
    "detectron2/rpn_R_50_C4_1x": (formats.detectron2_proposals("c4"), "detectron2"),
    "fcos/FCOS_R_50_FPN_1x": (formats.fcos_core(), "torch"),
    "fcos/FCOS_imprv_R_101_FPN_2x": (formats.fcos_core(101), "torch"),
    "fcos/FCOS_imprv_X_101_32x8d_FPN_2x": (formats.fcos_core(*X101), "torch"),
    "fcos/FCOS_imprv_X_101_64x4d_FPN_2x": (formats.fcos_core(101, 64, 4), "torch"),
    "fcos/FCOS_imprv_dcnv2_R_50_FPN_1x": (formats.fcos_core(moved=(3, 4, 5)), "torch"),
    "fcos/FCOS_imprv_dcnv2_X_101_32x8d_FPN_2x": (formats.fcos_core(*X101, moved=(4, 5)), "torch"),
    "fcos/FCOS_imprv_dcnv2_X_101_64x4d_FPN_2x": (formats.fcos_core(101, 64, 4, moved=(3, 4, 5)), "torch"),
    "fcos/FCOS_syncbn_bs32_MNV2_FPN_1x": (formats.fcos_mobilenet(), "torch"),
    "fcos/FCOS_syncbn_bs32_c128_MNV2_FPN_1x": (formats.fcos_mobilenet(128), "torch"),
    "caffe2/e2e_faster_rcnn_R-50-FPN_1x": (formats.caffe2("fpn"), "caffe2"),
    "caffe2/e2e_faster_rcnn_R-101-FPN_1x": (formats.caffe2("fpn", 101), "caffe2"),
    "caffe2/e2e_faster_rcnn_X-101-32x8d-FPN_1x": (formats.caffe2("fpn", *X101), "caffe2"),
    "caffe2/e2e_faster_rcnn_R-50-C4_1x": (formats.caffe2("c4"), "caffe2"),
}
FAST = ("fcos/FCOS_syncbn_bs32_c128_MNV2_FPN_1x", "caffe2/e2e_faster_rcnn_R-50-C4_1x")
MADE_UP = r"backbone\.pixel_(mean|std)|.*\.num_batches_tracked"


@pytest.mark.parametrize("name", slow_but(*FAST, of=FILES.keys()))
def test_every_tensor_of_a_file_is_taken_or_left_out_for_a_reason(name: str, tmp_path: Path) -> None:
    """Each has a number of its own, by which its place here is known."""
    shapes, form = FILES[name]
    arrays = formats.numbered(shapes)
    file = formats.write(tmp_path / f"file.{'pth' if form == 'torch' else 'pkl'}", arrays, form)
    contents = read_checkpoint(f"{name}={file}")
    stored = contents["boxwright"]
    assert stored["config"]["name"] == name
    assert len(stored["class_names"]) == len(stored["category_ids"]) == stored["config"]["data"]["num_classes"]
    assert stored["metrics"].keys() == {f"published/{metric}" for metric in CATALOGUE[name].figures}
    mapped = NAMES[CATALOGUE[name].names]({key: torch.from_numpy(array) for key, array in arrays.items()})
    values = {float(value) for key, tensor in mapped.state.items() if not re.fullmatch(MADE_UP, key)
              for value in tensor.flatten().unique()[:3]}  # fmt: skip
    statistics = {0.0, 1.0}
    taken = {float(array.flat[0]) for key, array in arrays.items() if key not in mapped.left_out}
    assert taken - statistics <= values <= taken | statistics
    assert all(mapped.left_out.values())
    expected = r".*(_momentum|cell_anchors\.\d|pixel_(mean|std)|^lr)$|(conv1|res\d_\d+_branch.*[12abc])_b"
    assert all(re.fullmatch(expected, key) for key in mapped.left_out)
    kept = {key.removeprefix("network."): value for key, value in contents["state_dict"].items()}
    assert all(torch.equal(kept[key], value) for key, value in mapped.state.items())


PLACES: dict[str, dict[str, str]] = {
    "detectron2/retinanet_R_50_FPN_3x": {
        "backbone.bn1.running_var": "backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.layer1.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.weight",
        "backbone.layer4.2.bn3.bias": "backbone.bottom_up.res5.2.conv3.norm.bias",
        "backbone.layer3.0.downsample.0.weight": "backbone.bottom_up.res4.0.shortcut.weight",
        "backbone.layer3.0.downsample.1.running_mean": "backbone.bottom_up.res4.0.shortcut.norm.running_mean",
        "pyramid.lateral.0.weight": "backbone.fpn_lateral3.weight",
        "pyramid.output.2.bias": "backbone.fpn_output5.bias",
        "pyramid.p7.weight": "backbone.top_block.p7.weight",
        "head.class_tower.4.weight": "head.cls_subnet.4.weight",
        "head.box_tower.6.bias": "head.bbox_subnet.6.bias",
        "head.logits.bias": "head.cls_score.bias",
        "head.deltas.bias": "head.bbox_pred.bias",
    },
    "detectron2/faster_rcnn_R_50_C4_3x": {
        "backbone.layer3.5.conv2.weight": "backbone.res4.5.conv2.weight",
        "backbone.layer4.0.conv2.weight": "roi_heads.res5.0.conv2.weight",
        "rpn.conv.weight": "proposal_generator.rpn_head.conv.weight",
        "rpn.logits.weight": "proposal_generator.rpn_head.objectness_logits.weight",
        "rpn.deltas.bias": "proposal_generator.rpn_head.anchor_deltas.bias",
        "logits.bias": "roi_heads.box_predictor.cls_score.bias",
    },
    "detectron2/faster_rcnn_R_50_FPN_3x": {
        "pyramid.lateral.0.weight": "backbone.fpn_lateral2.weight",
        "head.1.weight": "roi_heads.box_head.fc1.weight",
        "head.3.bias": "roi_heads.box_head.fc2.bias",
    },
    "detectron2/rpn_R_50_FPN_1x": {
        "backbone.layer4.2.conv3.weight": "backbone.bottom_up.res5.2.conv3.weight",
        "pyramid.output.3.bias": "backbone.fpn_output5.bias",
        "rpn.conv.bias": "proposal_generator.rpn_head.conv.bias",
        "rpn.deltas.weight": "proposal_generator.rpn_head.anchor_deltas.weight",
    },
    "detectron2/rpn_R_50_C4_1x": {
        "backbone.layer3.5.conv2.weight": "backbone.res4.5.conv2.weight",
        "rpn.logits.bias": "proposal_generator.rpn_head.objectness_logits.bias",
    },
    "fcos/FCOS_imprv_dcnv2_R_50_FPN_1x": {
        "backbone.layer2.1.conv2.offset.bias": "backbone.body.layer2.1.conv2.offset.bias",
        "backbone.layer2.1.conv2.conv.weight": "backbone.body.layer2.1.conv2.conv.weight",
        "backbone.bn1.bias": "backbone.body.stem.bn1.bias",
        "pyramid.lateral.0.bias": "backbone.fpn.fpn_inner2.bias",
        "pyramid.output.2.weight": "backbone.fpn.fpn_layer4.weight",
        "pyramid.p6.weight": "backbone.fpn.top_blocks.p6.weight",
        "head.class_tower.9.conv.weight": "rpn.head.cls_tower.9.conv.weight",
        "head.box_tower.10.weight": "rpn.head.bbox_tower.10.weight",
        "head.distances.bias": "rpn.head.bbox_pred.bias",
        "head.centerness.bias": "rpn.head.centerness.bias",
        "head.scales.3": "rpn.head.scales.3.scale",
    },
    "fcos/FCOS_syncbn_bs32_c128_MNV2_FPN_1x": {
        "backbone.features.1.conv.0.0.weight": "backbone.body.features.1.conv.0.weight",
        "backbone.features.1.conv.2.bias": "backbone.body.features.1.conv.4.bias",
        "backbone.features.17.conv.1.0.weight": "backbone.body.features.17.conv.3.weight",
        "backbone.features.17.conv.3.running_var": "backbone.body.features.17.conv.7.running_var",
        "backbone.features.0.1.weight": "backbone.body.features.0.1.weight",
    },
    "caffe2/e2e_faster_rcnn_R-50-FPN_1x": {
        "backbone.bn1.weight": "res_conv1_bn_s",
        "backbone.layer1.0.downsample.0.weight": "res2_0_branch1_w",
        "backbone.layer1.0.downsample.1.bias": "res2_0_branch1_bn_b",
        "backbone.layer4.2.conv3.weight": "res5_2_branch2c_w",
        "backbone.layer4.2.bn2.weight": "res5_2_branch2b_bn_s",
        "pyramid.lateral.3.weight": "fpn_inner_res5_2_sum_w",
        "pyramid.lateral.2.bias": "fpn_inner_res4_5_sum_lateral_b",
        "pyramid.output.0.weight": "fpn_res2_2_sum_w",
        "rpn.conv.bias": "conv_rpn_fpn2_b",
        "rpn.deltas.weight": "rpn_bbox_pred_fpn2_w",
        "head.1.weight": "fc6_w",
        "head.3.weight": "fc7_w",
        "logits.weight": "cls_score_w",
        "deltas.bias": "bbox_pred_b",
    },
}


@pytest.mark.parametrize("name", PLACES)
def test_tensors_lie_where_their_names_say(name: str) -> None:
    arrays = {key: torch.from_numpy(array) for key, array in formats.numbered(FILES[name][0]).items()}
    mapped = NAMES[CATALOGUE[name].names](arrays)
    for ours, theirs in PLACES[name].items():
        assert set(mapped.state[ours].flatten().tolist()) == {float(arrays[theirs].flatten()[0])}, ours


def test_an_unknown_tensor_and_another_kind_of_file_are_refused_by_name(tmp_path: Path) -> None:
    arrays = formats.numbered(formats.detectron2("c4"))
    name = "detectron2/faster_rcnn_R_50_C4_1x"
    file = formats.write(tmp_path / "a.pkl", arrays | {"roi_heads.mask_head.x": np.zeros(1, np.float32)}, "detectron2")
    with pytest.raises(CheckpointError, match=r"1 of its \d+ tensors are none of this model: roi_heads\.mask_head\.x"):
        read_checkpoint(f"{name}={file}")
    bias = formats.numbered(formats.caffe2("c4")) | {"conv1_b": np.ones(64, np.float32)}
    file = formats.write(tmp_path / "b.pkl", bias, "caffe2")
    with pytest.raises(CheckpointError, match="conv1_b is not zero"):
        read_checkpoint(f"caffe2/e2e_faster_rcnn_R-50-C4_1x={file}")
    file = formats.write(tmp_path / "c.pkl", {"res_conv1_bn_gamma": np.ones(64, np.float32)}, "trunk")
    with pytest.raises(CheckpointError, match="detectron2's copy of a trunk"):
        read_checkpoint(f"caffe2/e2e_faster_rcnn_R-50-C4_1x={file}")


@pytest.mark.parametrize("name", slow_but("detectron2/retinanet_R_50_FPN_1x", of=CATALOGUE.keys()))
def test_every_entry_has_a_config_that_builds(name: str) -> None:
    entry = CATALOGUE[name]
    config = config_of(entry)
    assert config["model"]["num_classes"] == {"coco": 80, "voc": 20, "object": 1}[entry.classes]
    for metric, percent in entry.figures.items():
        assert config["expect"][metric] == pytest.approx(percent / 100, abs=1e-9)
    assert config["expect"]["data"] == entry.data
    assert config["expect"]["source"] == entry.source
    assert len(expected_state(config["model"])) > 100


def test_no_two_entries_share_an_address_or_a_file() -> None:
    for values in ([entry.url for entry in CATALOGUE.values()], [entry.file for entry in CATALOGUE.values()]):
        assert len(set(values)) == len(CATALOGUE)


def test_counters_follow_the_network() -> None:
    mapped = fcos_core.fcos({k: torch.from_numpy(a) for k, a in formats.numbered(formats.fcos_mobilenet(128)).items()})
    expected = {"network.backbone.features.0.1.num_batches_tracked": torch.tensor(0)}
    assert with_counters(mapped, expected)["backbone.features.0.1.num_batches_tracked"] == 0


# Trunks, for model.backbone.weights

TRUNK_FILES: dict[str, tuple[Shapes, dict[str, Any]]] = {
    "MSRA/R-50": (formats.caffe2_trunk() | {"fc1000_w": (1000, 2048), "fc1000_b": (1000,)}, {}),
    "MSRA/R-101": (formats.caffe2_trunk(101), {"depth": 101}),
    "R-50-GN": (formats.caffe2_trunk(norms="gn") | {"pred_w": (1000, 2048)}, {"norm": "gn", "norm_eps": 1e-5}),
    "R-101-GN": (formats.caffe2_trunk(101, norms="gn"), {"depth": 101, "norm": "gn", "norm_eps": 1e-5}),
    "FAIR/20171220/X-101-32x8d": (formats.caffe2_trunk(*X101), {"depth": 101, "groups": 32, "width_per_group": 8}),
    "X-152-32x8d-IN5k": (formats.caffe2_trunk(152, 32, 8), {"depth": 152, "groups": 32, "width_per_group": 8}),
    "X-101-64x4d": (formats.caffe2_trunk(101, 64, 4), {"depth": 101, "groups": 64, "width_per_group": 4}),
}


@pytest.mark.parametrize("name", slow_but("MSRA/R-50", "R-50-GN", of=TRUNK_FILES.keys()))
def test_a_trunk_of_blobs_fills_a_backbone_with_its_pixels(name: str, tmp_path: Path) -> None:
    shapes, settings = TRUNK_FILES[name]
    file = formats.write(tmp_path / "trunk.pkl", formats.numbered(shapes), "trunk")
    backbone = ResNet(**{"depth": 50, "weights": file, "norm_eps": 0.0, "stride_in_1x1": "R-" in name} | settings)
    torch.testing.assert_close(backbone.pixel_mean * 255, torch.tensor(CAFFE_MEAN).flip(0))
    torch.testing.assert_close(backbone.pixel_std * 255, torch.ones(3))
    arrays = formats.numbered(shapes)
    assert float(backbone.state_dict()["layer4.2.conv3.weight"].mean()) == arrays["res5_2_branch2c_w"].flat[0]
    kind = "gn" if "GN" in name else "bn"
    assert (
        float(backbone.state_dict()["layer1.0.downsample.1.bias"].mean()) == arrays[f"res2_0_branch1_{kind}_b"].flat[0]
    )


def test_a_named_trunk_brings_its_settings_and_refuses_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["model.backbone.weights=MSRA/R-50", "model.backbone.frozen_stages=1"]
    added = from_checkpoint.start(given)[len(given) :]
    assert set(added) == {
        "model/backbone=resnet50", "model.backbone.norm=frozen_bn", "model.backbone.norm_eps=0.0",
        "model.backbone.stride_in_1x1=true",
    }  # fmt: skip
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    file = tmp_path / "checkpoints" / TRUNKS["MSRA/R-50"].file
    file.parent.mkdir(parents=True)
    file.touch()
    backbone = {"weights": "MSRA/R-50", "norm": "frozen_bn", "norm_eps": 0.0, "stride_in_1x1": True}
    assert with_trunk(OmegaConf.create({"backbone": backbone}))["backbone"]["weights"] == str(file)
    backbone["norm_eps"] = 0
    assert with_trunk(OmegaConf.create({"backbone": backbone}))["backbone"]["weights"] == str(file)
    backbone["stride_in_1x1"] = False
    with pytest.raises(ConfigError, match=r"MSRA/R-50 needs model\.backbone\.stride_in_1x1=true"):
        with_trunk(OmegaConf.create({"backbone": backbone}))


def test_the_numbers_of_a_trunk_are_compared_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    name = "X-152-32x8d-IN5k"
    file = tmp_path / "checkpoints" / TRUNKS[name].file
    file.parent.mkdir(parents=True)
    file.touch()
    own = {"weights": name, "norm": "frozen_bn", "norm_eps": 0.0, "stride_in_1x1": False}
    backbone = own | {"groups": 32, "width_per_group": 8}
    assert with_trunk(OmegaConf.create({"backbone": backbone}))["backbone"]["weights"] == str(file)
    with pytest.raises(ConfigError, match=r"groups=1: model\.backbone\.weights=X-152-32x8d-IN5k needs .*groups=32"):
        with_trunk(OmegaConf.create({"backbone": backbone | {"groups": 1}}))
