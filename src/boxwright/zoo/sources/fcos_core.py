"""FCOS of its authors (tianzhi0549/FCOS, README)."""

from boxwright.zoo.entry import Entry, Settings

SITE = "https://huggingface.co/tianzhi/FCOS/resolve/main/"
_NORM = ("model.backbone.norm=frozen_bn", "model.backbone.norm_eps=0.0")
BODIES: dict[str, Settings] = {
    "R_50": ("model/backbone=resnet50", *_NORM, "model.backbone.stride_in_1x1=true"),
    "R_101": ("model/backbone=resnet101", *_NORM, "model.backbone.stride_in_1x1=true"),
    "X_101_32x8d": ("model/backbone=resnext101_32x8d", *_NORM, "model.backbone.stride_in_1x1=false"),
    "X_101_64x4d": ("model/backbone=resnext101_64x4d", *_NORM, "model.backbone.stride_in_1x1=false"),
    "MNV2": ("model/backbone=mobilenet_v2", "model.backbone.norm=bn", "model.backbone.norm_eps=1.0e-5",
             "model.backbone.last_convolution=false"),
}  # fmt: skip
_HEAD: Settings = (
    "model.num_convs=4", "model.head_norm=gn", "model.p6_from=p5", "model.grid_offset=0.5", "model.spread_grid=false",
)  # fmt: skip


def _entry(name: str, ap: float) -> Entry:
    body = next(body for body in BODIES if f"_{body}_" in name)
    improved, moved = "imprv" in name, "dcnv2" in name
    stages = "[3,4,5]" if body.startswith("R") else "[4,5]"
    network = (
        "model=fcos", *BODIES[body], *_HEAD,
        f"model.pyramid_channels={128 if 'c128' in name else 256}",
        f"model.normalize_targets={str(improved).lower()}", f"model.centerness_on_box={str(improved).lower()}",
        f"model.deformable_towers={str(moved).lower()}",
        *([] if body == "MNV2" else [f"model.backbone.deformable_stages={stages if moved else '[]'}"]),
    )  # fmt: skip
    training = ("model.loss.center_sampling=1.5", "model.loss.box_loss=giou") if improved else ()
    return Entry(
        name=f"fcos/{name}",
        url=f"{SITE}{name}.pth",
        digest="",
        figures={"AP": ap},
        source="tianzhi0549/FCOS README",
        names="fcos_core",
        network=network,
        decoding=("data.interpolation=antialias", *training),
        file=f"fcos/{name}.pth",
        split="coco_2014_minival, the images of val2017",
        licence="academic use; commercial use by request to its authors",
    )


ENTRIES = (
    _entry("FCOS_R_50_FPN_1x", 37.1),
    _entry("FCOS_R_101_FPN_2x", 41.4),
    _entry("FCOS_X_101_32x8d_FPN_2x", 42.5),
    _entry("FCOS_X_101_64x4d_FPN_2x", 43.0),
    _entry("FCOS_imprv_R_50_FPN_1x", 38.7),
    _entry("FCOS_imprv_dcnv2_R_50_FPN_1x", 42.3),
    _entry("FCOS_imprv_R_101_FPN_2x", 43.0),
    _entry("FCOS_imprv_dcnv2_R_101_FPN_2x", 45.6),
    _entry("FCOS_imprv_X_101_32x8d_FPN_2x", 44.0),
    _entry("FCOS_imprv_dcnv2_X_101_32x8d_FPN_2x", 46.4),
    _entry("FCOS_imprv_X_101_64x4d_FPN_2x", 44.7),
    _entry("FCOS_imprv_dcnv2_X_101_64x4d_FPN_2x", 46.6),
    _entry("FCOS_bn_bs16_MNV2_FPN_1x", 31.0),
    _entry("FCOS_syncbn_bs32_MNV2_FPN_1x", 33.1),
    _entry("FCOS_syncbn_bs32_c128_MNV2_FPN_1x", 30.9),
)
