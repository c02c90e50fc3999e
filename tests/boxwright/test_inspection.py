"""Problems, warnings and pictures of an inspection, in the log and on the page."""

import json
import logging
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
from PIL import Image
from split_of_noise import COCO, write_split

from boxwright.config.errors import ConfigError
from boxwright.config.files import CONF
from boxwright.config.resolvers import register_resolvers

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Inspect:
    """A function of overrides that returns the number of problems, the page, and what was printed."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(CONF.parent / "inspect_data.py"))["main"]

    def run(*overrides: str) -> tuple[int, str, str]:
        caplog.clear()
        register_resolvers()
        with initialize_config_dir(str(CONF), version_base="1.3"), caplog.at_level(logging.INFO):
            cfg = compose("inspect_data", list(overrides), return_hydra_config=True)
            with open_dict(cfg):
                cfg.hydra.runtime.output_dir = str(tmp_path)
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                del cfg["hydra"]  # as Hydra does before it calls a main function
            exit_code = 0
            try:
                main.__wrapped__(cfg)
            except SystemExit as ended:
                exit_code = ended.code
            finally:
                HydraConfig.instance().cfg = None
        problems = int(found[1]) if (found := re.search(r"(\d+) problems? \(", caplog.text)) else 0
        assert exit_code == (problems > 0)
        return problems, (tmp_path / "inspection.html").read_text(), caplog.text

    return run


def test_one_run_shows_every_kind_of_problem(tmp_path: Path, look: Inspect) -> None:
    bad = [[9, 9, -5, 5], [900, 900, 3, 3], [1, 2, 3], {"bbox": [1, 2, 9, 9], "category_id": 7}]
    write_split(tmp_path, "train", [[[1, 2, 20, 20], *bad], [[5, 5, 9, 9]], [[5, 5, 9, 9]], [[5, 5, 9, 9]]])
    write_split(tmp_path, "val", [[[1, 2, 20, 20]]], seed=1)
    (tmp_path / "train" / "2.jpg").unlink()
    cut = (tmp_path / "train" / "3.jpg").read_bytes()[:900]
    (tmp_path / "train" / "3.jpg").write_bytes(cut)
    cv2.imwrite(str(tmp_path / "train" / "4.jpg"), np.zeros((20, 20, 3), np.uint8))
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 7
    for said in (
        "negative width or height", "outside the image", "not four numbers", "category that the file does not list",
        "2.jpg does not exist; restore it", "3.jpg ends before its picture does", "4.jpg is 20 x 20 pixels",
    ):  # fmt: skip
        assert said in html
        assert said in text
    assert "problems" in text
    assert look(*COCO, f"data.root={tmp_path}", "read_images=false")[0] == 7  # these images are all in the first batch
    assert "2.jpg does not exist; restore it" in (tmp_path / "inspection.html").read_text()
    assert f"saved as {tmp_path / 'inspection.html'}" in text


def test_legal_boxes_are_counted_by_the_reason_why_training_skips_them(tmp_path: Path, look: Inspect) -> None:
    crowd = {"bbox": [1, 1, 30, 30], "iscrowd": 1}
    boxes = [[[1, 2, 20, 20], [1, 2, 20, 20], crowd, [5, 5, 0, 9], {"bbox": [3, 3, 9, 9], "category_id": 2}], []]
    write_split(tmp_path, "train", boxes)
    write_split(tmp_path, "val", [[[1, 2, 20, 20], [5, 5, 0, 9]]], seed=1)
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 0
    assert "no problems" in text
    assert "Repeat-factor" not in html + text
    split = [line.split() for line in text.splitlines() if line.strip().startswith(("train: train", "val: val"))]
    assert [row[2:] for row in split] == [
        ["2", "1", "5", "3", "1", "0", "1", "0"],
        ["1", "0", "2", "2", "0", "0", "-", "0"],
    ]
    for said in (
        "train, boxes smaller than data.min_box=1, which training does not use: 1, xyxy cat [5, 5, 5, 14] of image 1",
        "val, boxes at most 1 pixel wide or high: 1",
        "train, boxes that repeat another of their class exactly: 1",
        "val, classes without a box, which have no AP: 1, dog",
    ):
        assert said in html
        assert said in text
    _, _, text = look(*COCO, f"data.root={tmp_path}", "data.classes=[dog]", "data.num_classes=1")
    assert "not in data.classes: 4; &#39;cat&#39; 4 (the first in" in (tmp_path / "inspection.html").read_text()
    assert "train, boxes of classes that are not in data.classes: 4; 'cat' 4 (the first in" in text


def test_repeated_images_are_shown_by_class(tmp_path: Path, look: Inspect) -> None:
    dog = {"bbox": [3, 3, 9, 9], "category_id": 2}
    write_split(tmp_path, "train", [[[1, 2, 20, 20]]] * 7 + [[dog, [1, 2, 20, 20]], []])
    write_split(tmp_path, "val", [[[1, 2, 20, 20]]], seed=1)
    changes = ("data.repeat_threshold=0.5", "data.empty_images=drop")
    _, html, text = look(*COCO, f"data.root={tmp_path}", *changes)
    said = "Repeat-factor sampling, data.repeat_threshold=0.5: an epoch has 9 images in place of 8"
    assert said in html
    assert said in text
    rows = [line.split() for line in text[text.index(said) :].splitlines()]
    # sqrt(0.5 / (1/8)) = 2; the image with a dog has a cat too
    assert [row for row in rows if row[:1] in (["dog"], ["cat"])][:2] == [
        ["dog", "1", "2", "2"],
        ["cat", "8", "1", "9"],
    ]


def test_16_bit_values_and_files_of_several_images_give_warnings(tmp_path: Path, look: Inspect) -> None:
    """Images of a 12-bit camera in train, an animation in val, and orientations that no size confirms."""
    for split in ("train", "val"):
        write_split(tmp_path, split, [[[1, 2, 20, 20]], [[1, 2, 20, 20]]], seed=len(split))
    for number in (1, 2):
        deep = np.random.default_rng(number).integers(500, 3900, (40, 60), dtype=np.uint16)
        deep[0, 0], deep[0, 1] = 400 * number, 2000 * number
        cv2.imwrite(str(tmp_path / "train" / f"{number}.png"), deep)
        (tmp_path / "train" / f"{number}.png").rename(tmp_path / "train" / f"{number}.jpg")
    frames = [Image.fromarray(np.full((40, 60, 3), grey, np.uint8)) for grey in (10, 90)]
    frames[0].save(tmp_path / "val" / "1.jpg", "GIF", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 3
    frames[0].save(tmp_path / "val" / "2.jpg", exif=exif)
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 0
    for said in (
        "train, images of more than 8 bits: 2, with numbers from 400 to 4000, which become 15 of 256 grey levels; "
        "data.value_range=[400,4000] makes all grey levels of them",
        f"val, a file holds several pictures (an animation, pages), of which the first is taken: 1, first: {tmp_path}",
        "val, images with an EXIF orientation that no annotated size confirms (half turns, mirror images, squares): 1;",
    ):
        assert said in html
        assert said in text
    _, _, text = look(*COCO, f"data.root={tmp_path}", "data.value_range=[400,4000]", "data.exif=apply")
    assert "grey levels" not in text
    assert "EXIF orientation" not in text


def test_images_of_val_that_are_in_train_are_found_by_their_content(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[[1, 2, 20, 20]], [[5, 5, 9, 9]]])
    write_split(tmp_path, "val", [[[1, 2, 20, 20]], [[5, 5, 9, 9]]], seed=1)
    shutil.copy(tmp_path / "train" / "2.jpg", tmp_path / "val" / "1.jpg")
    copy = f"1 of 2, {tmp_path / 'train' / '2.jpg'} = {tmp_path / 'val' / '1.jpg'}"
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 0
    assert copy in html
    assert copy in text
    _, html, _ = look(*COCO, f"data.root={tmp_path}", "read_images=false")
    assert copy not in html
    assert "not read (read_images=false)" in html


def test_duplicates_within_a_split_are_reported(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[[1, 2, 20, 20]]] * 3)
    write_split(tmp_path, "val", [[[1, 2, 20, 20]]], seed=1)
    shutil.copy(tmp_path / "train" / "1.jpg", tmp_path / "train" / "3.jpg")
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 0
    said = f"train, images that are there more than once: 1 of 3, {tmp_path}/train/1.jpg = {tmp_path}/train/3.jpg"
    for shown in (html, text):
        assert said in shown
    assert "no problems, but 3 warnings, see above" in text  # dog has no box
    for number in (1, 2):
        shutil.copy(tmp_path / "train" / "1.jpg", tmp_path / "val" / f"{number}.jpg")
    file = tmp_path / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["images"].append({**content["images"][0], "id": 999, "file_name": "2.jpg"})
    file.write_text(json.dumps(content))
    _, _, text = look(*COCO, f"data.root={tmp_path}")
    assert "val, images that are there more than once: 1 of 2, " in text
    assert "val, images that are in train as well, which makes its scores too high: 2 of 2, " in text


def test_boxes_in_another_form_are_a_problem_unless_check_boxes_is_off(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[[10, 10, 50, 38], [20, 2, 58, 30]], [[30, 20, 55, 39], [25, 5, 40, 36]]])
    write_split(tmp_path, "val", [[[0.1, 0.2, 0.5, 0.4], [0, 0, 1, 1]]], seed=1)
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 2
    for said in (
        f"{tmp_path}/annotations/instances_train.json: are the boxes x1, y1, x2, y2?",
        f"{tmp_path}/annotations/instances_val.json: 2 of 2 boxes hold no number over 1",
    ):
        assert said in html
        assert said in text
    assert "Batch 1" in html  # the images are shown all the same
    assert look(*COCO, f"data.root={tmp_path}", "data.check_boxes=false")[0] == 0


def test_unusual_entries_are_reported_as_in_training(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[[1, 2, 33, 33]]])
    write_split(tmp_path, "val", [[{"bbox": [1, 2, 33, 33], "area": 900}]], seed=1)
    file = tmp_path / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["images"][0].update(width=0, height=0)
    content["categories"].append({"id": 0, "name": "pets", "supercategory": "none"})
    for category in content["categories"][:2]:
        category["supercategory"] = "pets"
    file.write_text(json.dumps(content))
    _, html, text = look(*COCO, f"data.root={tmp_path}")
    for said in (
        "instances_train.json: `area` is next to nothing, such as 0 or 1, for 1 of the 1 box",
        "instances_val.json: 1 image size that no image has, 0 x 0 of 1.jpg",
        "passed over: category",
    ):
        assert said in html
        assert text.count(said) == 1


def test_classes_of_a_split_without_their_boxes_are_not_listed_one_by_one(tmp_path: Path, look: Inspect) -> None:
    """The user's own data in VOC's layout has none of the default classes."""
    root = write_voc(tmp_path, "wheel")
    problems, _, text = look("data=voc", f"data.root={root}", *VOC_SPLITS)
    assert problems == 2
    assert "set 'data.classes=[wheel]'" in text
    assert "no box to train on" in text
    assert "motorbike" not in text.partition("saved as")[0].rpartition("Classes")[2].partition("warning")[2]


def test_a_sample_of_no_images_is_refused(tmp_path: Path, look: Inspect) -> None:
    with pytest.raises(ConfigError, match="sample=0"):
        look(*COCO, f"data.root={tmp_path}", "sample=0")


def test_a_split_without_any_box_is_inspected(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[], []])
    write_split(tmp_path, "val", [[[1, 2, 20, 20]]], seed=1)
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 1
    assert "1 problem (there is no box to train on: 1)" in text
    assert "instances_train.json): its images have no annotation" in html
    assert "cat, dog" not in html  # classes are not listed where there is no box at all
    assert "Batch 1" in html
    assert "Anchors" not in html
    (row,) = [line.split() for line in text.splitlines() if line.strip().startswith("train: train")]
    assert row[2:5] == ["2", "2", "0"]


def test_a_split_that_does_not_open_is_a_problem_and_the_other_is_inspected(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[[1, 2, 20, 20]], [[5, 5, 9, 9]]])
    problems, html, text = look(*COCO, f"data.root={tmp_path}")
    assert problems == 1
    assert "instances_val.json does not exist" in text
    assert "Batch 1" in html
    (tmp_path / "annotations" / "instances_train.json").write_text('{"images": [')
    with pytest.raises(ConfigError, match="No split can be opened") as raised:
        look(*COCO, f"data.root={tmp_path}")
    assert "instances_train.json is not valid JSON" in str(raised.value)


def test_the_layout_that_was_found_instead_is_reported_once_for_all_splits(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path / "data", "one", [[[1, 2, 10, 12]]])
    with pytest.raises(ConfigError) as raised:
        look(*COCO, "data.root=data")
    assert all(f"instances_{split}.json does not exist" in str(raised.value) for split in ("train", "val"))
    assert str(raised.value).count("holds COCO annotations") == 1
    assert str(raised.value).count("data.train_split=one") == 1


def test_a_missing_image_is_reported_with_the_file_that_fits(tmp_path: Path, look: Inspect) -> None:
    for seed, split in enumerate(("train", "val")):
        write_split(tmp_path / "data", split, [[[1, 2, 10, 12]]] * 2, seed)
    (tmp_path / "data" / "train" / "2.jpg").rename(tmp_path / "data" / "train" / "2.JPG")
    problems, _, printed = look(*COCO, "data.root=data")
    assert problems == 1
    assert re.search(r"train, missing image files: nearest to \S+/2\.jpg is \S+/2\.JPG: other letter case", printed)


def test_a_class_missing_in_data_classes_does_not_hide_other_problems(tmp_path: Path, look: Inspect) -> None:
    write_voc(tmp_path, "a", "b", "a")
    options = ["data=voc", f"data.root={tmp_path}", "data.classes=[a]", *VOC_SPLITS]
    problems, _, text = look(*options)
    assert problems == 2
    for said in ("['b']", "train, boxes of classes that are not in data.classes: 1; 'b' 1", "negative width or height"):
        assert said in text


VOC_SPLITS = [*(f"data.{role}_split=all" for role in ("train", "val", "test")), "data.resize=32", "data.num_workers=0"]


def write_voc(root: Path, *names: str) -> Path:
    """Writes an image with a box for each name; where a name occurs twice, its last box has its sides exchanged."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "JPEGImages" / "x.jpg"), np.zeros((30, 40, 3), np.uint8))
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox>"
    right = [0 if name in names[:at] else 20 for at, name in enumerate(names)]
    objects = [f"<object><name>{name}</name>{box.format(x)}</object>" for name, x in zip(names, right, strict=True)]
    size = "<size><width>40</width><height>30</height></size>"
    (root / "Annotations" / "x.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
    (root / "ImageSets" / "Main" / "all.txt").write_text("x\n")
    return root


def test_pictures_are_the_first_two_batches_of_training(tmp_path: Path, look: Inspect) -> None:
    write_split(tmp_path, "train", [[[1, 2, 20, 20]]] * 5)
    write_split(tmp_path, "val", [[[1, 2, 20, 20]]], seed=1)
    options = [*COCO, f"data.root={tmp_path}", "data.multi_scale=[0.5,1.0]", "seed=3"]
    _, html, _ = look(*options)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data = compose("inspect_data", options)
        loader = instantiate(OmegaConf.to_container(data.data, resolve=True)).train_dataloader()
    captions = []
    for batch, _ in zip(loader, range(2), strict=False):
        height, width = batch.images.shape[-2:]
        for info, size in zip(batch.infos, batch.sizes.tolist(), strict=True):
            captions.append(f"{info.image_id}\n{size[1]} x {size[0]} on a canvas of {width} x {height}")
    assert [html.index(caption) for caption in captions] == sorted(html.index(caption) for caption in captions)
    assert html.count("on a canvas of") == len(captions) == 4


def test_the_chosen_model_is_marked_in_the_tables_and_only_it_gets_advice(tmp_path: Path, look: Inspect) -> None:
    """On 64 pixels boxes of 2 x 30 match no anchor and hold no location."""
    write_split(tmp_path, "train", [[[5, 2, 2, 30], [30, 2, 2, 30]]])
    write_split(tmp_path, "val", [[[1, 2, 20, 20]]], seed=1)
    _, _, text = look(*COCO, f"data.root={tmp_path}")
    assert "FCOS (this model): share of boxes" in text
    assert "FCOS: 100.0 % of the boxes hold no location" in text
    assert "have an anchor of IoU" not in text
    _, html, text = look(*COCO, f"data.root={tmp_path}", "model=retinanet", "model.anchor_sizes=[8,16,32,64,128]")
    assert "of each detector's standard anchors and of this model" in text
    assert "this model: 0.0 % of the boxes have an anchor of IoU 0.5 or more" in text
    assert "FCOS: 100.0 %" not in text
    assert "Faster R-CNN, VGG16: 0.0 % of the boxes" in html
