"""The data set on which a checkpoint is scored: settings from the checkpoint, and settings from the command line."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from tiny_checkpoint import write_checkpoint

from boxwright.config import from_checkpoint
from boxwright.config.errors import ConfigError
from boxwright.config.files import CONF
from boxwright.config.from_checkpoint import data_set
from boxwright.config.resolvers import register_resolvers
from boxwright.evaluate.data import data_config, refuse_incomplete


def given(*overrides: str) -> DictConfig:
    """The config of `python evaluate.py OVERRIDES`, inside Hydra's main."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@pytest.fixture(autouse=True)
def _without_hydra():
    yield
    HydraConfig.instance().cfg = None


def stored(kind: str, **changes: Any) -> dict[str, Any]:
    """The data settings of a run."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"data={kind}", "data.root=/trained"])
    data = OmegaConf.to_container(cfg.data, resolve=True)
    return {**data, "num_workers": 9, "cache_dir": "/cache", **changes}


COCO = {"annotations": "labels/{split}.json", "images": "pics/{split}", "val_split": "v", "test_split": "t"}


def test_for_the_same_kind_of_data_settings_not_given_come_from_the_checkpoint() -> None:
    trained = stored(
        "coco", **COCO, resize=320, rule="square", eval_batch_size=3, classes=["cat", "dog"], num_classes=2, seed=5,
        on_error="skip", flip=0.1, augmentations={"a": {"_target_": "albumentations.Blur"}},
    )  # fmt: skip
    data, taken = data_config(given("data=coco", "data.root=/here", "data.test_split=other"), trained)
    of_the_machine = {"root": "/here", "num_workers": 2, "cache_dir": None}
    assert data == {**trained, **of_the_machine, "test_split": "other", "augmentations": None}
    told = {"resize", "rule", "eval_batch_size", "annotations", "images", "classes", "on_error"}
    assert taken == {key: trained[key] for key in told}
    _, taken = data_config(given("data=coco", "data.root=/here", "split=val"), trained)
    assert taken == {key: trained[key] for key in (*told, "val_split")}


def test_a_given_setting_is_used_even_if_it_equals_the_default() -> None:
    data, taken = data_config(given("data=coco", "data.root=/here", "data.resize=800"), stored("coco", resize=320))
    assert data["resize"] == 800
    assert taken == {}


def test_for_another_kind_of_data_only_sizes_and_batches_come_from_the_checkpoint() -> None:
    trained = stored(
        "voc",
        resize=320,
        rule="square",
        eval_batch_size=3,
        on_error="skip",
        test_split="mine",
        exif="ignore",
        value_range=[0, 4095],
    )
    data, taken = data_config(given("data=coco", "data.root=/here"), trained)
    assert taken == {"resize": 320, "rule": "square", "eval_batch_size": 3, "value_range": [0, 4095]}
    assert data == {**stored("coco", root="/here", num_workers=2, cache_dir=None, seed=0), **taken}


def test_without_a_data_set_the_checkpoints_is_scored() -> None:
    trained = stored("voc", resize=320, augmentations={"a": {"_target_": "albumentations.Blur"}})
    assert data_config(given(), trained) == ({**trained, "augmentations": None}, {})


def test_the_number_of_classes_follows_from_given_classes() -> None:
    trained = stored("coco", classes=["cat", "dog"], num_classes=2)
    data, _ = data_config(given("data=coco", "data.root=/here", "data.classes=[a,b,c]"), trained)
    assert (data["classes"], data["num_classes"]) == (["a", "b", "c"], 3)
    assert data_config(given("data=coco", "data.root=/here"), trained)[0]["num_classes"] == 2


@pytest.mark.parametrize(
    ("overrides", "fraction"),
    [
        (["split=val"], 0.1),
        (["split=val", "data.val_split=v"], None),
        (["split=val", "data.test_split=t"], 0.1),
        (["split=test", "data.test_split=t"], None),
        (["split=test", "data.test_split=null"], 0.1),
        (["split=test", "data.val_split=v", "data.val_fraction=0.2"], 0.2),
    ],
)
def test_a_given_split_is_scored_instead_of_the_held_out_part(overrides, fraction) -> None:
    trained = stored("coco", val_fraction=0.1, seed=5)
    data, _ = data_config(given("data=coco", "data.root=/here", *overrides), trained)
    assert (data["val_fraction"], data["seed"]) == (fraction, 5)
    assert data_config(given("data=coco", "data.root=/here", "seed=7"), trained)[0]["seed"] == 7


def test_settings_without_a_data_set_apply_to_the_checkpoints(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "it's.ckpt", 'data.root="a place, it\'s here"')
    checkpoint = f'checkpoint="{path}"'
    argv = data_set([checkpoint, "data.resize=64"])
    assert argv[:3] == [checkpoint, "data.resize=64", "data=shapes"]
    assert given(*argv).data.root == "a place, it's here"
    assert data_set([checkpoint, "data.root=there", "--cfg", "job"])[-1] == "data=shapes"


@pytest.mark.parametrize(
    "argv",
    [
        ["checkpoint=none.ckpt"],
        ["checkpoint=none.ckpt", "split=val", "output=data.root"],
        ["checkpoint=none.ckpt", "data=coco", "data.root=x"],
        ["predictions=found.json", "data.root=x"],
        ["-m", "checkpoint=a.ckpt,b.ckpt", "data.root=x"],
        ["checkpoint=none.ckpt", "data.root=a b{"],
    ],
)
def test_other_command_lines_stay_as_they_are(argv) -> None:
    assert data_set(argv) == argv


def test_a_checkpoint_of_a_data_set_without_a_file_in_conf_is_named(tmp_path: Path, monkeypatch) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt")
    monkeypatch.setattr(from_checkpoint, "options", lambda group: ["coco", "voc"])
    with pytest.raises(ConfigError, match=r"shapes\.ShapesDataModule, has no file in conf/data; give .* coco, voc$"):
        data_set([f"checkpoint={path}", "data.root=x"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give either checkpoint=FILE.ckpt or predictions=FILE.json"),
        (["checkpoint=a", "predictions=b"], "give either"),
        (["checkpoint="], "give either"),
        (["predictions=b"], "needs a data set: data=coco data.root=FOLDER"),
        (["predictions=b", "data=coco", "data.root=x"], "predictions=b: no such file, seen from"),
        (["checkpoint=."], "checkpoint=. is a folder; give that of a run, checkpoint=RUN/checkpoints/best.ckpt"),
    ],
)
def test_missing_arguments_are_named(overrides, message) -> None:
    with pytest.raises(ConfigError) as raised:
        refuse_incomplete(given(*overrides))
    assert message in str(raised.value)


def test_a_checkpoint_is_not_scored_on_data_of_the_other_task() -> None:
    with pytest.raises(
        ConfigError, match=r"x\.ckpt is the checkpoint of a classifier; .* data set with classes of whole images"
    ):
        data_config(given("checkpoint=x.ckpt", "data=coco", "data.root=/here"), stored("imagefolder"))
    with pytest.raises(
        ConfigError, match=r"x\.ckpt is the checkpoint of a detector; .* with boxes, which an image folder lacks"
    ):
        data_config(given("checkpoint=x.ckpt", "data=imagefolder", "data.root=/here"), stored("coco"))
