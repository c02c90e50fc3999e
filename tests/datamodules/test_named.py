"""Every split that has a name is read where it usually lies, from a miniature of its layout; joined ones by class."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import built, composed
from tiers import slow_but
from tiny_data import voc_object, write_image, write_voc

from datamodules.errors import DataError
from datamodules.named import NamedDataModule
from datamodules.named_splits import CITYSCAPES_CLASSES, SPLITS, VOC_CLASSES, Json, Xml
from evaluation.submission import write_submission
from evaluation.truth import Predictions

CATALOGUE = [
    *("coco_2017_train", "coco_2017_val", "coco_2017_test_dev"),
    *(f"{kind}coco_2014_{s}" for kind in ("", "keypoints_") for s in ("train", "val", "minival", "valminusminival")),
    *(f"voc_{year}_{s}" for year in (2007, 2012) for s in ("train", "val", "test")),
    *(f"voc_{year}_{s}_cocostyle" for year in (2007, 2012) for s in ("train", "val")), "voc_2007_test_cocostyle",
    *(f"cityscapes_fine_instanceonly_seg_{s}_cocostyle" for s in ("train", "val", "test")),
]  # fmt: skip
"""The names of `fcos_core/config/paths_catalog.py`."""
COCO_NAMES = ("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "couch", "tv")
BOX = [4, 5, 20, 10]


def write_split(root: Path, name: str, place: str = ".", image_id: int = 1) -> None:
    """Writes two images of a split where it lies; the first has an object of each of two classes."""
    source = SPLITS[name]
    folder = root / place
    if isinstance(source, Xml):
        stems = [f"{name}_{number}" for number in (image_id, image_id + 1)]
        objects = voc_object("dog", "5 6 24 15") + voc_object("tvmonitor", "1 1 9 9", difficult=1)
        images = {stems[0]: "" if "2012_test" in name else objects, stems[1]: ""}
        home = write_voc(folder / f"VOC{source.year}", images, source.images)
        if "2012_test" in name:
            for stem in stems:
                (home / "Annotations" / f"{stem}.xml").unlink()
        return
    names = ("person",) if "keypoints" in name else source.classes or COCO_NAMES
    first = 0 if "cityscapes" in name else 1  # of the ids of fcos_core's converter
    images: list[dict[str, Any]] = []
    for number in (image_id, image_id + 1):
        file = f"{name}_{number}.jpg"
        write_image(folder / source.images / file, (30, 40))
        images.append({"id": number + first - 1, "file_name": file, "height": 30, "width": 40})
    content: dict[str, Any] = {
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    if "test_dev" not in name and name != "coco_2017_test":
        content["annotations"] = [
            {"id": first + n, "image_id": images[0]["id"], "category_id": n % len(names) + 1, "bbox": BOX, "area": 200,
             "iscrowd": 0}
            for n in range(2)
        ]  # fmt: skip
    file = folder / source.annotations
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def data(root: Path, split: str, **options: Any) -> NamedDataModule:
    defaults: dict[str, Any] = {
        "train_split": split, "val_split": split, "test_split": split, "resize": 32, "batch_size": 2, "num_workers": 0,
        "flip": 0.0, "check_boxes": False, "num_classes": len(options.get("classes") or classes_of(split)),
    }  # fmt: skip
    return NamedDataModule(root=str(root), **{**defaults, **options})


def classes_of(split: str) -> tuple[str, ...]:
    name = split.split("+")[0]
    return ("person",) if "keypoints" in name else SPLITS[name].classes or COCO_NAMES


def test_the_catalogue_has_every_name_of_the_source() -> None:
    assert len(CATALOGUE) == len(set(CATALOGUE)) == 25
    assert set(SPLITS) - set(CATALOGUE) == {"coco_2017_test", "voc_2007_trainval", "voc_2012_trainval"}
    assert set(CATALOGUE) < set(SPLITS)


@pytest.fixture(scope="module")
def detector() -> Any:
    """Has more classes than any miniature."""
    cfg = composed("model=fcos", "model/backbone=resnet18", "data=coco2017")
    return built(cfg)


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_read_in_each_of_its_usual_places(tmp_path: Path, name: str) -> None:
    for place in SPLITS[name].homes:
        write_split(tmp_path / place, name, place)
        module = data(tmp_path / place, name)
        if name in ("coco_2017_test_dev", "coco_2017_test", "voc_2012_test"):
            with pytest.raises(DataError, match="annotations"):
                module.setup("fit")
            module = data(tmp_path / place, name)
            module.setup("test")
            assert len(module.truth("test").image_ids) == 2
            continue
        module.setup("fit")
        truth = module.truth("train")
        boxes = [[4, 5, 24, 15], [0, 0, 9, 9]] if isinstance(SPLITS[name], Xml) else [[4, 5, 24, 15]] * 2
        assert truth.boxes.tolist() == boxes
        assert module.class_names == classes_of(name)
        assert truth.voc == isinstance(SPLITS[name], Xml)
        assert module.image("train", truth.image_ids[0].item()).shape == (30, 40, 3)


WITH_OBJECTS = [name for name in SPLITS if name not in ("coco_2017_test_dev", "coco_2017_test", "voc_2012_test")]


@pytest.mark.parametrize("name", slow_but("coco_2014_minival", "voc_2007_test", of=WITH_OBJECTS))
def test_a_split_trains_a_step(tmp_path: Path, name: str, detector: Any) -> None:
    write_split(tmp_path, name)
    module = data(tmp_path, name)
    module.setup("fit")
    (batch,) = module.train_dataloader()
    assert len(batch.images) == 2
    loss = torch.stack(list(detector.losses(detector.forward_batch(batch), batch).values())).sum()
    loss.backward()
    assert loss.isfinite()


def test_cityscapes_classes_go_by_name_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    name = "cityscapes_fine_instanceonly_seg_train_cocostyle"
    write_split(tmp_path, name)
    file = tmp_path / "annotations" / "instancesonly_filtered_gtFine_train.json"
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["id"] = 9 - category["id"]
    content["categories"] = content["categories"][::-1][:5]  # three classes never came up
    content["annotations"][0]["category_id"] = 4
    content["annotations"][1]["category_id"] = 2
    file.write_text(json.dumps(content))
    module = data(tmp_path, name)
    module.setup("fit")
    assert module.class_names == CITYSCAPES_CLASSES
    truth = module.truth("train")
    assert [module.class_names[label] for label in truth.labels] == ["bus", "motorcycle"]
    assert [module.category_ids[label] for label in truth.labels] == [4, 2]
    assert len(set(module.category_ids)) == 8


def test_splits_of_one_data_set_join(tmp_path: Path) -> None:
    write_split(tmp_path, "coco_2014_train")
    write_split(tmp_path, "coco_2014_valminusminival", image_id=11)
    module = data(tmp_path, "coco_2014_train+coco_2014_valminusminival")
    module.setup("fit")
    truth = module.truth("train")
    assert truth.image_ids.tolist() == [1, 2, 11, 12]
    assert truth.image_index.tolist() == [0, 0, 2, 2]
    assert truth.labels.tolist() == [0, 1, 0, 1]
    assert module.category_ids == tuple(range(1, 10))


def test_coco_and_voc_join_where_both_have_the_classes(tmp_path: Path) -> None:
    write_split(tmp_path, "coco_2017_train")
    write_split(tmp_path, "voc_2007_train")
    both = "coco_2017_train+voc_2007_train"
    with pytest.raises(DataError, match="trained as background") as raised:
        data(tmp_path, both).setup("fit")
    message = str(raised.value)
    common = "bicycle,car,motorcycle,airplane,bus,train,couch,tv"
    assert f"set data.classes=[person,{common}], which both have" in message
    assert "coco_2017_train lacks bird, boat, bottle, cat, chair, .." in message
    assert "'pottedplant'" in message  # both lists are shown whole
    assert "'couch'" in message
    module = data(tmp_path, both, classes=["person", "tv", "bicycle"])
    module.setup("fit")
    truth = module.truth("train")
    assert truth.image_ids.tolist() == ["1", "2", "voc_2007_train_1", "voc_2007_train_2"]
    assert truth.labels.tolist() == [0, 2, 1]
    assert truth.boxes.tolist() == [[4, 5, 24, 15], [4, 5, 24, 15], [0, 0, 9, 9]]
    assert truth.difficult.tolist() == [False, False, True]
    assert not truth.voc
    assert "1 of other classes" in module.describe()
    (batch,) = data_batches(module)
    assert len(batch.images) == 4
    # in VOC's words as well, and the other way round
    module = data(tmp_path, "voc_2007_train+coco_2017_train", classes=["person", "tvmonitor", "aeroplane"])
    module.setup("fit")
    assert module.truth("train").labels.tolist() == [1, 0]


def data_batches(module: NamedDataModule) -> list[Any]:
    module.batch_size = 4
    return list(module.train_dataloader())


def test_a_checkpoint_of_cocos_classes_is_scored_on_voc(tmp_path: Path) -> None:
    write_split(tmp_path, "voc_2007_test")
    module = data(tmp_path, "voc_2007_test", classes=["tv", "dog", "potted plant"])
    module.setup("test")
    truth = module.truth("test")
    assert truth.labels.tolist() == [1, 0]
    assert truth.voc


def test_further_pairs_of_names_are_the_users(tmp_path: Path) -> None:
    write_split(tmp_path, "voc_2007_train")
    module = data(tmp_path, "voc_2007_train", classes=["hound"], same_classes={"dog": "hound"})
    module.setup("fit")
    assert module.truth("train").labels.tolist() == [0]


def test_a_wrong_name_gets_the_nearest_and_a_doubled_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'coco_2017_valid'; the nearest are coco_2017_val"):
        data(tmp_path, "coco_2017_train").open_index("coco_2017_valid")
    with pytest.raises(DataError, match="has coco_2017_val twice"):
        data(tmp_path, "coco_2017_train").open_index("coco_2017_val+coco_2017_val")
    write_split(tmp_path, "coco_2017_train")
    with pytest.raises(DataError, match=r"names .persom.*did you mean .person"):
        data(tmp_path, "coco_2017_train", classes=["persom"]).setup("fit")


def test_a_split_that_is_not_there_names_the_places_and_what_is(tmp_path: Path) -> None:
    write_split(tmp_path / "coco", "coco_2017_val")
    write_split(tmp_path / "VOCdevkit", "voc_2007_test")
    with pytest.raises(DataError) as raised:
        data(tmp_path, "coco_2014_minival").setup("fit")
    message = str(raised.value)
    for place in ("annotations", "coco/annotations"):
        assert f"{tmp_path / place / 'instances_minival2014.json'}" in message
    assert f"{tmp_path} has coco_2017_val, voc_2007_test" in message
    download = "python -m datamodules.download"
    assert message.endswith(f"{download} coco2014 --root {tmp_path / 'coco'}")  # where the rest of COCO is
    with pytest.raises(DataError, match=rf"is not a folder.*{download} voc2007 --root {tmp_path / 'none'}$"):
        data(tmp_path / "none", "voc_2007_trainval").setup("fit")
    with pytest.raises(DataError, match=rf"{download} coco2017 --root .* --parts test$"):
        data(tmp_path, "coco_2017_test").setup("test")
    with pytest.raises(DataError) as raised:
        data(tmp_path, "cityscapes_fine_instanceonly_seg_val_cocostyle").setup("fit")
    assert download not in str(raised.value)  # its owner asks for an account


def test_images_alone_give_the_files_that_servers_want(tmp_path: Path) -> None:
    found = Predictions(
        image_index=np.array([0, 1]), boxes=np.array([[0, 0, 9, 9], [1, 2, 3, 4]], np.float32),
        scores=np.array([0.5, 0.75], np.float32), labels=np.array([0, 1]),
    )  # fmt: skip
    for name, files in {
        "coco_2017_test_dev": {"detections_test-dev2017_boxwright_results.json"},
        "voc_2012_test": {"predictions.json", *(f"comp4_det_test_{cls}.txt" for cls in VOC_CLASSES)},
    }.items():
        write_split(tmp_path, name)
        module = data(tmp_path, name)
        module.assume_classes(classes_of(name), range(1, len(classes_of(name)) + 1))
        module.setup("test")
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        line = write_submission(folder, module.truth("test"), found)
        assert {file.name for file in folder.iterdir()} == files
        assert str(folder) in line


def test_a_joined_test_set_without_annotations_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "coco_2017_test_dev")
    write_split(tmp_path, "coco_2017_val")
    with pytest.raises(DataError, match="coco_2017_test_dev has no annotations; score it by itself"):
        data(tmp_path, "coco_2017_val+coco_2017_test_dev").setup("test")


def test_a_joined_index_follows_its_parts(tmp_path: Path) -> None:
    """The cache of a joined split is made anew when the annotations of a part change."""
    for number, name in enumerate(("coco_2014_train", "coco_2014_val")):
        write_split(tmp_path, name, image_id=10 * number + 1)
    joined = "coco_2014_train+coco_2014_val"
    data(tmp_path, joined).setup("fit")
    source = SPLITS["coco_2014_val"]
    assert isinstance(source, Json)
    file = tmp_path / source.annotations
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [1, 1, 2, 2]
    file.write_text(json.dumps(content, indent=1))
    module = data(tmp_path, joined)
    module.setup("fit")
    assert [1, 1, 3, 3] in module.truth("train").boxes.tolist()


def test_images_that_are_trained_on_and_scored_are_counted(tmp_path: Path) -> None:
    """As those of COCO 2014 that 2017 trains on."""
    write_split(tmp_path, "coco_2017_train", image_id=1)
    write_split(tmp_path, "coco_2014_val", image_id=2)
    write_split(tmp_path, "coco_2017_val", image_id=11)
    module = data(tmp_path, "coco_2017_train", val_split="coco_2014_val")
    with pytest.warns(UserWarning, match="1 of the 2 images of coco_2014_val are trained on, in coco_2017_train"):
        module.setup("fit")
    with warnings.catch_warnings(record=True) as told:
        data(tmp_path, "coco_2017_train", val_split="coco_2017_val").setup("fit")
    assert not [one for one in told if "trained on" in str(one.message)]
