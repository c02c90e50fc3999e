"""torchvision's detectors (torchvision 0.29, models/detection)."""

from boxwright.zoo.entry import Entry, Settings

SITE = "https://download.pytorch.org/models/"

_RESIZE = ("data.rounding=down", "data.interpolation=bilinear")
_GRID = ("model.grid_offset=0.0", "model.spread_grid=true")
_ANCHORS = (*_GRID, "model.round_anchors=true")
_PYRAMID = ("model.pyramid_channels=256", "model.num_convs=4")
_FROZEN = ("model.backbone.norm=frozen_bn", "model.backbone.norm_eps=1.0e-5")
_EXACT = ("model.backbone.norm=frozen_bn", "model.backbone.norm_eps=0.0")
_LIVE = ("model.backbone.norm=bn", "model.backbone.norm_eps=1.0e-5")
_RETINANET = (
    "model=retinanet", "model/backbone=resnet50", *_PYRAMID, *_ANCHORS, "model.anchor_scales=[1.0]",
    "model.anchor_ratios=[0.5,1.0,2.0]",
    "model.anchor_sizes=[[32,40,50],[64,80,101],[128,161,203],[256,322,406],[512,645,812]]",
    "model.loss.box_weights=[1.0,1.0,1.0,1.0]",
)  # fmt: skip
_RETINANET_DECODING = (*_RESIZE, "model.decoder.max_detections=300", "model.loss.box_loss_weight=1.0")
_FASTER_RCNN = (
    "model.pyramid_channels=256", *_ANCHORS, "model.anchor_scales=[1.0]", "model.anchor_ratios=[0.5,1.0,2.0]",
    "model.pooling=align", "model.pooled_size=7", "model.pooling_samples=2", "model.aligned=false",
    "model.head_channels=1024", "model.spare_columns=10",
)  # fmt: skip
_PLAIN = ("model.pyramid_norm=null", "model.rpn_convs=1", "model.head_convs=0")
_SCORES = ("model.proposer.score_threshold=0.05", "model.train_proposer.score_threshold=0.05")
_MOBILENET = (
    "model=faster_rcnn", "model/backbone=mobilenet_v3_large", *_FROZEN, *_FASTER_RCNN, *_PLAIN,
    "model.pyramid_strides=[32,32]",
    "model.anchor_sizes=[[32,64,128,256,512],[32,64,128,256,512],[32,64,128,256,512]]",
)  # fmt: skip
_FASTER_RCNN_DECODING = (
    *_RESIZE, "model.proposer.min_size=0.001", "model.decoder.min_size=0.01",
    "model.region_loss.smooth_l1_beta=0.1111111111111111",
)  # fmt: skip


def _torchvision(name: str, file: str, ap: float, names: str, network: Settings, decoding: Settings) -> Entry:
    digest = f"sha256:{file.removesuffix('.pth').rpartition('-')[2]}"
    source = f"torchvision 0.29, {name}, COCO_V1"
    return Entry(f"torchvision/{name}", SITE + file, digest, {"AP": ap}, source, names, network, decoding, file)


ENTRIES = (
    _torchvision(
        "fcos_resnet50_fpn", "fcos_resnet50_fpn_coco-99b0c9b7.pth", 39.2, "torchvision_fcos",
        ("model=fcos", "model/backbone=resnet50", *_PYRAMID, *_FROZEN, *_GRID, "model.p6_from=p5",
         "model.head_norm=gn", "model.normalize_targets=true", "model.centerness_on_box=true"),
        (*_RESIZE, "model.decoder.score_threshold=0.2", "model.decoder.threshold_product=true",
         "model.loss.center_sampling=1.5", "model.loss.box_loss=giou"),
    ),
    _torchvision(
        "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_coco-eeacb38b.pth", 36.4, "torchvision_retinanet",
        (*_RETINANET, *_EXACT, "model.p6_from=p5", "model.head_norm=null"),
        (*_RETINANET_DECODING, "model.loss.box_loss=l1"),
    ),
    _torchvision(
        "retinanet_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 41.5, "torchvision_retinanet",
        (*_RETINANET, *_LIVE, "model.p6_from=c5", "model.head_norm=gn"),
        (*_RETINANET_DECODING, "model.loss.box_loss=giou"),
    ),
    _torchvision(
        "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 37.0, "torchvision_faster_rcnn",
        ("model=faster_rcnn", "model/backbone=resnet50", *_EXACT, *_FASTER_RCNN, *_PLAIN,
         "model.pyramid_strides=[4,8,16,32]",
         "model.anchor_sizes=[32.0,64.0,128.0,256.0,512.0]"),
        _FASTER_RCNN_DECODING,
    ),
    _torchvision(
        "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 46.7, "torchvision_faster_rcnn",
        ("model=faster_rcnn", "model/backbone=resnet50", *_LIVE, *_FASTER_RCNN, "model.pyramid_strides=[4,8,16,32]",
         "model.anchor_sizes=[32.0,64.0,128.0,256.0,512.0]", "model.pyramid_norm=bn", "model.rpn_convs=2",
         "model.head_convs=4"),
        _FASTER_RCNN_DECODING,
    ),
    _torchvision(
        "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", 32.8,
        "torchvision_faster_rcnn", _MOBILENET, (*_FASTER_RCNN_DECODING, *_SCORES),
    ),
    _torchvision(
        "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 22.8,
        "torchvision_faster_rcnn", _MOBILENET,
        (*_FASTER_RCNN_DECODING, *_SCORES, "model.proposer.candidates_per_level=150",
         "model.proposer.max_proposals=150", "data.resize=320", "data.max_side=640"),
    ),
)  # fmt: skip
