"""Mistakes in a composed config are reported at once, by name, with what was expected."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checked import checked
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from boxwright.config import files
from boxwright.config.errors import with_key
from boxwright.config.limits import LIMITS
from boxwright.config.resolvers import register_resolvers


@pytest.fixture(autouse=True)
def _clean_hydra() -> Iterator[None]:
    register_resolvers()
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def problems_of(*overrides: str, config_name: str = "train", needed: tuple[str, ...] = ("data.root=x",)) -> str:
    """The message of the check for a composed config, as inside `hydra.main`; empty when it passes."""
    with initialize_config_dir(str(files.CONF), version_base="1.3"):
        return checked(compose(config_name, [*needed, *overrides], return_hydra_config=True))[1]


# The composed config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+data.resiez=3", "data.resiez (): no such setting; nearest is data.resize"),
        ("++model.lrr=3", "model.lrr (): no such setting; nearest is model.lr"),
        ("+modle.lr=3", "modle (): no such setting; nearest is model"),
        ("+resize=3", "resize (): no such setting; nearest is data.resize"),
        ("data.resize=[3]", "data.resize=[3] (): expected an integer"),
        ("data.resize=8.5", "data.resize=8.5 (): expected an integer"),
        ("data.resize=true", "data.resize=True (): expected an integer"),
        ("data.resize=null", "data.resize=None (): expected an integer"),
        ("data.num_classes=x", "data.num_classes='x' (): expected an integer"),
        ("data.flip=often", "data.flip='often' (): expected a number"),
        ("channels_last=1", "channels_last=1 (): expected true or false"),
        ("data.multi_scale=1", "data.multi_scale=1 (): expected a list, each a number or null"),
        ("data.augmentations=[a]", "data.augmentations=['a'] (): expected a mapping of named nodes, or null"),
        ("+data.augmentations.a._target_=torch.A", "data.augmentations.a={'_target_': 'torch.A'} ():"),
        ("model.loss.center_sampling=x", "model.loss.center_sampling='x' (): expected a number or null"),
        (
            "model.loss.box_loss=gio",
            "model.loss.box_loss='gio' (): expected iou or linear_iou or giou; nearest is giou",
        ),
        ("data.rule=squar", "data.rule='squar' (): expected short_side or square; nearest is square"),
        ("schedule.warmup=liner", "expected linear or constant or null; nearest is linear"),
        ("trainer.precision=bf16-true", "expected 32-true or bf16-mixed or 16-mixed or null"),
        ("trainer.max_time=900", "trainer.max_time=900 (): expected a text or null"),
        ("data.root=${nothing}", "data.root=${nothing} (): Interpolation key 'nothing' not found"),
        ("callbacks.averaging=null", "callbacks.averaging=None (): expected a mapping with _target_, decay"),
        ("model._target_=torch.nn.Linear", "model._target_='torch.nn.Linear' (): expected lit_modules.fcos."),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0 (): expected 1 or more"),
        ("trainer.num_nodes=0", "trainer.num_nodes=0 (): expected 1 or more"),
        ("trainer.devices=0", "trainer.devices=0 (): expected 1 or more, -1 or auto for all there are, or a list of"),
        ("trainer.devices=[]", "trainer.devices=[] (): expected 1 or more"),
        ("trainer.devices=all", "trainer.devices='all' (): expected 1 or more"),
        ("trainer.max_steps=0", "trainer.max_steps=0 (): expected 1 or more, or -1 to train until trainer.max_epochs"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 (): expected 1 or more, or -1 to train until trainer.max_steps"),
        ("trainer.limit_train_batches=0", "limit_train_batches=0 (): expected 1 or more batches, or a fraction"),
        ("trainer.limit_train_batches=-1", "limit_train_batches=-1 (): expected 1 or more batches, or a fraction"),
        (
            "trainer.limit_val_batches=0.0",
            "limit_val_batches=0.0 (): expected 1 or more batches, or a fraction of them",
        ),
        (
            "trainer.limit_val_batches=1.5",
            "limit_val_batches=1.5 (): expected 1 or more batches, or a fraction of them",
        ),
        ("trainer.limit_test_batches=0", "up to 1.0; test=false leaves the test out"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0 (): expected 1 or more optimizer steps"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0 (): expected 1 or more"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1 (): expected 0 or more, or null"),
        ("trainer.max_time=abc", "trainer.max_time='abc' (): expected days:hours:minutes:seconds"),
        (
            "trainer.max_time='00:00:00:00'",
            "trainer.max_time='00:00:00:00' (): expected days:hours:minutes:seconds over",
        ),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1 (): expected 0 or more"),
        (
            "schedule.milestones=[0.5,-1]",
            "schedule.milestones=[0.5, -1] (): expected steps, or fractions of the run, of",
        ),
        ("seed=-1", "seed=-1 (): expected 0 to 4294967295"),
        ("seed=4294967296", "seed=4294967296 (): expected 0 to 4294967295"),
        ("name=", "name='' (): expected the name of a folder below runs/"),
        ("name=../x", "name='../x' (): expected the name of a folder below runs/"),
        ("name=/x", "name='/x' (): expected the name of a folder below runs/"),
        ("data.train_split=2017", "data.train_split=2017 (): expected a text: \"data.train_split='2017'\""),
    ],
)
def test_a_mistake_is_named_with_its_origin_and_what_was_expected(override: str, says: str) -> None:
    assert says.replace("()", f"(command line, {override})") in problems_of(override)


NONSENSE: dict[str, Any] = {
    "model.num_convs": -1, "model.head_convs": -1, "model.pyramid_channels": 0, "model.head_channels": 0,
    "model.grid_offset": 2, "model.backbone.groups": 0, "model.backbone.width_per_group": 0,
    "model.loss.center_sampling": 0, "model.loss.focal_alpha": -1, "model.loss.focal_gamma": -1,
    "model.loss.box_loss_weight": -1, "model.anchor_sampler.positive_fraction": 0,
    "model.region_sampler.positive_fraction": 0, "model.train_proposer.min_size": -1, "model.proposer.min_size": -1,
    "model.decoder.min_size": -1, "data.num_classes": 0, "data.flip": 1.5, "data.vertical_flip": -0.5,
    "data.min_box": -1, "data.train_images": 0, "data.val_images": 0, "data.image_size": 63, "optimizer.momentum": 2,
    "optimizer.weight_decay": -1, "optimizer.bias_lr_factor": -1, "optimizer.bias_decay_factor": -1,
    "optimizer.norm_decay_factor": -1, "optimizer.backbone_lr_factor": -1, "schedule.milestones": [1.5],
    "schedule.gamma": -1, "schedule.warmup_steps": -1, "schedule.warmup_factor": 2, "schedule.final_factor": -1,
    "schedule.patience": -1, "schedule.factor": 2, "schedule.threshold": -1,
}  # fmt: skip
"""Values that no constructor would refuse, and that would train on nothing, away from the minimum, or not at all."""


def test_values_that_would_train_nonsense_are_beyond_the_limits_of_settings_that_exist() -> None:
    known = set[str]()
    for choices in (
        ("model=fcos", "data=shapes"), ("model=retinanet", "data=coco", "schedule=cosine"),
        ("model=faster_rcnn", "schedule=plateau"),
    ):  # fmt: skip
        with initialize_config_dir(str(files.CONF), version_base="1.3"):
            known |= files.flat(compose("train", list(choices))).keys()
    for key, value in NONSENSE.items():
        is_legal, expected = LIMITS[key]
        assert key in known
        assert not is_legal(value), key
        assert expected
    chosen = LIMITS.keys() - NONSENSE.keys()
    assert not {key for key in chosen if key.startswith(("model.", "data.", "optimizer.", "schedule."))}


def test_a_constructors_own_message_has_the_key_of_its_argument() -> None:
    node = {"_target_": "detectors.fcos.FCOSDecoder", "nms_threshold": 2.0}
    for config in ({"model": {"decoder": node}}, {"decoder": node}):  # from the whole config, and from the model's node
        with pytest.raises(InstantiationException) as error:
            instantiate(config)
        assert with_key(error.value) == "model.decoder.nms_threshold=2.0: expected 0 <= nms_threshold <= 1"
    with pytest.raises(InstantiationException) as error:
        instantiate({"data": {"_target_": "datamodules.shapes.ShapesDataModule", "resize": 0}})
    assert with_key(error.value) == "data.resize=0: expected 1 or more"


@pytest.mark.parametrize(
    "override",
    [
        "model.lr=1",
        "model.loss.center_sampling=2",
        "model.loss.center_sampling=null",
        "model.head_norm=null",
        "data.multi_scale=[0.8,1]",
        "data.classes=[cat,dog]",
        "schedule.milestones=[0.5,8000]",
        "schedule.warmup=null",
        "trainer.devices=8",
        "trainer.devices=[0,1]",
        "trainer.val_check_interval=null",
        "trainer.max_time='00:00:15:00'",
        "trainer.gradient_clip_val=1",
        "model.lr=${optimizer.weight_decay}",
        "model.backbone.weights=weights.pth",
        "+data.augmentations.blur={_target_:albumentations.Blur,p:0.1}",
        "~callbacks.averaging",
        "callbacks.checkpoints.monitor=val/loss callbacks.checkpoints.mode=min",
        "callbacks.checkpoints.monitor=val/AP_class/anything",
        "data=voc callbacks.checkpoints.monitor=val/mAP_voc07",
        "data=voc callbacks.checkpoints.monitor=val/AP_class/sheep",
        "resume=last",
        "trainer.devices=-1 trainer.max_steps=-1 trainer.max_epochs=1",
        "trainer.devices=auto trainer.limit_val_batches=1 trainer.limit_train_batches=0.5",
        "trainer.devices='0,1' seed=4294967295 trainer.gradient_clip_val=0",
        "name=a/b_1.2",
        "model=classifier data=imagefolder",
        "model=classifier data=imagefolder callbacks.checkpoints.monitor=val/top5",
    ],
)
def test_legal_overrides_pass(override: str) -> None:
    assert problems_of(*override.split(" ")) == ""


def test_a_run_without_an_end_is_refused() -> None:
    assert "trainer.max_steps=-1 and trainer.max_epochs=-1: the schedule follows" in problems_of("trainer.max_steps=-1")


def test_all_mistakes_are_listed_at_once() -> None:
    said = problems_of("model.lr=x", "data.flip=x", "+seeed=3").splitlines()
    assert [line.split("=")[0].split(" (")[0] for line in said[1:]] == [
        "  - model.lr",
        "  - data.flip",
        "  - seeed",
    ]


def test_a_value_that_a_recipe_leaves_to_the_command_line_is_asked_for() -> None:
    said = problems_of("experiment=retinanet_sq1000_from667")
    assert "init_from is missing; give init_from=... (a checkpoint of retinanet_sq667)" in said
    assert not problems_of("experiment=retinanet_sq1000_from667", "init_from=last.ckpt")


def test_a_missing_value_is_reported_with_the_comment_of_its_file() -> None:
    assert "data.root is missing; give data.root=... (folder that" in problems_of(needed=())


@pytest.mark.parametrize(
    ("data", "monitor", "says"),
    [
        (
            "imagefolder model=classifier",
            "val/AP",
            "no metric of this data set; there are val/loss, val/top1, val/top5, val/loss_*",
        ),
        (
            "coco",
            "val/ap",
            "no metric of this data set; nearest is val/AP; there are val/loss, val/AP, val/AP50",
        ),
        ("coco", "val/mAP_voc", "no metric of this data set"),
        (
            "voc",
            "val/AP_class/sheeep",
            "no metric of this data set; nearest is val/AP_class/sheep; there are",
        ),
        (
            "coco",
            "val/loss",
            "mode='max' (conf/callbacks/default.yaml): expected min, where val/loss is best",
        ),
    ],
)
def test_a_monitor_that_no_validation_will_produce_is_refused(data: str, monitor: str, says: str) -> None:
    assert says in problems_of(*f"data={data}".split(" "), f"callbacks.checkpoints.monitor={monitor}")


def test_boxes_and_classes_of_whole_images_are_not_mixed() -> None:
    assert (
        "data=imagefolder has a class for each image and no boxes: give model=classifier, or a data set with boxes"
        in (problems_of("data=imagefolder"))
    )
    assert "model=classifier needs a class for each image: give data=imagefolder" in problems_of("model=classifier")
    found = problems_of("predictions=x.json", "data=imagefolder", config_name="evaluate")
    assert "a results file has boxes, and an image folder has none" in found


def test_a_config_without_data_or_callbacks_passes() -> None:
    assert problems_of("checkpoint=best.ckpt", config_name="evaluate", needed=()) == ""
    assert "expected val or test" in problems_of("split=tst", config_name="evaluate", needed=())


# Files


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ to write into."""
    copied = tmp_path / "conf"
    shutil.copytree(files.CONF, copied)
    monkeypatch.setattr(files, "CONF", copied)
    return copied


HEAD = "# @package _global_\ndefaults:\n  - override /data: voc\n\n"


def test_a_mistake_in_a_recipe_names_the_recipe(conf: Path) -> None:
    (conf / "experiment/mine.yaml").write_text(f"{HEAD}data:\n  resiez: 3\n  flip: often\n")
    said = problems_of("experiment=mine")
    assert "data.resiez (conf/experiment/mine.yaml): no such setting; nearest is data.resize" in said
    assert "data.flip='often' (conf/experiment/mine.yaml): expected a number" in said


def test_a_mistake_in_the_recipe_that_a_recipe_starts_from_names_that_one(conf: Path) -> None:
    (conf / "experiment/base.yaml").write_text(f"{HEAD}data:\n  resiez: 3\n")
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - base\n  - _self_\n\ndata:\n  flip: 0.1\n"
    )
    assert "data.resiez (conf/experiment/base.yaml)" in problems_of("experiment=mine")


def test_a_recipe_without_its_package_line_is_refused_with_the_remedy(conf: Path) -> None:
    (conf / "experiment/mine.yaml").write_text("data:\n  flip: 0.1\n")
    assert "must begin with the line `# @package _global_`" in problems_of("experiment=mine")


def test_a_users_group_file_is_checked_against_the_signature(conf: Path) -> None:
    text = (conf / "data/voc.yaml").read_text()
    (conf / "data/mine.yaml").write_text(
        f"{text}use_dificult: true\nother_classes: keep\n".replace("other_classes: raise", "")
    )
    said = problems_of("data=mine")
    assert "data.use_dificult=True (conf/data/mine.yaml): datamodules.voc.VocDataModule has no such parameter" in said
    assert "nearest is use_difficult" in said
    assert "data.other_classes='keep' (conf/data/mine.yaml): expected raise or drop" in said


def test_a_target_that_does_not_exist_is_refused(conf: Path) -> None:
    (conf / "schedule/mine.yaml").write_text("_target_: lit_modules.schedules.cosin\n_partial_: true\n")
    assert "schedule._target_='lit_modules.schedules.cosin' (conf/schedule/mine.yaml)" in problems_of("schedule=mine")


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        ("data=shapes model.num_classes=6", (6, 5)),
        ("model.num_classes=79", (79, 80)),
        ("data.classes=[a,b] model.num_classes=3", (3, 2)),
        ("model=retinanet data=voc model.num_classes=21", (21, 20)),
        ("model=faster_rcnn data=voc model.num_classes=19", (19, 20)),
        ("model=classifier data=imagefolder model.num_classes=10", (10, 1000)),
    ],
)
def test_a_model_of_other_classes_than_its_data_is_refused(overrides: str, numbers: tuple[int, int]) -> None:
    model, data = numbers
    line = f"model.num_classes={model}"
    said = problems_of(*overrides.split(" "))
    assert f"{line} (command line, {line}), but data.num_classes={data}: " in said


def test_a_model_of_as_many_classes_as_its_data_passes() -> None:
    assert problems_of("data.num_classes=3", "model.num_classes=3") == ""
    assert problems_of("data.classes=[a,b]", "model.num_classes=2") == ""


def test_num_classes_follows_the_list_of_classes() -> None:
    cfg = OmegaConf.create({"classes": None, "single": None, "n": "${num_classes:${.classes},80,${.single}}"})
    assert cfg.n == 80
    cfg.classes = ["a", "b"]
    assert cfg.n == 2
    cfg.single = "object"
    assert cfg.n == 1
