"""`python evaluate.py`: which data it scores, what it prints and writes, and what remains where it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import Script
from tiny_checkpoint import CATEGORY_IDS, CLASSES, write_checkpoint

PATTERNS = [
    "data=coco", "data.annotations='labels/{split}.json'", "data.images='pics/{split}'", "data.train_split=a",
    "data.val_split=a", "data.test_split=b", f"data.classes=[{','.join(CLASSES)}]",
]  # fmt: skip


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capfd):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Script("evaluate.py", tmp_path, monkeypatch, capfd)
    torch.set_num_threads(threads)


def write_set(root: Path) -> Path:
    """Writes splits `a` and `b` of two and three images in an unusual layout, without objects of class `star`."""
    for split, number in (("a", 2), ("b", 3)):
        (root / "pics" / split).mkdir(parents=True)
        (root / "labels").mkdir(exist_ok=True)
        images, boxes = [], []
        for row in range(number):
            pixels = np.random.default_rng(row).integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "pics" / split / f"{row}.png")
            images.append({"id": row, "file_name": f"{row}.png", "height": 40, "width": 60})
            boxes.append({"id": row, "image_id": row, "category_id": 3, "bbox": [5, 5, 20, 20], "iscrowd": 0})
        categories = [{"id": n, "name": name} for n, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / "labels" / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with data sets `first`, on which `best.ckpt` was trained, and `second` of the same layout."""
    folder = tmp_path_factory.mktemp("trained")
    write_set(folder / "first")
    write_set(folder / "second")
    write_checkpoint(folder / "best.ckpt", *PATTERNS, f"data.root={folder / 'first'}", "data.num_workers=0")
    return folder


def test_a_root_alone_is_the_checkpoints_data_set_at_another_place(evaluate, trained, tmp_path):
    """The checkpoint's patterns, splits and classes hold there; equal images have equal scores in both places."""
    checkpoint = f"checkpoint={trained / 'best.ckpt'}"
    first = evaluate(checkpoint, "output=first")
    second = evaluate(checkpoint, f"data.root={trained / 'second'}", "output=second", "data.num_workers=0")
    third = evaluate(checkpoint, "data=coco", f"data.root={trained / 'second'}", "output=third", "data.num_workers=0")
    assert [first.status, second.status, third.status] == [0, 0, 0], second.said
    told = "data settings of the checkpoint: "
    assert told not in first.said
    for ended in (second, third):
        (line,) = re.findall(f"{told}(.*)", ended.said)
        for said in ("annotations=labels/{split}.json", "images=pics/{split}", "test_split=b", "resize=96"):
            assert said in line
        assert "flip" not in line
        assert "val_split" not in line
    for ended in (first, second, third):
        assert "test split (b): 3 images, 3 objects of 5 classes" in ended.said
    contents = [Path(name, "metrics.json").read_text() for name in ("first", "second", "third")]
    assert contents[0] == contents[1] == contents[2]
    assert "labels/{split}.json" in Path("second/report.html").read_text()


def test_a_setting_alone_changes_that_setting_of_the_checkpoints_data_set(evaluate, trained):
    ended = evaluate(f"checkpoint={trained / 'best.ckpt'}", "data.test_split=a", "data.num_workers=0", "output=out")
    assert ended.status == 0, ended.said
    assert "test split (a): 2 images" in ended.said


def test_the_validation_split_is_not_called_a_test(evaluate, trained):
    held_out = ["data.train_split=b", "data.val_fraction=0.34", "data.num_workers=0"]
    for number, setting, scored, said, unsaid in (
        (1, "data.test_split=null", "val split (0.34 of b): 1 image,", " val: AP ", " test: AP "),
        (2, "data.test_split=a", "test split (a): 2 images,", " test: AP ", " val: AP "),
    ):
        ended = evaluate(f"checkpoint={trained / 'best.ckpt'}", *held_out, setting, f"output=out{number}")
        assert ended.status == 0, ended.said
        assert scored in ended.said
        assert said in ended.said
        assert unsaid not in ended.said


def test_a_results_file_with_corners_gives_a_warning(evaluate, trained, tmp_path):
    found = [{"image_id": row, "category_id": 3, "bbox": [15, 15, 40, 35], "score": 0.9} for row in range(3)]
    (tmp_path / "found.json").write_text(json.dumps(found))
    ended = evaluate("predictions=found.json", *PATTERNS, f"data.root={trained / 'first'}", "output=out")
    assert ended.status == 0, ended.said
    assert "found.json: are the boxes x1, y1, x2, y2? Read so, 0 of 3 stick out" in ended.said


def test_figures_are_held_against_a_results_file_and_are_the_exit_status_if_strict(evaluate, trained, tmp_path):
    found = [{"image_id": row, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.9} for row in range(2)]
    (tmp_path / "found.json").write_text(json.dumps(found))
    given = ["predictions=found.json", *PATTERNS, f"data.root={trained / 'first'}", "expect.strict=true"]
    good = evaluate(*given, "expect.AP=1.0", "data.test_split=a", "output=good")
    assert good.status == 0, good.said
    assert "expected, in percent" in good.said
    (row,) = json.loads(Path("good/metrics.json").read_text())["expected"]
    assert (row["metric"], row["measured"], row["published"], row["within"]) == ("AP", 1.0, 1.0, True)
    assert re.search(r"Published figures.*AP.*1\.0000", Path("good/report.html").read_text(), re.DOTALL)
    bad = evaluate(*given, "expect.AP=0.9", "expect.tolerance=0.05", "expect.data=coco_val2017", "output=bad")
    assert bad.status == 1
    said = "AP 90 %: published for coco_val2017, measured on test (3 images of 5 classes): not compared"
    assert f"expect.strict=true, see {Path('bad/metrics.json').absolute()}:\n  - {said}" in bad.said
    assert "Traceback" not in bad.said
    assert {"metrics.json", "report.html"} <= {file.name for file in Path("bad").iterdir()}  # it is scored all the same
    mended = evaluate(*given, "expect.AP=0.9", "expect.strict=false", "expect.data=coco_val2017", "output=mended")
    assert mended.status == 0
    assert said in mended.said


def images_alone(root: Path, **changes: object) -> Path:
    """A set of which `b` has ids of text, and neither annotations nor what `changes` says is None."""
    file = write_set(root) / "labels" / "b.json"
    content = {**json.loads(file.read_text()), "annotations": None, **changes}
    for row, entry in enumerate(content["images"]):
        entry["id"] = f"000000{row}_02999_d_0000005"
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return root


@pytest.mark.parametrize("changes", [{}, {"annotations": []}, {"categories": None}])
def test_images_without_annotations_give_a_results_file_and_no_score(evaluate, trained, tmp_path, changes):
    root = images_alone(tmp_path / "set", **changes)
    ended = evaluate(f"checkpoint={trained / 'best.ckpt'}", f"data.root={root}", "data.num_workers=0", "output=out")
    assert ended.status == 0, ended.said
    assert "test: nothing to score, since the annotations of the split have no object" in ended.said
    assert re.search(r"found: \d+ boxes on 3 images in \S*out/predictions\.json, COCO's results format", ended.said)
    assert "100" not in re.sub(r"\d+ boxes", "", ended.said)
    assert "AP " not in ended.said
    found = json.loads(Path("out/predictions.json").read_text())
    assert {entry["image_id"] for entry in found} == {f"000000{row}_02999_d_0000005" for row in range(3)}
    assert {entry["category_id"] for entry in found} <= set(CATEGORY_IDS)
    assert {len(entry["bbox"]) for entry in found} == {4}
    assert not Path("out/report.html").exists()


def test_voc_images_without_annotations_give_the_devkits_files(evaluate, trained, tmp_path):
    for name in ("ImageSets/Main", "JPEGImages"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "voc" / "JPEGImages" / "2008_000001.jpg")
    (tmp_path / "voc" / "ImageSets" / "Main" / "test.txt").write_text("2008_000001\n")
    ended = evaluate(
        f"checkpoint={trained / 'best.ckpt'}", "data=voc", "data.root=voc", f"data.classes=[{','.join(CLASSES)}]",
        "data.test_split=test", "data.num_workers=0", "output=out",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    assert "nothing to score" in ended.said
    files = sorted(Path("out").glob("comp4_det_test_*.txt"))
    assert [file.name for file in files] == [f"comp4_det_test_{name}.txt" for name in sorted(CLASSES)]
    lines = [line.split(" ") for file in files for line in file.read_text().splitlines()]
    assert len(lines) == len(json.loads(Path("out/predictions.json").read_text())) > 0
    assert {len(line) for line in lines} == {6}
    for image_id, score, *corners in lines:
        assert image_id == "2008_000001"
        assert 0 < float(score) < 1
        assert 1 <= float(corners[0]) <= 61
        assert 0 <= float(corners[3]) <= 40


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_results_file_of_all_classes_is_scored_on_those_chosen(evaluate, trained, tmp_path, split):
    found = [
        {"image_id": row, "category_id": number, "bbox": [5, 5, 20, 20], "score": 0.9}
        for row in range(2)
        for number in CATEGORY_IDS
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    chosen = [override for override in PATTERNS if "classes" not in override]
    ended = evaluate(
        "predictions=found.json", *chosen, f"data.root={trained / 'first'}", "data.classes=[disc,star]",
        "data.test_split=a", f"split={split}", "output=out",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    assert (
        "6 of its 10 entries are left out, of categories that are not scored (data.classes): 1 (square) 2" in ended.said
    )
    assert json.loads(Path("out/metrics.json").read_text())["per_class"]["disc"]["AP"] == 1


def test_metrics_json_holds_fractions_and_null_where_there_is_nothing_to_find(evaluate, tmp_path):
    """VOC's metrics are undefined for a class without objects, and JSON has no nan."""
    root = tmp_path / "voc"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(root / "JPEGImages" / "0.jpg")
    (root / "Annotations" / "0.xml").write_text(
        "<annotation><filename>0.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>"
        "<object><name>disc</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>25</ymax></bndbox></object>"
        "</annotation>"
    )
    (root / "ImageSets" / "Main" / "test.txt").write_text("0\n")
    (tmp_path / "found.json").write_text(
        json.dumps([{"image_id": "0", "category_id": 1, "bbox": [4, 4, 21, 21], "score": 0.9}])
    )
    ended = evaluate(
        "predictions=found.json", "data=voc", "data.root=voc", f"data.classes=[{','.join(CLASSES)}]",
        "data.val_split=test", "data.test_split=test", "output=out",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    content = json.loads(Path("out/metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["per_class"]["disc"] == {"AP": 1.0, "AP50": 1.0, "AP_voc07": 1.0, "AP_voc": 1.0, "num_objects": 1.0}
    assert content["per_class"]["star"]["AP_voc"] is None
    assert content["scalars"]["mAP_voc"] == 1.0


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        ([], 2, "give either checkpoint=FILE.ckpt or predictions=FILE.json"),
        (["best.ckpt"], 2, "best.ckpt (command line): expected KEY=VALUE"),
        (["checkpoint=none.ckpt", "data.root=x"], 2, "none.ckpt does not exist"),
        (["checkpoint=none.ckpt"], 2, "checkpoint=none.ckpt: no such file"),
        (["checkpoint=BEST", "data.rot=x"], 2, "no such setting; nearest is data.root"),
        (["checkpoint=BEST", "accelerator=gqu"], 2, "accelerator=gqu, devices=1: You selected an invalid"),
        (
            ["checkpoint=BEST", "accelerator=cpu", "devices=0"],
            2,
            "devices=0 (command line, devices=0): expected 1 or more",
        ),
        (["checkpoint=BEST", "data.root=nowhere"], 1, "there is no folder"),
        (["checkpoint=BEST", "data.rule=round"], 2, "data.rule='round'"),
        (
            ["checkpoint=BEST", "data.classes=[cross,star,disc,square,triangle]"],
            2,
            """the 5 classes [cross, star, disc, square, triangle]; give 'data.classes=["disc","square","triangle",""",
        ),
        (
            ["predictions=bad.json", "data=coco", "data.root=FIRST", *PATTERNS[1:]],
            2,
            "predictions: bad.json is not JSON",
        ),
    ],
)
def test_a_refused_command_leaves_no_files(evaluate, trained, tmp_path, overrides, status, message):
    (tmp_path / "bad.json").write_text("{")
    places = {
        "checkpoint=BEST": f"checkpoint={trained / 'best.ckpt'}",
        "data.root=FIRST": f"data.root={trained / 'first'}",
    }
    ended = evaluate(*(places.get(override, override) for override in overrides))
    assert ended.status == status, ended.said
    assert message in ended.said
    assert "Traceback" not in ended.said
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} - {"bad.json"}
    assert left <= {"runs", "runs/evaluate"}


def test_a_folder_with_results_is_unchanged_when_the_next_command_is_refused(evaluate, trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")
    ended = evaluate(f"checkpoint={trained / 'best.ckpt'}", "data.root=nowhere", "output=out")
    assert ended.status == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["metrics.json"]
