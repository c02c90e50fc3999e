"""Every file of conf/ composes, passes the check, and fits the signature of its target."""

import copy
import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from composing import A_FEW
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from boxwright.config import command_line
from boxwright.config.check import FREE, check
from boxwright.config.errors import ConfigError
from boxwright.config.files import CONF, keys, left_open, options, origin
from boxwright.config.resolvers import register_resolvers

GROUPS = sorted(
    str(file.relative_to(CONF).with_suffix(""))
    for file in CONF.glob("*/**/*.yaml")
    if file.parent.name != "experiment" and not file.stem.startswith("_")
)

CHOSEN_BY_FILE = {
    **dict.fromkeys(("resnext50", "resnext101_32x8d", "resnext101_64x4d"), ("groups", "width_per_group")),
    "roboflow": ("annotations", "images", "train_split", "val_split", "test_split"),
}
"""Parameters that, like a depth, say what a file is: a ResNeXt's are not a ResNet's defaults, nor Roboflow's folders
COCO's."""


@pytest.fixture(autouse=True)
def _in_hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets up the state inside `hydra.main`; composes once what depends only on group choices."""
    register_resolvers()
    cached = functools.cache(lambda name, overrides: compose(name, list(overrides)))
    monkeypatch.setattr(command_line, "compose", lambda name, overrides: cached(name, tuple(overrides)))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


_compose = functools.cache(lambda name, overrides: compose(name, list(overrides), return_hydra_config=True))


def composed(*overrides: str, config_name: str = "train") -> DictConfig:
    cfg = _compose(config_name, overrides)
    HydraConfig.instance().set_config(cfg)
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def recipe(name: str) -> DictConfig:
    cfg = composed(f"experiment={name}")
    if OmegaConf.is_missing(cfg.data, "root"):
        cfg.data.root = "somewhere"
    if "init_from" in left_open(f"experiment/{name}"):
        cfg.init_from = "some.ckpt"
    return cfg


def leaves(name: str) -> list[str]:
    """Dotted keys that a recipe's file sets, without those of transforms, which belong to albumentations."""
    content = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))
    content.pop("defaults", None)
    every = list(keys(content))
    ends = [key for key in every if not any(other.startswith(f"{key}.") for other in every)]
    return [key for key in ends if not key.startswith(tuple(FREE))]


@pytest.mark.parametrize("name", A_FEW)
def test_every_recipe_passes_the_check(name: str) -> None:
    check(recipe(name))


@pytest.mark.parametrize("name", A_FEW)
def test_the_head_of_a_recipe_has_its_command(name: str) -> None:
    head = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert head[0] == "# @package _global_"
    assert any(f"python train.py experiment={name}" in line for line in head if line.startswith("#"))


@pytest.mark.parametrize("name", A_FEW)
def test_every_key_of_a_recipe_misspelt_is_refused_by_name(name: str) -> None:
    """All keys are misspelt at once: each must be named."""
    wrong = recipe(name)
    for key in leaves(name):
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(wrong, parent) if parent else wrong
        with open_dict(node):
            node[last[:-1] + "zz"] = node.pop(last)
    with pytest.raises(ConfigError) as raised:
        check(wrong)
    lines = [line.lstrip(" -") for line in str(raised.value).splitlines()]
    for key in leaves(name):
        (line,) = [line for line in lines if line.startswith(f"{key[:-1]}zz (")]
        assert f"nearest is {key[:-1]}" in line or "." not in key  # AR10 is as near to AR10zz as AR100
    assert len(lines) >= len(leaves(name))


@pytest.mark.parametrize("name", A_FEW)
def test_every_value_of_a_recipe_of_another_type_is_refused_by_name(name: str) -> None:
    wrong = recipe(name)
    for key in leaves(name):
        value = OmegaConf.select(wrong, key)
        OmegaConf.update(wrong, key, 12345 if isinstance(value, str) else "nonsense" if value is not None else {"a": 1})
    with pytest.raises(ConfigError) as raised:
        check(wrong)
    lines = [line.lstrip(" -") for line in str(raised.value).splitlines()]
    for key in leaves(name):
        (line,) = [line for line in lines if line.startswith(f"{key}=")]
        assert f"conf/experiment/{name}.yaml" in line


def test_a_single_mistake_is_refused_as_well() -> None:
    """Only one key is wrong."""
    for key in leaves("fcos_r50_1x"):
        wrong = recipe("fcos_r50_1x")
        OmegaConf.update(wrong, key, {"a": 1})
        with pytest.raises(ConfigError, match=re.escape(key)):
            check(wrong)


@pytest.mark.parametrize("config_name", ["train", "evaluate", "predict", "inspect_data", "benchmark", "push"])
def test_the_defaults_pass_the_check(config_name: str) -> None:
    needed = {"predict": ["checkpoint=x", "source=x"], "push": ["checkpoint=x", "repo=a/b", "license=mit"]}
    check(composed(*needed.get(config_name, ["data=coco", "data.root=x"]), config_name=config_name))


PARTNERS = {"model/classifier": ["data=imagefolder"], "data/imagefolder": ["model=classifier"]}


@pytest.mark.parametrize("file", GROUPS)
def test_every_choice_of_every_group_passes_the_check(file: str) -> None:
    group, _, choice = file.rpartition("/")
    overrides = [f"{group}={choice}", *PARTNERS.get(file, ())] + ([] if file == "data/shapes" else ["data.root=x"])
    check(composed(*overrides))


def test_several_choices_of_a_group_pass_the_check_and_a_setting_is_of_its_own_file() -> None:
    check(composed("logger=[wandb, tensorboard,mlflow]", "data.root=x"))
    assert origin("logger.mlflow.experiment") == "conf/logger/mlflow.yaml"
    assert origin("logger.wandb.mode") == "conf/logger/wandb.yaml"
    with pytest.raises(ConfigError, match=r"logger\.mlflow\.experiment=1 .*: expected "):
        check(composed("logger=[csv,mlflow]", "data.root=x", "logger.mlflow.experiment=1"))


@pytest.mark.parametrize("file", GROUPS)
def test_a_group_file_names_the_parameters_of_what_it_feeds_with_their_defaults(file: str) -> None:
    group, _, choice = file.rpartition("/")
    nodes = list(targets(OmegaConf.select(composed(f"{group}={choice}"), group.replace("/", "."))))
    assert nodes
    for node, made in nodes:
        module, _, name = node._target_.rpartition(".")
        parameters = dict(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
        stated = {key for key in node if not key.startswith("_")}
        assert stated <= set(parameters)
        if module == "pytorch_lightning":
            continue
        given_in_python = {"folder"} if group == "logger" else set()
        for name, parameter in parameters.items():
            if made is not None:
                assert name in stated, f"{name} cannot be set from {file}"
                assert plain(node[name]) == plain(getattr(made, name)), f"{file}: {name}"
            elif parameter.default is not parameter.empty:
                assert name in stated, f"{name} cannot be set from {file}"
                if is_part(parameter.default):
                    assert node[name]._target_ == name_of(parameter.default), f"{file}: {name}"
                elif name in CHOSEN_BY_FILE.get(choice, ()):
                    continue
                elif not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
                    assert plain(node[name]) == plain(parameter.default), f"{file}: {name}"
            elif not node.get("_partial_"):
                assert name in stated | given_in_python, f"{file} lacks {name}"


def targets(node: DictConfig, made: Any = None) -> Iterator[tuple[DictConfig, Any]]:
    """The node that a group's file instantiates and its nested nodes; `backbone` is a group of its own.

    With each node comes the default that its parent's constructor has for it: a loss or a decoder with its own
    settings.
    """
    defaults: dict[str, Any] = {}
    if "_target_" in node:
        yield node, made
        module, _, name = node._target_.rpartition(".")
        signature = inspect.signature(getattr(importlib.import_module(module), name))
        defaults = {key: one.default for key, one in signature.parameters.items() if is_part(one.default)}
    for key in node:
        if key == "backbone" or OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if isinstance(node[key], DictConfig):
            yield from targets(node[key], defaults.get(key))


def is_part(default: Any) -> bool:
    return dataclasses.is_dataclass(default) and not isinstance(default, type)


def name_of(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__name__}"


def plain(value: Any) -> Any:
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("model", options("model"))
def test_a_model_of_a_config_is_that_of_a_constructor_without_arguments(model: str) -> None:
    """Losses, samplers and decoders are equal, whichever way they are made."""
    cfg = composed(f"model={model}", "data=shapes", "data.num_classes=1")
    module, _, name = cfg.model._target_.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    parts = {key: one.default for key, one in parameters.items() if is_part(one.default)}
    assert bool(parts) == (model != "classifier")
    for key, part in parts.items():
        made = instantiate(cfg.model[key], _convert_="all")
        assert type(made) is type(part)
        assert plain(list(dataclasses.asdict(made).values())) == plain(list(dataclasses.asdict(part).values()))
