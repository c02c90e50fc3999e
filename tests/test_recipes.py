"""Every recipe of conf/experiment trains, and has the settings of its source."""

import re
import shlex

import faster_rcnn_recipes as faster_rcnn
import pytest
import retinanet_recipes as retinanet
import torch
from composing import A_FEW, RECIPES, built, composed, random_batch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiers import slow_but
from torch.optim.lr_scheduler import LambdaLR

from boxwright.config.files import CONF, flat

FCOS_R50_1X = {
    # reference/SOURCES.md 1.1.4: the solver of the FCOS configs
    "data.batch_size": 16,
    "model.lr": 0.01,
    "optimizer._target_": "lit_modules.optimizers.sgd",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0001,
    "optimizer.bias_lr_factor": 2,
    "optimizer.bias_decay_factor": 0,  # WEIGHT_DECAY_BIAS 0
    "optimizer.norm_decay_factor": 1,  # "GroupNorm weights and Scale get full decay"
    "optimizer.backbone_lr_factor": 1,
    "optimizer.backbone_layer_decay": 1,
    "schedule._target_": "lit_modules.schedules.multistep",
    "schedule.milestones": [60000, 80000],
    "schedule.gamma": 0.1,
    "schedule.warmup": "constant",
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": pytest.approx(1 / 3),
    "trainer.max_steps": 90000,
    "trainer.max_epochs": -1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "callbacks.checkpoints.every_steps": 2500,
    "callbacks.averaging.decay": None,
    # 1.1.2, 1.1.3: the input
    "data._target_": "datamodules.coco.CocoDataModule",
    "data.train_split": "train2017",  # the images of trainval35k
    "data.val_split": "val2017",  # those of minival
    "data.classes": None,
    "data.num_classes": 80,
    "data.rule": "short_side",
    "data.resize": 800,
    "data.multi_scale": None,
    "data.flip": 0.5,
    "data.vertical_flip": 0,
    "data.augmentations": None,
    "data.empty_images": "drop",
    "data.min_box": 1,
    # 1.1.4, 1.1.5: the backbone; torchvision's weights have their strides in the 3x3 convolutions
    "model.backbone._target_": "detectors.backbones.ResNet",
    "model.backbone.depth": 50,
    "model.backbone.weights": "imagenet",
    "model.backbone.norm": "frozen_bn",
    "model.backbone.frozen_stages": 2,  # FREEZE_CONV_BODY_AT 2
    # 1.1.5: pyramid, head, losses and decoder
    "model._target_": "lit_modules.fcos.FCOSModule",
    "model.pyramid_channels": 256,
    "model.p6_from": "p5",  # USE_C5 False
    "model.num_convs": 4,
    "model.head_norm": "gn",
    "model.prior": 0.01,
    "model.loss.center_sampling": None,
    "model.loss.size_ranges": [[-1, 64], [64, 128], [128, 256], [256, 512], [512, 1e8]],  # INF 100000000
    "model.normalize_targets": False,
    "model.centerness_on_box": False,
    "model.deformable_towers": False,
    "model.grid_offset": 0.5,
    "model.spread_grid": False,
    "model.decoder.threshold_product": False,
    "model.loss.box_loss": "iou",
    "model.loss.focal_alpha": 0.25,
    "model.loss.focal_gamma": 2,
    "model.decoder.score_threshold": 0.05,
    "model.decoder.nms_threshold": 0.6,
    "model.decoder.candidates_per_level": 1000,
    "model.decoder.max_detections": 100,
}
IMPROVED = {  # 1.1.5, "imprv"
    "model.loss.center_sampling": 1.5,
    "model.normalize_targets": True,
    "model.centerness_on_box": True,
    "model.loss.box_loss": "giou",
}
R101_2X = {  # 1.1.3 and 1.1.4, "2x": MIN_SIZE_RANGE_TRAIN (640, 800)
    "model.backbone.depth": 101,
    "schedule.milestones": [120000, 160000],
    "trainer.max_steps": 180000,
    "data.multi_scale": [0.8, 1.0],
}
MOBILENETV2 = {  # 1.1.10, 1.1.11: batch norm that trains, FREEZE_CONV_BODY_AT 0
    "model.backbone._target_": "detectors.backbones.MobileNetV2",
    "model.backbone.depth": None,
    "model.backbone.norm": "bn",
    "model.backbone.frozen_stages": 0,
}
PUBLISHED = {
    "fcos_r50_1x": FCOS_R50_1X,
    "fcos_imprv_r50_1x": FCOS_R50_1X | IMPROVED,
    "fcos_r101_2x": FCOS_R50_1X | R101_2X,
    "fcos_imprv_r101_2x": FCOS_R50_1X | R101_2X | IMPROVED,
    "fcos_mobilenetv2_1x": FCOS_R50_1X | MOBILENETV2,
    **retinanet.TABLES,
    **faster_rcnn.TABLES,
}
AP = {
    "fcos_r50_1x": 37.1,
    "fcos_imprv_r50_1x": 38.7,
    "fcos_r101_2x": 41.4,
    "fcos_imprv_r101_2x": 43.0,
    "fcos_mobilenetv2_1x": 31.0,
    **retinanet.AP,
    **faster_rcnn.AP,
}
"""1.1.11: what the authors of each recipe report."""


def _rates(first: int, second: int, end: int) -> dict[int, float]:
    """A third of the rate for 500 iterations, the full rate to the first milestone, then a tenth, then a hundredth."""
    return {
        0: 0.01 / 3, 499: 0.01 / 3, 500: 0.01, first - 1: 0.01, first: 1e-3, second - 1: 1e-3, second: 1e-4,
        end - 1: 1e-4,
    }  # fmt: skip


RATES = (
    {
        recipe: _rates(120000, 160000, 180000) if "_2x" in recipe else _rates(60000, 80000, 90000)
        for recipe in PUBLISHED
        if recipe.startswith("fcos_")
    }
    | retinanet.RATES
    | faster_rcnn.RATES
)
RULES = dict.fromkeys(PUBLISHED, "short_side 800 (long side at most 1333)") | retinanet.RULES | faster_rcnn.RULES


def head(recipe: str) -> str:
    """The comment at the top of a recipe's file, as one line without comment marks."""
    lines = (CONF / "experiment" / f"{recipe}.yaml").read_text().splitlines()
    length = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in lines[:length])


def published_ap(recipe: str) -> float | None:
    """The AP that a recipe's head says somebody else has reached."""
    found = re.search(r"\bm?AP (\d+\.\d+) on (?:COCO|VOC)", head(recipe))
    return float(found[1]) if found else None


def test_recipes_that_aim_at_a_published_ap_are_those_of_the_table():
    claimed = {recipe: published_ap(recipe) for recipe in RECIPES}
    assert {recipe: ap for recipe, ap in claimed.items() if ap is not None} == AP
    assert PUBLISHED.keys() - {"retinanet_voc257"} == AP.keys()


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_published_recipe_has_every_setting_of_its_source(recipe):
    cfg = composed(f"experiment={recipe}")
    found = {key: OmegaConf.select(cfg, key) for key in PUBLISHED[recipe]}
    assert found == PUBLISHED[recipe]
    # a knob that is added later has to be looked up in the source, and entered above
    parts = {key for key in flat(cfg) if key.startswith(("model.", "optimizer.", "schedule."))}
    elsewhere = ("model.backbone.", "model.optimizer.", "model.schedule.")
    knobs = {key for key in parts if not key.startswith(elsewhere) and not key.rpartition(".")[2].startswith("_")}
    assert knobs - PUBLISHED[recipe].keys() == {"model.num_classes"}


@pytest.mark.parametrize("recipe", RATES)
def test_a_published_recipe_runs_at_the_rates_of_its_source(recipe):
    cfg = composed(f"experiment={recipe}")
    module = built(cfg, device="meta")
    optimizer = module.make_optimizer(module.network, module.lr)
    schedule = module.make_schedule(optimizer, cfg.trainer.max_steps)
    assert isinstance(schedule, LambdaLR)
    for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True):
        found = {i: base * factor(i) for i in RATES[recipe]}
        assert found == pytest.approx({i: base / cfg.model.lr * rate for i, rate in RATES[recipe].items()})
    assert sorted(schedule.base_lrs) == sorted({cfg.model.lr, cfg.model.lr * cfg.optimizer.bias_lr_factor})


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_published_recipe_sees_images_at_the_size_of_its_source(recipe):
    datamodule = instantiate(composed(f"experiment={recipe}").data)
    assert datamodule.rule_name == RULES[recipe]


@pytest.mark.parametrize("recipe", A_FEW)
def test_the_command_in_a_recipes_head_is_its_own(recipe):
    (command,) = re.findall(rf"python train\.py (experiment={recipe}(?: \S+=\S+)*)", head(recipe))
    assert composed(*shlex.split(command)).name == recipe


@pytest.mark.parametrize(
    "recipe", slow_but("fcos_mobilenetv2_1x", "fcos_imprv_r50_1x", "retinanet_r50_1x", "faster_rcnn_r50_1x", of=RECIPES)
)
def test_a_recipe_takes_a_training_step(recipe):
    cfg = composed(f"experiment={recipe}")
    assert sum(parameter.numel() for parameter in built(cfg, device="meta").network.parameters()) > 1e6
    if "region_sampler" in cfg.model:
        cfg.model.region_sampler.num_samples = 32  # of a head that is a ResNet's last stage, 512 take minutes
    module = built(cfg)
    batch = random_batch(2, cfg.data.num_classes)
    trained = {name: parameter for name, parameter in module.network.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = module.make_optimizer(module.network, module.lr)
    schedule = module.make_schedule(optimizer, cfg.trainer.max_steps)

    losses = module.losses(module.forward_batch(batch), batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values()), losses
    missing = [n for n, parameter in trained.items() if parameter.grad is None or not parameter.grad.isfinite().all()]
    assert not missing
    if cfg.trainer.gradient_clip_val:
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), cfg.trainer.gradient_clip_val)
    optimizer.step()
    schedule.step()
    assert all(parameter.isfinite().all() for parameter in module.network.parameters())
    moved = [n for n, p in trained.items() if n.endswith("weight") and not torch.equal(p, before[n])]
    # the coarsest level has so small a gradient that a warm-up's first step may leave it where it was
    assert len(moved) > 0.9 * sum(name.endswith("weight") for name in trained)


PRETRAINING = {
    # reference/SOURCES.md 1.4.1
    "data.batch_size": 128,
    "data.resize": 224,
    "data.crop_area": [0.53, 1.0],
    "data.color_jitter": 0.03,
    "data.flip": 0.5,
    "data.num_classes": 1000,
    "model._target_": "lit_modules.classifier.ClassifierModule",
    "model.lr": 0.1,
    "model.backbone.depth": 50,
    "model.backbone.weights": None,
    "model.backbone.norm": "bn",
    "model.backbone.frozen_stages": 0,
    "optimizer._target_": "lit_modules.optimizers.sgd",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0001,
    "optimizer.bias_lr_factor": 1,
    "optimizer.bias_decay_factor": 1,
    "optimizer.norm_decay_factor": 1,
    "optimizer.backbone_lr_factor": 1,
    "optimizer.backbone_layer_decay": 1,
    "schedule._target_": "lit_modules.schedules.multistep",
    "schedule.milestones": [150000, 300000],
    "schedule.gamma": 0.1,
    "schedule.warmup": None,
    "trainer.max_steps": 550000,
    "callbacks.checkpoints.monitor": "val/top1",
}


def test_the_pretraining_recipe_has_the_settings_and_rates_of_its_source():
    cfg = composed("experiment=pretrain_r50")
    assert {key: OmegaConf.select(cfg, key) for key in PRETRAINING} == PRETRAINING
    module = built(cfg, device="meta")
    optimizer = module.make_optimizer(module.network, module.lr)
    schedule = module.make_schedule(optimizer, cfg.trainer.max_steps)
    assert isinstance(schedule, LambdaLR)
    (base,), (factor,) = schedule.base_lrs, schedule.lr_lambdas
    rates = {0: 0.1, 149999: 0.1, 150000: 0.01, 299999: 0.01, 300000: 0.001, 549999: 0.001}
    assert {i: base * factor(i) for i in rates} == pytest.approx(rates)
