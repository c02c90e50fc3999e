"""Detectron's Faster R-CNN, and trunks trained on ImageNet (facebookresearch/Detectron, MODEL_ZOO.md)."""

from boxwright.zoo.entry import Entry, Settings, Trunk

SITE = "https://dl.fbaipublicfiles.com/detectron/"
BESIDE = "md5:.md5sum"
"""The file's MD5 is published at its own address with this ending."""
_RESULT = "output/train/coco_2014_train%3Acoco_2014_valminusminival/generalized_rcnn/model_final.pkl"
_IN_1X1 = ("model.backbone.norm=frozen_bn", "model.backbone.norm_eps=0.0", "model.backbone.stride_in_1x1=true")
_IN_3X3 = ("model.backbone.norm=frozen_bn", "model.backbone.norm_eps=0.0", "model.backbone.stride_in_1x1=false")
_GROUP_NORM = ("model.backbone.norm=gn", "model.backbone.norm_eps=1.0e-5", "model.backbone.stride_in_1x1=false")
_BODIES: dict[str, Settings] = {
    "R-50": ("model/backbone=resnet50", *_IN_1X1),
    "R-101": ("model/backbone=resnet101", *_IN_1X1),
    "X-101-32x8d": ("model/backbone=resnext101_32x8d", *_IN_3X3),
}
_FASTER_RCNN: Settings = (
    "model.grid_offset=0.5", "model.round_anchors=cell", "model.spread_grid=false",
    "model.anchor_ratios=[0.5,1.0,2.0]", "model.anchor_scales=[1.0]", "model.pooling=align", "model.aligned=false",
    "model.head_channels=1024", "model.spare_columns=0", "model.pyramid_strides=[4,8,16,32]",
    "model.pyramid_norm=null", "model.rpn_convs=1", "model.head_convs=0",
)  # fmt: skip
_NETWORKS: dict[str, Settings] = {
    "FPN": ("model.pyramid_channels=256", "model.anchor_sizes=[32.0,64.0,128.0,256.0,512.0]", "model.pooled_size=7",
            "model.pooling_samples=2"),
    "C4": ("model.pyramid_channels=null", "model.anchor_sizes=[[32,64,128,256,512]]", "model.pooled_size=14",
           "model.pooling_samples=0"),
}  # fmt: skip
_DECODING: dict[str, Settings] = {
    "FPN": (),
    "C4": ("model.proposer.candidates_per_level=6000", "model.train_proposer.candidates_per_level=12000"),
}


def _entry(body: str, kind: str, number: int, signature: str, ap: float) -> Entry:
    name = f"e2e_faster_rcnn_{body}-{kind}_1x"
    return Entry(
        name=f"caffe2/{name}",
        url=f"{SITE}{number}/12_2017_baselines/{name}.yaml.{signature}/{_RESULT}",
        digest=BESIDE,
        figures={"AP": ap},
        source=f"Detectron MODEL_ZOO.md, model {number}",
        names=f"caffe2_faster_rcnn_{kind.lower()}",
        network=("model=faster_rcnn", *_BODIES[body], *_FASTER_RCNN, *_NETWORKS[kind]),
        decoding=("data.rounding=nearest", "data.interpolation=bilinear", *_DECODING[kind]),
        file=f"caffe2/{name}/model_final.pkl",
        split="coco_2014_minival, the images of val2017",
        licence="CC BY-SA 3.0",
    )


ENTRIES = (
    _entry("R-50", "C4", 35857197, "01_33_49.iAX0mXvW", 34.8),
    _entry("R-50", "FPN", 35857345, "01_36_30.cUF7QR7I", 36.7),
    _entry("R-101", "FPN", 35857890, "01_38_50.sNxI7sX7", 39.4),
    _entry("X-101-32x8d", "FPN", 36761737, "06_31_39.5MIHi1fZ", 41.3),
)


def _trunk(name: str, path: str, settings: Settings) -> Trunk:
    url = f"{SITE}ImageNetPretrained/{path}"
    return Trunk(name, url, BESIDE, settings, f"caffe2/ImageNetPretrained/{path}", "CC BY-SA 3.0")


TRUNKS = (
    _trunk("MSRA/R-50", "MSRA/R-50.pkl", ("model/backbone=resnet50", *_IN_1X1)),
    _trunk("MSRA/R-101", "MSRA/R-101.pkl", ("model/backbone=resnet101", *_IN_1X1)),
    _trunk("R-50-GN", "47261647/R-50-GN.pkl", ("model/backbone=resnet50", *_GROUP_NORM)),
    _trunk("R-101-GN", "47592356/R-101-GN.pkl", ("model/backbone=resnet101", *_GROUP_NORM)),
    _trunk("FAIR/20171220/X-101-32x8d", "20171220/X-101-32x8d.pkl", ("model/backbone=resnext101_32x8d", *_IN_3X3)),
    _trunk(
        "X-152-32x8d-IN5k", "25093814/X-152-32x8d-IN5k.pkl",
        ("model/backbone=resnet152", "model.backbone.groups=32", "model.backbone.width_per_group=8", *_IN_3X3),
    ),
    _trunk("X-101-64x4d", "FBResNeXt/X-101-64x4d.pkl", ("model/backbone=resnext101_64x4d", *_IN_3X3)),
)  # fmt: skip
"""For model.backbone.weights=NAME."""
