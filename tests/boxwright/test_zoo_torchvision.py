"""A file of torchvision's own detector, read by its name, gives torchvision's own detections box for box.

The files are saved from torchvision's builders with seeded random weights, see torchvision_files. torchvision gives the
classes of numbers that COCO never used too, and boxes that clipping left empty; both are left out of its results here,
which keep far more than its cap for that. Where a photo has to be resized, torchvision does so in floats and ours
rounds to 255 levels: there the detections are near, and how near is what the second test holds.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision_files
from PIL import Image
from scripts import Script
from tiers import slow_but
from torch import Tensor

from boxwright.checkpoints.detector import Detector
from boxwright.checkpoints.reading import CheckpointError, read_checkpoint
from boxwright.zoo.catalogue import CATALOGUE
from boxwright.zoo.coco_classes import CATEGORY_IDS, CLASS_NAMES
from boxwright.zoo.contents import NAMES
from detectors.weights import torchvision

SHORT, LONG = 200, 333
"""Random MobileNets make so much of their input that they find other things where its pixels are rounded."""
every_detector = pytest.mark.parametrize(
    "name", slow_but("fcos_resnet50_fpn", of=torchvision_files.BUILDERS.keys()), scope="module"
)


class Found(NamedTuple):
    """Detections of one picture by falling score."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@pytest.fixture(scope="module")
def file(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torchvision_files.write_file(name, tmp_path_factory.mktemp("published") / f"{name}.pth")


@pytest.fixture(scope="module")
def contents(name: str, file: Path) -> dict[str, Any]:
    return read_checkpoint(f"torchvision/{name}={file}")


def uncapped(name: str) -> dict[str, int]:
    return {"box_detections_per_img" if name.startswith("fasterrcnn") else "detections_per_img": 5000}


def small(contents: dict[str, Any]) -> Detector:
    stored = contents["boxwright"]
    data = {**stored["config"]["data"], "resize": SHORT, "max_side": LONG}
    return Detector({**contents, "boxwright": {**stored, "config": {**stored["config"], "data": data}}}, "cpu")


def by_detector(detector: Detector, image: np.ndarray) -> Found:
    found = detector(image)
    return Found(found.boxes[0].float(), found.scores[0].float(), found.labels[0])


def by_torchvision(model: Any, image: np.ndarray, most: int) -> Found:
    with torch.no_grad():
        (found,) = model([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255])
    boxes = found["boxes"]
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & torch.isin(found["labels"], torch.tensor(torchvision.USED))
    labels = torch.tensor([torchvision.USED.index(number) for number in found["labels"][kept].tolist()])
    return Found(boxes[kept][:most], found["scores"][kept][:most], labels[:most])


def shares(ours: Found, theirs: Found, pixels: float, score: float) -> float:
    """Share of their detections that ours has: same class, box and score within these distances."""
    far = (ours.boxes[:, None] - theirs.boxes).abs().amax(dim=2) > pixels
    off = (ours.scores[:, None] - theirs.scores).abs() > score
    return float(((ours.labels[:, None] == theirs.labels) & ~far & ~off).any(dim=0).float().mean())


def photos(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / f"{name}.jpg").convert("RGB")) for name in ("dog", "hot_dog", "giraffe")]


def of_size(image: np.ndarray) -> np.ndarray:
    """The picture in a size that needs no resizing, and whose canvas no stride of P6 and P7 divides."""
    factor = SHORT / min(image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((int(image.shape[1] * factor), int(image.shape[0] * factor))))


@every_detector
def test_detections_are_torchvisions_own_box_for_box(
    name: str, file: Path, contents: dict[str, Any], shared_data: Path
) -> None:
    detector = small(contents)
    cap = detector.module.decoder.max_detections
    model = torchvision_files.torchvision_detector(name, file, min_size=SHORT, max_size=LONG, **uncapped(name))
    for photo in photos(shared_data / "demo_photos"):
        image = of_size(photo)
        theirs = by_torchvision(model, image, cap)
        ours = by_detector(detector, image)
        if "mobilenet" in name:  # 45 random convolutions in a row make much of the last bits
            assert abs(len(theirs.scores) - len(ours.scores)) <= 2
            assert shares(ours, theirs, pixels=0.5, score=5e-3) >= 0.9
            continue
        assert len(theirs.scores) == len(ours.scores) == cap
        assert len(set(theirs.labels.tolist())) > 2 or name == "fasterrcnn_resnet50_fpn_v2"
        # of boxes whose IoU is at the threshold up to rounding, one more may be suppressed here or there
        assert shares(ours, theirs, pixels=0.02, score=1e-4) >= 1 - 1 / cap
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "name", slow_but("fcos_resnet50_fpn", of=("fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn")), scope="module"
)
def test_resized_photos_differ_by_the_rounding_of_their_pixels(
    name: str, file: Path, contents: dict[str, Any], shared_data: Path
) -> None:
    detector = small(contents)
    cap = detector.module.decoder.max_detections
    model = torchvision_files.torchvision_detector(name, file, min_size=SHORT, max_size=LONG, **uncapped(name))
    for photo in photos(shared_data / "demo_photos"):
        ours = by_detector(detector, photo)
        assert shares(ours, by_torchvision(model, photo, cap), pixels=0.5, score=2e-3) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcos_resnet50_fpn"], scope="module")
def test_predict_at_the_published_size_writes_torchvisions_detections(
    name: str, file: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    predict = Script("predict.py", tmp_path, monkeypatch, capfd)
    folder, pictures = tmp_path / "photos", ("dog.jpg", "giraffe.jpg")
    folder.mkdir()
    for picture in pictures:
        (folder / picture).symlink_to((shared_data / "demo_photos" / picture).resolve())
    ended = predict(
        f"checkpoint=torchvision/{name}={file}", f"source={folder}", "output=found", "draw=false", "score_threshold=0",
    )  # fmt: skip
    assert ended.status == 0, ended.said
    written = json.loads((tmp_path / "found" / "predictions.json").read_text())
    content = written if isinstance(written, list) else written["annotations"]
    names = {image["id"]: image["file_name"] for image in written["images"]}
    model = torchvision_files.torchvision_detector(name, file, **uncapped(name))
    for picture in pictures:
        rows = [row for row in content if names[row["image_id"]] == picture]
        boxes = torch.tensor([row["bbox"] for row in rows])
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([CATEGORY_IDS.index(row["category_id"]) for row in rows])
        ours = Found(boxes, torch.tensor([row["score"] for row in rows]), labels)
        image = np.asarray(Image.open(folder / picture).convert("RGB"))
        assert shares(ours, by_torchvision(model, image, 100), pixels=0.5, score=2e-3) >= 0.95


@every_detector
def test_every_tensor_of_the_file_is_taken(name: str, file: Path, contents: dict[str, Any]) -> None:
    """Numbers are copied as they are; none but those stated are made up, and only unused columns are left out."""
    theirs = torch.load(file, weights_only=True)
    mapped = NAMES[CATALOGUE[f"torchvision/{name}"].names](theirs)
    assert not mapped.left_out
    made_up = {key for key in mapped.state if key.startswith(("backbone.pixel_", "head.scales."))}
    if name.endswith("_v2"):
        made_up |= {key for key in mapped.state if re.fullmatch(r"head\.\w+_tower\.(0|3|6|9)\.bias", key)}
    assert len(mapped.state) - len(made_up) == len(theirs)

    def numbers(state: dict[str, Tensor], of_classes: tuple[str, ...]) -> list[tuple[int, float]]:
        others = [value for key, value in state.items() if key not in made_up and not key.startswith(of_classes)]
        return sorted((value.numel(), float(value.double().sum())) for value in others)

    of_classes = ("head.classification_head.cls_logits.", "roi_heads.box_predictor.")
    assert numbers(mapped.state, ("head.logits.", "logits.", "deltas.")) == numbers(theirs, of_classes)
    counters = {key for key in contents["state_dict"] if key.endswith("num_batches_tracked")}
    assert bool(counters) == name.endswith("_v2")


def test_our_classes_are_cocos_in_the_order_of_torchvisions_numbers() -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    assert [_COCO_CATEGORIES[number] for number in CATEGORY_IDS] == list(CLASS_NAMES)
    assert torchvision.USED == CATEGORY_IDS
    assert {_COCO_CATEGORIES[number] for number in torchvision.UNUSED} == {"__background__", "N/A"}


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of before torchvision 0.12."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if "fpn.inner_blocks" in key or "fpn.layer_blocks" in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_head.conv." in key:
            before, _, rest = key.partition("_head.conv.")
            place, _, kind = rest.split(".")
            key = f"{before}_head.conv.{2 * int(place)}.{kind}"
        renamed[key] = value
    return renamed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"], scope="module")
def test_older_names_mean_the_same(name: str, file: Path, contents: dict[str, Any], tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({k: v for k, v in old_names(state).items() if "num_batches" not in k}, tmp_path / "old.pth")
    old = read_checkpoint(f"torchvision/{name}={tmp_path / 'old.pth'}")
    assert old["state_dict"].keys() == contents["state_dict"].keys()
    assert all(torch.equal(value, old["state_dict"][key]) for key, value in contents["state_dict"].items())


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn"], scope="module")
def test_a_file_of_another_model_is_refused_by_name(name: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"can't be used as torchvision/retinanet_resnet50_fpn: .*bbox_ctrness"):
        read_checkpoint(f"torchvision/retinanet_resnet50_fpn={file}")
    state = torch.load(file, weights_only=True)
    del state["head.regression_head.bbox_reg.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors are missing: network\.head\.distances\.bias"):
        read_checkpoint(f"torchvision/{name}={tmp_path / 'cut.pth'}")


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn"], scope="module")
def test_the_published_score_is_stored_under_a_name_of_its_own(name: str, contents: dict[str, Any]) -> None:
    stored = contents["boxwright"]
    assert stored["metrics"] == {"published/AP": pytest.approx(0.392)}
    assert not stored["thresholds"]
    assert stored["published"]["name"] == f"torchvision/{name}"
