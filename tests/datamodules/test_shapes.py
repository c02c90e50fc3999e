import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from tiny_data import write_image

from datamodules.shapes import CLASSES, ShapesDataModule, draw


def shapes(root: Path, train_images: int = 12) -> ShapesDataModule:
    return ShapesDataModule(root=str(root), num_workers=0, train_images=train_images, val_images=6, image_size=96)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_set_is_written_once_and_is_the_same_every_time(tmp_path: Path) -> None:
    shapes(tmp_path / "a").prepare_data()
    first = files(tmp_path / "a")
    assert len(first) == 12 + 6 + 2 + 1
    marker = tmp_path / "a" / "shapes.json"
    inode = marker.stat().st_ino
    shapes(tmp_path / "a").prepare_data()
    assert marker.stat().st_ino == inode
    shapes(tmp_path / "b").prepare_data()
    assert files(tmp_path / "b") == first


def test_other_parameters_redraw_the_set_and_remove_the_old_files(tmp_path: Path) -> None:
    shapes(tmp_path / "a").prepare_data()
    shapes(tmp_path / "a", train_images=3).prepare_data()
    assert len(list((tmp_path / "a" / "train").iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.lock", "a"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "holiday.png", (8, 8))
    with pytest.raises(ValueError, match="holds other files"):
        shapes(tmp_path / "a").prepare_data()
    assert (tmp_path / "a" / "holiday.png").exists()


def test_ranks_that_start_at_the_same_time_share_one_complete_set(tmp_path: Path) -> None:
    modules = [shapes(tmp_path / "a") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda module: module.setup("fit"), modules))
    assert all(len(module.truth("train").image_ids) == 12 for module in modules)


def test_images_and_annotations_agree(tmp_path: Path) -> None:
    data = shapes(tmp_path / "a", train_images=60)
    data.setup("fit")
    assert data.class_names == CLASSES
    assert data.test_is_val
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape[2:] == (256, 256)
    oracle = COCO(str(tmp_path / "a" / "annotations" / "instances_train.json"))
    for annotation in oracle.anns.values():
        mask = oracle.annToMask(annotation)  # from the polygon, or from the crowd's run lengths
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        if annotation["iscrowd"]:
            assert mask.sum() == annotation["area"]
        else:  # a polygon through the centres of the outermost pixels excludes half of their area
            assert annotation["area"] - 2 * (width + height) <= mask.sum() <= annotation["area"] + width + height
    train = json.loads((tmp_path / "a" / "annotations" / "instances_train.json").read_text())
    val = json.loads((tmp_path / "a" / "annotations" / "instances_val.json").read_text())
    ids = [image["id"] for content in (train, val) for image in content["images"]]
    assert len(set(ids)) == len(ids)


def test_boxes_are_tight_around_pixels_that_stand_out(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.full((128, 128, 3), 128, np.float32)
    monkeypatch.setattr("datamodules.shapes._background", lambda *_: flat.copy())
    for i in range(20):
        image, annotations = draw((0, i), 128, 0)
        changed = np.abs(image.astype(int) - 128).max(axis=2) > 10
        unexplained = changed.copy()
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            inside = changed[y : y + height, x : x + width]
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()
            unexplained[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1] = False
        assert not unexplained.any()  # nothing is drawn that isn't annotated


def test_the_set_has_the_described_mixture_of_objects() -> None:
    drawn = [draw((0, i), 256, 0)[1] for i in range(150)]
    objects = [[a for a in annotations if not a["iscrowd"]] for annotations in drawn]
    assert 0.05 < np.mean([not annotations for annotations in drawn]) < 0.16
    assert max(map(len, objects)) == 12
    assert sum(a["iscrowd"] for annotations in drawn for a in annotations) >= 2
    boxes = np.array([a["bbox"] for annotations in objects for a in annotations])
    longest = boxes[:, 2:].max(axis=1)
    at_border = (boxes[:, :2] == 0).any(1) | (boxes[:, :2] + boxes[:, 2:] == 256).any(1)
    assert 0.07 < (longest < 16).mean() < 0.18
    assert 0.06 < at_border.mean() < 0.16
    labels = np.bincount([a["category_id"] for annotations in objects for a in annotations], minlength=6)
    assert labels[0] == 0
    assert labels[1:].min() > 0.7 * labels[1:].max()


def test_validation_has_other_pictures() -> None:
    train, val = draw((0, 3), 64, 0)[0], draw((1, 3), 64, 1)[0]
    assert not np.array_equal(train, val)
