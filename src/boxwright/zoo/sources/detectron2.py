"""detectron2's RetinaNet, Faster R-CNN and RPN (facebookresearch/detectron2, model_zoo.py and MODEL_ZOO.md)."""

from dataclasses import replace

from boxwright.zoo.entry import Entry, Settings

SITE = "https://dl.fbaipublicfiles.com/detectron2/"
RESNETS: dict[str, Settings] = {
    "R_50": ("model/backbone=resnet50", "model.backbone.stride_in_1x1=true"),
    "R_101": ("model/backbone=resnet101", "model.backbone.stride_in_1x1=true"),
    "X_101_32x8d": ("model/backbone=resnext101_32x8d", "model.backbone.stride_in_1x1=false"),
}
_NORM = ("model.backbone.norm=frozen_bn", "model.backbone.norm_eps=1.0e-5")
_GRID = ("model.grid_offset=0.0", "model.round_anchors=false", "model.spread_grid=false")
_RATIOS = "model.anchor_ratios=[0.5,1.0,2.0]"
_RESIZE = ("data.rounding=nearest", "data.interpolation=antialias")
_SIZES = "model.anchor_sizes=[32.0,64.0,128.0,256.0,512.0]"
_ONE_SIZE_EACH = "model.anchor_sizes=[[32,64,128,256,512]]"
_RETINANET: Settings = (
    *_NORM, *_GRID, _RATIOS, "model.pyramid_channels=256", "model.num_convs=4", "model.head_norm=null",
    "model.p6_from=c5", _SIZES,
    "model.anchor_scales=[1.0,1.2599210498948732,1.5874010519681994]", "model.loss.box_weights=[1.0,1.0,1.0,1.0]",
)  # fmt: skip
_ANCHORS: Settings = (*_NORM, *_GRID, _RATIOS, "model.anchor_scales=[1.0]", "model.pyramid_strides=[4,8,16,32]")
_FASTER_RCNN: Settings = (
    *_ANCHORS, "model.pooling=align", "model.head_channels=1024", "model.spare_columns=0", "model.pyramid_norm=null",
    "model.rpn_convs=1", "model.head_convs=0",
)  # fmt: skip
_ALIGNED: Settings = ("model.aligned=true", "model.pooling_samples=0")
_AS_DETECTRON: Settings = ("model.aligned=false", "model.pooling_samples=2")
_PYRAMID: Settings = ("model.pyramid_channels=256", _SIZES)
_ONE_MAP: Settings = ("model.pyramid_channels=null", _ONE_SIZE_EACH)
_NETWORKS: dict[str, Settings] = {
    "FPN": (*_PYRAMID, "model.pooled_size=7"),
    "C4": (*_ONE_MAP, "model.pooled_size=14"),
    "DC5": (*_ONE_MAP, "model.pooled_size=7", "model.backbone.dilated_c5=true"),
}
_PROPOSALS: dict[str, Settings] = {
    "FPN": ("model.train_proposer.max_proposals=1000",),
    "C4": ("model.proposer.candidates_per_level=6000", "model.train_proposer.candidates_per_level=12000"),
    "DC5": ("model.proposer.candidates_per_level=6000", "model.train_proposer.candidates_per_level=12000"),
}
_CANDIDATES = {"FPN": 1000, "C4": 12000}
"""PRE_NMS_TOPK_TEST of the proposal networks alone; of either 2000 boxes come out."""


def _retinanet(name: str, suffix: str, ap: float) -> Entry:
    network = ("model=retinanet", *_body(name), *_RETINANET)
    decoding = ("model.loss.box_loss_weight=1.0", "model.loss.smooth_l1_beta=0.1")
    return _entry(name, suffix, {"AP": ap}, "detectron2_retinanet", network, decoding)


def _faster_rcnn(name: str, suffix: str, ap: float) -> Entry:
    kind = next(kind for kind in _NETWORKS if f"_{kind}_" in name)
    names = f"detectron2_{'x101_' if '_X_101_' in name else ''}faster_rcnn_{kind.lower()}"
    network = ("model=faster_rcnn", *_body(name), *_FASTER_RCNN, *_ALIGNED, *_NETWORKS[kind])
    return _entry(name, suffix, {"AP": ap}, names, network, _PROPOSALS[kind])


def _rpn(name: str, suffix: str, recall: float) -> Entry:
    """A proposal network alone. "prop. AR" is the recall with 1000 proposals; theirs gives each object its best box, by
    overlap, ours pairs by falling score as pycocotools does."""
    kind = "FPN" if "_FPN_" in name else "C4"
    network = ("model=rpn", *_body(name), *_ANCHORS, *(_PYRAMID if kind == "FPN" else _ONE_MAP))
    decoding = (f"model.decoder.candidates_per_level={_CANDIDATES[kind]}", "model.decoder.max_proposals=2000")
    entry = _entry(name, suffix, {"AR1000_proposals": recall}, f"detectron2_rpn_{kind.lower()}", network, decoding)
    return replace(entry, classes="object")


def _body(name: str) -> Settings:
    return next(settings for body, settings in RESNETS.items() if f"_{body}_" in name)


def _entry(
    name: str, suffix: str, figures: dict[str, float], names: str, network: Settings, decoding: Settings,
    folder: str = "COCO-Detection",
) -> Entry:  # fmt: skip
    place = f"{folder}/{name}"
    called = name if folder == "COCO-Detection" else place
    return Entry(
        name=f"detectron2/{called}",
        url=f"{SITE}{place}/{suffix}",
        digest=f"md5:{suffix.removesuffix('.pkl').rpartition('_')[2]}",
        figures=figures,
        source=f"detectron2 MODEL_ZOO.md, {place}",
        names=names,
        network=network,
        decoding=(*_RESIZE, *decoding),
        file=f"detectron2/{called}/{suffix.rpartition('/')[2]}",
        licence="CC BY-SA 3.0",
    )


ENTRIES = (
    _retinanet("retinanet_R_50_FPN_1x", "190397773/model_final_bfca0b.pkl", 37.4),
    _retinanet("retinanet_R_50_FPN_3x", "190397829/model_final_5bd44e.pkl", 38.7),
    _retinanet("retinanet_R_101_FPN_3x", "190397697/model_final_971ab9.pkl", 40.4),
    _faster_rcnn("faster_rcnn_R_50_FPN_1x", "137257794/model_final_b275ba.pkl", 37.9),
    _faster_rcnn("faster_rcnn_R_50_FPN_3x", "137849458/model_final_280758.pkl", 40.2),
    _faster_rcnn("faster_rcnn_R_101_FPN_3x", "137851257/model_final_f6e8b1.pkl", 42.0),
    _faster_rcnn("faster_rcnn_X_101_32x8d_FPN_3x", "139173657/model_final_68b088.pkl", 43.0),
    _faster_rcnn("faster_rcnn_R_50_C4_1x", "137257644/model_final_721ade.pkl", 35.7),
    _faster_rcnn("faster_rcnn_R_50_C4_3x", "137849393/model_final_f97cb7.pkl", 38.4),
    _faster_rcnn("faster_rcnn_R_101_C4_3x", "138204752/model_final_298dad.pkl", 41.1),
    _faster_rcnn("faster_rcnn_R_50_DC5_1x", "137847829/model_final_51d356.pkl", 37.3),
    _faster_rcnn("faster_rcnn_R_50_DC5_3x", "137849425/model_final_68d202.pkl", 39.0),
    _faster_rcnn("faster_rcnn_R_101_DC5_3x", "138204841/model_final_3e0943.pkl", 40.6),
    _entry(
        "faster_rcnn_R_50_FPN_noaug_1x", "137781054/model_final_7ab50c.pkl", {"AP": 36.9},
        "detectron2_faster_rcnn_fpn",
        ("model=faster_rcnn", *RESNETS["R_50"], *_FASTER_RCNN, *_AS_DETECTRON, *_NETWORKS["FPN"]), _PROPOSALS["FPN"],
        "Detectron1-Comparisons",
    ),
    replace(
        # Its AP50; its AP of 51.9 is the mean of VOC2007's 11-point rule over ten IoUs, which is not COCO's AP.
        _entry(
            "faster_rcnn_R_50_C4", "142202221/model_final_b1acc2.pkl", {"mAP_voc07": 80.3},
            "detectron2_faster_rcnn_c4",
            ("model=faster_rcnn", *RESNETS["R_50"], *_FASTER_RCNN, *_ALIGNED, *_NETWORKS["C4"]), _PROPOSALS["C4"],
            "PascalVOC-Detection",
        ),
        split="VOC2007 test", data="voc_2007_test", classes="voc",
    ),
    _rpn("rpn_R_50_C4_1x", "137258005/model_final_450694.pkl", 51.6),
    _rpn("rpn_R_50_FPN_1x", "137258492/model_final_02ce48.pkl", 58.0),
)  # fmt: skip
