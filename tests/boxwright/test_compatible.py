"""What the check of a config reads from the source of a data module without importing it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from boxwright.config import trusted
from boxwright.config.compatible import has_whole_images, match_problems, scored
from boxwright.config.errors import ConfigError
from boxwright.config.paths import refuse_missing_paths
from evaluation.truth import CLASSIFICATION_METRICS, COCO_METRICS, VOC_METRICS

OWN = '''
"""Must be read alone."""
from typing import ClassVar

from datamodules.coco import CocoDataModule
from datamodules.imagefolder import ImageFolderDataModule
from datamodules.shapes import ShapesDataModule

raise RuntimeError("imported")


class Boxes(CocoDataModule):
    metrics = ("coco", "voc")


class Drawn(Boxes):
    makes_root: ClassVar[bool] = True


class Kinds(ImageFolderDataModule):
    pass


class Computed(CocoDataModule):
    metrics = tuple(["coco"])
'''


@pytest.fixture(autouse=True)
def _own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trusted, "_trusted", {"own_data_of_a_test"})


@pytest.mark.parametrize(
    ("target", "metrics", "whole"),
    [
        ("datamodules.coco.CocoDataModule", COCO_METRICS, False),
        ("datamodules.shapes.ShapesDataModule", COCO_METRICS, False),
        ("datamodules.voc.VocDataModule", COCO_METRICS + VOC_METRICS, False),
        ("datamodules.imagefolder.ImageFolderDataModule", CLASSIFICATION_METRICS, True),
        ("own_data_of_a_test.Boxes", COCO_METRICS + VOC_METRICS, False),
        ("own_data_of_a_test.Drawn", COCO_METRICS + VOC_METRICS, False),
        ("own_data_of_a_test.Kinds", CLASSIFICATION_METRICS, True),
        ("of_another_project.Data", COCO_METRICS, False),
    ],
)
def test_a_data_module_states_its_metrics_and_whether_it_has_whole_images(
    target: str, metrics: tuple[str, ...], whole: bool
) -> None:
    assert scored(target) == metrics
    assert has_whole_images(target) == whole


def test_a_data_module_of_ones_own_with_whole_images_needs_a_classifier() -> None:
    data = {"_target_": "own_data_of_a_test.Kinds"}
    detector, classifier = "lit_modules.fcos.FCOSModule", "lit_modules.classifier.ClassifierModule"
    assert list(match_problems(OmegaConf.create({"data": data, "model": {"_target_": detector}})))
    assert not list(match_problems(OmegaConf.create({"data": data, "model": {"_target_": classifier}})))


@pytest.mark.parametrize(("name", "makes_root"), [("Boxes", False), ("Drawn", True)])
def test_only_a_data_module_that_makes_its_root_may_lack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, makes_root: bool
) -> None:
    monkeypatch.setattr("boxwright.config.paths.origin", lambda key: f"origin of {key}")
    cfg = OmegaConf.create({"data": {"_target_": f"own_data_of_a_test.{name}", "root": str(tmp_path / "nowhere")}})
    if makes_root:
        refuse_missing_paths(cfg)
    else:
        with pytest.raises(ConfigError, match=r"data\.root=.*\(origin of data\.root\): .*nowhere does not exist"):
            refuse_missing_paths(cfg)


def test_a_class_variable_that_is_computed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Computed\.metrics = tuple\(\['coco'\]\): .*write it as a literal"):
        scored("own_data_of_a_test.Computed")
