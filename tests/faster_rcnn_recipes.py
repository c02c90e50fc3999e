"""Settings of the sources of the Faster R-CNN recipes; the numbers are sections of reference/SOURCES.md."""

from typing import Any

import pytest

_RESNET50 = {
    "model.backbone._target_": "detectors.backbones.ResNet",
    "model.backbone.depth": 50,
    "model.backbone.weights": "imagenet",
    "model.backbone.norm": "frozen_bn",
    "model.backbone.frozen_stages": 2,  # FREEZE_CONV_BODY_AT 2
}
_SHARED = {
    # 1.1.7 and 1.3.3, as every source has it
    "model._target_": "lit_modules.faster_rcnn.FasterRCNNModule",
    "model.anchor_ratios": [0.5, 1, 2],
    "model.round_anchors": False,
    "model.spread_grid": False,
    "model.spare_columns": 0,
    "model.pooling_samples": 2,
    "model.pyramid_norm": None,
    "model.rpn_convs": 1,
    "model.head_convs": 0,
    "model.proposer.score_threshold": 0,
    "model.train_proposer.score_threshold": 0,
    "model.decoder.min_size": 0,
    "model.anchor_sampler.background_iou": 0.3,
    "model.anchor_sampler.foreground_iou": 0.7,
    "model.anchor_sampler.num_samples": 256,
    "model.anchor_sampler.positive_fraction": 0.5,
    "model.proposer.nms_threshold": 0.7,
    "model.train_proposer.nms_threshold": 0.7,
    "model.head_channels": 1024,
    "model.region_sampler.foreground_iou": 0.5,
    "model.region_sampler.positive_fraction": 0.25,
    "model.region_loss.box_weights": [10, 10, 5, 5],
    "model.decoder.box_weights": [10, 10, 5, 5],
    "model.decoder.score_threshold": 0.05,
    "optimizer._target_": "lit_modules.optimizers.sgd",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.norm_decay_factor": 1,
    "optimizer.backbone_lr_factor": 1,
    "optimizer.backbone_layer_decay": 1,
    "data.rule": "short_side",
    "data.flip": 0.5,
    "data.vertical_flip": 0,
    "data.augmentations": None,
    "data.empty_images": "drop",
    "data.min_box": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "callbacks.averaging.decay": None,
}
_FOLLOWERS = {  # Detectron and its successors, 1.1.7
    "model.pooling": "align",
    "model.proposer.min_size": 0,
    "model.train_proposer.min_size": 0,
    "model.region_sampler.num_samples": 512,
    "model.decoder.nms_threshold": 0.5,
    "model.decoder.max_detections": 100,
    "optimizer.weight_decay": 0.0001,
    "data.batch_size": 16,
    "callbacks.back_to_best.at": None,
    "trainer.max_epochs": -1,
    "schedule._target_": "lit_modules.schedules.multistep",
    "schedule.gamma": 0.1,
}
_PYRAMID = {
    "model.pyramid_channels": 256,
    "model.pyramid_strides": [4, 8, 16, 32],
    "model.anchor_sizes": [32, 64, 128, 256, 512],
    "model.anchor_scales": [1],
    "model.pooled_size": 7,
    "model.train_proposer.candidates_per_level": 2000,
    "model.proposer.candidates_per_level": 1000,
    "model.proposer.max_proposals": 1000,
}
_VOC0712 = {
    "data._target_": "datamodules.voc.VocDataModule",
    "data.train_split": "2007_trainval+2012_trainval",
    "data.val_split": "2007_test",
    "data.test_split": "2007_test",
    "data.num_classes": 20,
    "model.grid_offset": 0,
    "model.anchor_sampler.inside_only": False,
    "model.rpn_loss.smooth_l1_beta": 0,
    "model.region_loss.smooth_l1_beta": 0,
    "model.aligned": True,
    "optimizer.bias_lr_factor": 1,
    "optimizer.bias_decay_factor": 1,
}

R50_1X: dict[str, Any] = {
    **_RESNET50, **_SHARED, **_FOLLOWERS, **_PYRAMID,
    "model.grid_offset": 0.5,
    "model.anchor_sampler.inside_only": True,  # STRADDLE_THRESH 0
    "model.rpn_loss.smooth_l1_beta": pytest.approx(1 / 9),
    "model.train_proposer.max_proposals": 2000,
    "model.aligned": False,
    "model.region_loss.smooth_l1_beta": 1,
    # 1.1.4: 0.02, 60k/80k/90k, its bias factors and warm-up
    "model.lr": 0.02,
    "optimizer.bias_lr_factor": 2,
    "optimizer.bias_decay_factor": 0,
    "schedule.milestones": [60000, 80000],
    "schedule.warmup": "linear",
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": pytest.approx(1 / 3),
    "trainer.max_steps": 90000,
    "data._target_": "datamodules.coco.CocoDataModule",
    "data.train_split": "train2017",
    "data.val_split": "val2017",
    "data.num_classes": 80,
    "data.resize": 800,
    "data.multi_scale": None,
}  # fmt: skip

C4_VOC0712: dict[str, Any] = {
    **_RESNET50, **_SHARED, **_FOLLOWERS, **_VOC0712,
    # 4.4, and PascalVOC-Detection/faster_rcnn_R_50_C4 of detectron2
    "model.pyramid_channels": None,
    "model.pyramid_strides": [4, 8, 16, 32],
    "model.anchor_sizes": [32],
    "model.anchor_scales": [1, 2, 4, 8, 16],
    "model.train_proposer.candidates_per_level": 12000,
    "model.train_proposer.max_proposals": 2000,
    "model.proposer.candidates_per_level": 6000,
    "model.proposer.max_proposals": 1000,
    "model.pooled_size": 14,
    "model.lr": 0.02,
    "schedule.milestones": [12000, 16000],
    "schedule.warmup": "linear",
    "schedule.warmup_steps": 100,
    "schedule.warmup_factor": 0.001,
    "trainer.max_steps": 18000,
    "data.resize": 800,
    "data.multi_scale": [0.6, 1.0],  # 480 to 800
    "data.use_difficult": True,
}  # fmt: skip

R50_VOC0712: dict[str, Any] = {
    **_RESNET50, **_SHARED, **_FOLLOWERS, **_PYRAMID, **_VOC0712,
    # 4.4, and pascal_voc/faster_rcnn_r50_fpn_1x_voc0712 of mmdetection: 4 times 3 epochs, the rate falls after 9
    "model.train_proposer.max_proposals": 1000,
    "model.lr": 0.01,
    "schedule.milestones": [0.75],
    "schedule.warmup": None,
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": pytest.approx(1 / 3),
    "trainer.max_steps": 12413,
    "data.resize": 600,
    "data.multi_scale": None,
    "data.use_difficult": False,
}  # fmt: skip

VGG16_VOC07: dict[str, Any] = {
    **_SHARED,
    # 1.3.2
    "model.backbone._target_": "detectors.backbones.VGG16",
    "model.backbone.weights": "imagenet",
    "model.backbone.norm": None,
    "model.backbone.frozen_stages": 1,  # conv1 and conv2
    "model.backbone.fully_connected": True,
    "model.backbone.dropout": 0,  # use_drop False
    "model.backbone.caffe": False,
    "model.pyramid_channels": None,
    "model.pyramid_strides": [4, 8, 16, 32],
    "model.anchor_sizes": [128],
    "model.anchor_scales": [1, 2, 4],
    "model.grid_offset": 0.5,  # base anchor at (8, 8)
    "model.train_proposer.candidates_per_level": 12000,
    "model.train_proposer.max_proposals": 2000,
    "model.proposer.candidates_per_level": 6000,
    "model.proposer.max_proposals": 300,
    "model.proposer.min_size": pytest.approx(16 * 600 / 375),
    "model.train_proposer.min_size": pytest.approx(16 * 600 / 375),
    "model.pooling": "max",
    "model.pooled_size": 7,
    "model.aligned": True,  # of RoIAlign, which it does not have
    # 1.3.3
    "model.anchor_sampler.inside_only": True,
    "model.rpn_loss.smooth_l1_beta": pytest.approx(1 / 9),  # sigma 3
    "model.region_sampler.num_samples": 128,
    "model.region_loss.smooth_l1_beta": 1,
    # 1.3.1, 1.3.4
    "data.batch_size": 1,
    "model.lr": pytest.approx(0.001),
    "optimizer.weight_decay": 0.0005,
    "optimizer.bias_lr_factor": 2,
    "optimizer.bias_decay_factor": 0,
    "schedule._target_": "lit_modules.schedules.constant",
    "schedule.warmup": None,
    "schedule.warmup_steps": 8000,  # 500 for 16 images; no effect without a warm-up
    "schedule.warmup_factor": pytest.approx(1 / 3),
    "trainer.max_steps": -1,
    "trainer.max_epochs": 14,
    "callbacks.back_to_best.at": 10 / 14,
    "callbacks.back_to_best.factor": 0.1,
    # 1.3.1, 1.3.5
    "model.decoder.nms_threshold": 0.3,
    "model.decoder.max_detections": 300 * 20,  # "no cap"
    "data._target_": "datamodules.voc.VocDataModule",
    "data.train_split": "2007_trainval",
    "data.val_split": "2007_test",
    "data.test_split": "2007_test",
    "data.num_classes": 20,
    "data.resize": 600,
    "data.multi_scale": None,
    "data.use_difficult": False,
}

TABLES = {
    "faster_rcnn_r50_1x": R50_1X,
    "faster_rcnn_r101_1x": R50_1X | {"model.backbone.depth": 101},
    "faster_rcnn_r50_c4_voc0712": C4_VOC0712,
    "faster_rcnn_r50_voc0712": R50_VOC0712,
    "faster_rcnn_vgg16_voc07": VGG16_VOC07,
}
AP = {
    "faster_rcnn_r50_1x": 36.8,
    "faster_rcnn_r101_1x": 39.1,
    "faster_rcnn_r50_c4_voc0712": 80.3,
    "faster_rcnn_r50_voc0712": 79.5,
    "faster_rcnn_vgg16_voc07": 70.1,
}
"""4.3 and 4.4; those of VOC are mAP at IoU 0.5."""

_1X = {
    0: 0.02 / 3, 250: 0.02 * 2 / 3, 500: 0.02, 59999: 0.02, 60000: 2e-3, 79999: 2e-3, 80000: 2e-4, 89999: 2e-4,
}  # fmt: skip
RATES = {
    "faster_rcnn_r50_1x": _1X,
    "faster_rcnn_r101_1x": _1X,
    "faster_rcnn_r50_c4_voc0712": {0: 2e-5, 100: 0.02, 11999: 0.02, 12000: 2e-3, 15999: 2e-3, 16000: 2e-4, 17999: 2e-4},
    "faster_rcnn_r50_voc0712": {0: 0.01, 9309: 0.01, 9310: 1e-3, 12412: 1e-3},
    "faster_rcnn_vgg16_voc07": {0: 0.001, 70153: 0.001},
}
"""Rates of weights by iteration; in the last recipe `back_to_best` reduces the rate."""
RULES = {
    "faster_rcnn_r50_1x": "short_side 800 (long side at most 1333)",
    "faster_rcnn_r101_1x": "short_side 800 (long side at most 1333)",
    "faster_rcnn_r50_c4_voc0712": "short_side 800 (long side at most 1333)",
    "faster_rcnn_r50_voc0712": "short_side 600 (long side at most 1000)",
    "faster_rcnn_vgg16_voc07": "short_side 600 (long side at most 1000)",
}
