"""Settings of the sources of the RetinaNet recipes; the numbers are sections of reference/SOURCES.md."""

import pytest

_BACKBONE = {
    "model.backbone._target_": "detectors.backbones.ResNet",
    "model.backbone.depth": 50,
    "model.backbone.weights": "imagenet",
}
_PAPER = {
    # 1.1.6, as every source has it
    "model._target_": "lit_modules.retinanet.RetinaNetModule",
    "model.pyramid_channels": 256,
    "model.p6_from": "c5",
    "model.num_convs": 4,
    "model.head_norm": None,
    "model.prior": 0.01,
    "model.anchor_ratios": [0.5, 1, 2],
    "model.grid_offset": 0.5,
    "model.round_anchors": False,
    "model.spread_grid": False,
    "model.loss.foreground_iou": 0.5,
    "model.loss.box_loss": "smooth_l1",
    "model.loss.focal_alpha": 0.25,
    "model.loss.focal_gamma": 2,
    "model.decoder.candidates_per_level": 1000,
    "data.flip": 0.5,
    "data.vertical_flip": 0,
    "data.empty_images": "drop",
    "data.min_box": 1,
    "trainer.accumulate_grad_batches": 1,
    "callbacks.averaging.decay": None,
}
_NINE_ANCHORS = {
    "model.anchor_sizes": [32, 64, 128, 256, 512],
    "model.anchor_scales": [pytest.approx(2 ** (step / 3)) for step in range(3)],
}
_SGD = {
    "optimizer._target_": "lit_modules.optimizers.sgd",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0001,
    "optimizer.norm_decay_factor": 1,
    "optimizer.backbone_lr_factor": 1,
    "optimizer.backbone_layer_decay": 1,
}
_WARMUP = {  # defaults.py: linear
    "schedule.warmup": "linear",
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": pytest.approx(1 / 3),
}

R50_1X = {
    **_BACKBONE, **_PAPER, **_NINE_ANCHORS, **_SGD, **_WARMUP,
    "model.backbone.norm": "frozen_bn",
    "model.backbone.frozen_stages": 2,  # FREEZE_CONV_BODY_AT 2
    "model.loss.background_iou": 0.4,
    "model.loss.allow_low_quality": True,
    "model.loss.box_weights": [10, 10, 5, 5],
    "model.decoder.box_weights": [10, 10, 5, 5],
    "model.loss.smooth_l1_beta": pytest.approx(0.11, abs=0.002),
    "model.loss.box_loss_weight": 1 / 4,  # BBOX_REG_WEIGHT 4
    "model.decoder.top_class_only": False,
    "model.decoder.score_threshold": 0.05,
    "model.decoder.nms_threshold": 0.4,
    "model.decoder.max_detections": 100,
    # 1.1.4: rate 0.005, milestones 120k and 160k of 180k iterations, all for 8 images
    "data.batch_size": 16,
    "model.lr": 0.01,
    "optimizer.bias_lr_factor": 2,
    "optimizer.bias_decay_factor": 0,
    "schedule._target_": "lit_modules.schedules.multistep",
    "schedule.milestones": [60000, 80000],
    "schedule.gamma": 0.1,
    "trainer.max_steps": 90000,
    "trainer.max_epochs": -1,
    "trainer.gradient_clip_val": None,
    "data._target_": "datamodules.coco.CocoDataModule",
    "data.train_split": "train2017",
    "data.val_split": "val2017",
    "data.num_classes": 80,
    "data.rule": "short_side",
    "data.resize": 800,
    "data.multi_scale": None,
    "data.augmentations": None,
}  # fmt: skip

SQ667 = {
    **_BACKBONE, **_PAPER, **_NINE_ANCHORS,
    "model.backbone.norm": "bn",
    "model.backbone.frozen_stages": 0,
    # 1.2.3 and "Surprises", zgcr
    "model.loss.background_iou": 0.4,
    "model.loss.allow_low_quality": False,  # "No forced match"
    "model.loss.box_weights": [10, 10, 5, 5],  # factor 0.1, 0.1, 0.2, 0.2
    "model.decoder.box_weights": [10, 10, 5, 5],  # factor 0.1, 0.1, 0.2, 0.2
    "model.loss.smooth_l1_beta": pytest.approx(1 / 9),
    "model.loss.box_loss_weight": 1 / 4,  # mean over the 4 coordinates
    "model.decoder.top_class_only": False,
    "model.decoder.score_threshold": 0.05,
    "model.decoder.nms_threshold": 0.5,
    "model.decoder.max_detections": 100,
    "model.lr": 1e-4,
    "optimizer._target_": "lit_modules.optimizers.adamw",
    "optimizer.betas": [0.9, 0.999],
    "optimizer.weight_decay": 0.01,  # torch's default
    "optimizer.bias_lr_factor": 1,
    "optimizer.bias_decay_factor": 1,
    "optimizer.norm_decay_factor": 1,
    "optimizer.backbone_lr_factor": 1,
    "optimizer.backbone_layer_decay": 1,
    "schedule._target_": "lit_modules.schedules.plateau",
    "schedule.patience": 3,
    "schedule.factor": 0.1,
    "schedule.threshold": 1e-4,
    "schedule.warmup": None,
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": pytest.approx(1 / 3),
    "scale_schedule": False,
    "data.batch_size": 24,
    "trainer.max_steps": -1,
    "trainer.max_epochs": 12,
    "trainer.gradient_clip_val": 0.1,
    "data._target_": "datamodules.coco.CocoDataModule",
    "data.train_split": "train2017",
    "data.val_split": "val2017",
    "data.num_classes": 80,
    "data.rule": "square",
    "data.resize": 667,
    "data.multi_scale": None,
    "data.augmentations.crop.p": 0.5,
    "data.augmentations.translate.p": 0.5,
}  # fmt: skip
SQ667_FAST = {**SQ667, "model.decoder.top_class_only": True}
SQ1000 = {**SQ667_FAST, "data.resize": 1000, "data.batch_size": 16, "trainer.max_epochs": 24}

VOC257 = {
    **_BACKBONE, **_PAPER, **_SGD,
    "model.backbone.norm": "bn",
    "model.backbone.frozen_stages": 0,
    # 1.4.2 and golden/retinanet_xyt: squares of 28 px, and 19.8 x 39.6 both ways, doubled from level to level
    "model.anchor_sizes": [28, 56, 112, 224, 448],
    "model.anchor_scales": [1],
    "model.loss.background_iou": 0.3,
    "model.loss.allow_low_quality": True,
    "model.loss.box_weights": [1, 1, 1, 1],
    "model.decoder.box_weights": [1, 1, 1, 1],
    "model.loss.smooth_l1_beta": 1,
    "model.loss.box_loss_weight": 1,
    "model.decoder.top_class_only": True,
    "model.decoder.score_threshold": 0.05,
    "model.decoder.nms_threshold": 0.5,
    "model.decoder.max_detections": 100,
    "model.lr": 0.01,
    "optimizer.bias_lr_factor": 1,
    "optimizer.bias_decay_factor": 1,
    "schedule._target_": "lit_modules.schedules.constant",
    "schedule.warmup": None,
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": pytest.approx(1 / 3),
    "scale_schedule": False,
    "data.batch_size": 30,
    "trainer.max_steps": -1,
    "trainer.max_epochs": 200,
    "trainer.gradient_clip_val": None,
    "data._target_": "datamodules.voc.VocDataModule",
    "data.train_split": "2012_trainval",
    "data.rule": "square",
    "data.resize": 257,
    "data.multi_scale": None,
}  # fmt: skip
VOC641 = {
    **_BACKBONE, **_PAPER, **_NINE_ANCHORS, **_SGD, **_WARMUP,
    # 1.4.3
    "model.backbone.norm": "frozen_bn",
    "model.backbone.frozen_stages": 2,
    "model.loss.background_iou": 0.4,
    "model.loss.allow_low_quality": True,
    "model.loss.box_weights": [1, 1, 1, 1],
    "model.decoder.box_weights": [1, 1, 1, 1],
    "model.loss.smooth_l1_beta": pytest.approx(0.11, abs=0.002),
    "model.loss.box_loss_weight": 1,
    "model.decoder.top_class_only": False,
    "model.decoder.score_threshold": 0.05,
    "model.decoder.nms_threshold": 0.5,
    "model.decoder.max_detections": 3000,
    "data.batch_size": 16,
    "model.lr": 0.01,
    "optimizer.bias_lr_factor": 1,  # 2 in its code, overwritten each step
    "optimizer.bias_decay_factor": 1,
    "schedule._target_": "lit_modules.schedules.multistep",
    "schedule.milestones": [0.667, 0.889],
    "schedule.gamma": 0.1,
    "trainer.max_steps": 31020,
    "trainer.max_epochs": -1,
    "trainer.gradient_clip_val": 15,
    "data._target_": "datamodules.voc.VocDataModule",
    "data.train_split": "2007_trainval+2012_trainval",
    "data.test_split": "2007_test",
    "data.num_classes": 20,
    "data.rule": "square",
    "data.resize": 641,
    "data.multi_scale": [0.6, 1.0],
    "data.augmentations": None,
}  # fmt: skip

TABLES = {
    "retinanet_r50_1x": R50_1X,
    "retinanet_r101_1x": R50_1X | {"model.backbone.depth": 101},
    "retinanet_sq667": SQ667,
    "retinanet_sq667_fast": SQ667_FAST,
    "retinanet_sq1000_from667": SQ1000,
    "retinanet_voc257": VOC257,
    "retinanet_voc641": VOC641,
}
AP = {
    "retinanet_r50_1x": 36.3,
    "retinanet_r101_1x": 38.5,
    "retinanet_sq667": 30.2,
    "retinanet_sq667_fast": 29.3,
    "retinanet_sq1000_from667": 33.9,
    "retinanet_voc641": 79.1,
}
"""4.2, 1.2.3 and 1.4.3; the last is mAP at IoU 0.5. The author of voc257 gives none."""

_STEPS = {0: 0.01 / 3, 250: 0.01 * 2 / 3, 500: 0.01}
RATES = {
    "retinanet_r50_1x": _STEPS | {59999: 0.01, 60000: 1e-3, 79999: 1e-3, 80000: 1e-4, 89999: 1e-4},
    "retinanet_r101_1x": _STEPS | {59999: 0.01, 60000: 1e-3, 79999: 1e-3, 80000: 1e-4, 89999: 1e-4},
    "retinanet_voc257": {0: 0.01, 100_000: 0.01},
    "retinanet_voc641": _STEPS | {20689: 0.01, 20690: 1e-3, 27576: 1e-3, 27577: 1e-4, 31019: 1e-4},
}
"""Rates of weights by iteration; those of the plateau recipes are in test_schedules."""
RULES = {
    "retinanet_r50_1x": "short_side 800 (long side at most 1333)",
    "retinanet_r101_1x": "short_side 800 (long side at most 1333)",
    "retinanet_sq667": "square 667",
    "retinanet_sq667_fast": "square 667",
    "retinanet_sq1000_from667": "square 1000",
    "retinanet_voc257": "square 257",
    "retinanet_voc641": "square 641",
}
