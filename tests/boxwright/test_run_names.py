"""Names of the folders of a sweep's jobs."""

import pytest

from boxwright.runs.names import job_folder, safe_name


@pytest.mark.parametrize(
    ("overrides", "left_out", "folder"),
    [
        (["data.resize=667"], [], "data.resize=667"),
        (["model.lr=0.1", "data.resize=667"], [], "data.resize=667,model.lr=0.1"),  # the order does not matter
        (["data.resize=667", "name=a", "data.root=/data/x"], ["name", "data.root"], "data.resize=667"),
        (["model/backbone=resnet18"], [], "model.backbone=resnet18"),
        (["trainer.devices=2"], ["trainer.devices"], "defaults"),
    ],
)
def test_a_job_is_named_by_its_own_overrides(overrides, left_out, folder):
    assert job_folder(overrides, left_out) == folder


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/data/voc",
        "data.multi_scale=[0.8,1.0]",
        "data.classes=['a b','ü']",
        "~callbacks.pictures",
        "+a={b:1}",
    ],
)
def test_a_name_never_nests_and_never_needs_quotes(override):
    name = job_folder([override], [])
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,=+-")


def test_names_that_had_to_be_changed_stay_different():
    assert job_folder(["data.root=/data/x"], []) != job_folder(["data.root=data-x"], [])
    assert job_folder(["data.root=/data/x"], []).startswith("data.root=-data-x-")


def test_many_overrides_give_a_short_name_that_is_reproducible_and_unique():
    long = [f"group{number}.key=value" for number in range(50)]
    name = job_folder(long, [])
    assert len(name) <= 110  # file systems take 255 bytes, W&B 128 characters
    assert name.startswith("group0.key=value,group1.key=value,")
    assert name == job_folder(long[::-1], [])
    assert name != job_folder([*long, "group50.key=value"], [])


def test_a_safe_name_is_left_as_it_is():
    assert safe_name("fcos-coco+retinanet-coco") == "fcos-coco+retinanet-coco"
