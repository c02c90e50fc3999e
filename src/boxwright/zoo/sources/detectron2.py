"""detectron2's RetinaNet and Faster R-CNN (facebookresearch/detectron2, model_zoo.py and MODEL_ZOO.md)."""

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
_RETINANET: Settings = (
    *_NORM, *_GRID, _RATIOS, "model.pyramid_channels=256", "model.num_convs=4", "model.head_norm=null",
    "model.p6_from=c5", "model.anchor_sizes=[32.0,64.0,128.0,256.0,512.0]",
    "model.anchor_scales=[1.0,1.2599210498948732,1.5874010519681994]", "model.loss.box_weights=[1.0,1.0,1.0,1.0]",
)  # fmt: skip
_FASTER_RCNN: Settings = (
    *_NORM, *_GRID, _RATIOS, "model.anchor_scales=[1.0]", "model.pooling=align", "model.aligned=true",
    "model.pooling_samples=0", "model.head_channels=1024", "model.spare_columns=0",
    "model.pyramid_strides=[4,8,16,32]", "model.pyramid_norm=null", "model.rpn_convs=1", "model.head_convs=0",
)  # fmt: skip
_ONE_MAP: Settings = (*_FASTER_RCNN, "model.pyramid_channels=null", "model.anchor_sizes=[[32,64,128,256,512]]")
_NETWORKS: dict[str, Settings] = {
    "FPN": (*_FASTER_RCNN, "model.pyramid_channels=256", "model.anchor_sizes=[32.0,64.0,128.0,256.0,512.0]",
            "model.pooled_size=7"),
    "C4": (*_ONE_MAP, "model.pooled_size=14"),
    "DC5": (*_ONE_MAP, "model.pooled_size=7", "model.backbone.dilated_c5=true"),
}  # fmt: skip
_PROPOSALS: dict[str, Settings] = {
    "FPN": ("model.train_proposer.max_proposals=1000",),
    "C4": ("model.proposer.candidates_per_level=6000", "model.train_proposer.candidates_per_level=12000"),
    "DC5": ("model.proposer.candidates_per_level=6000", "model.train_proposer.candidates_per_level=12000"),
}


def _entry(name: str, suffix: str, ap: float, folder: str = "COCO-Detection") -> Entry:
    body = next(body for body in RESNETS if f"_{body}_" in name)
    if name.startswith("retinanet"):
        names, network = "detectron2_retinanet", ("model=retinanet", *RESNETS[body], *_RETINANET)
        decoding: Settings = ("model.loss.box_loss_weight=1.0", "model.loss.smooth_l1_beta=0.1")
    else:
        kind = next(kind for kind in _NETWORKS if f"_{kind}_" in name)
        names = f"detectron2_{'x101_' if body.startswith('X') else ''}faster_rcnn_{kind.lower()}"
        network, decoding = ("model=faster_rcnn", *RESNETS[body], *_NETWORKS[kind]), _PROPOSALS[kind]
    return Entry(
        name=f"detectron2/{name}",
        url=f"{SITE}{folder}/{name}/{suffix}",
        digest=f"md5:{suffix.removesuffix('.pkl').rpartition('_')[2]}",
        ap=ap,
        source=f"detectron2 MODEL_ZOO.md, {folder}/{name}",
        names=names,
        network=network,
        decoding=(*_RESIZE, *decoding),
        file=f"detectron2/{name}/{suffix.rpartition('/')[2]}",
        licence="CC BY-SA 3.0",
    )


ENTRIES = (
    _entry("retinanet_R_50_FPN_1x", "190397773/model_final_bfca0b.pkl", 37.4),
    _entry("retinanet_R_50_FPN_3x", "190397829/model_final_5bd44e.pkl", 38.7),
    _entry("retinanet_R_101_FPN_3x", "190397697/model_final_971ab9.pkl", 40.4),
    _entry("faster_rcnn_R_50_FPN_1x", "137257794/model_final_b275ba.pkl", 37.9),
    _entry("faster_rcnn_R_50_FPN_3x", "137849458/model_final_280758.pkl", 40.2),
    _entry("faster_rcnn_R_101_FPN_3x", "137851257/model_final_f6e8b1.pkl", 42.0),
    _entry("faster_rcnn_X_101_32x8d_FPN_3x", "139173657/model_final_68b088.pkl", 43.0),
    _entry("faster_rcnn_R_50_C4_1x", "137257644/model_final_721ade.pkl", 35.7),
    _entry("faster_rcnn_R_50_C4_3x", "137849393/model_final_f97cb7.pkl", 38.4),
    _entry("faster_rcnn_R_101_C4_3x", "138204752/model_final_298dad.pkl", 41.1),
    _entry("faster_rcnn_R_50_DC5_1x", "137847829/model_final_51d356.pkl", 37.3),
    _entry("faster_rcnn_R_50_DC5_3x", "137849425/model_final_68d202.pkl", 39.0),
    _entry("faster_rcnn_R_101_DC5_3x", "138204841/model_final_3e0943.pkl", 40.6),
)
